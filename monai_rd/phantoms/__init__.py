"""Phantom cohorts: the data of the bundles' embedded default runs, drawn from random numbers and written as real files.

One cohort a modality, with the classes of the paper's data set of that modality. No patient is imitated: a model
trained here knows phantoms and nothing else. How many studies a cohort has says `cohort.SPLIT`, for all modalities.
"""

from monai_rd.phantoms.cohort import MODALITIES, is_phantom, phantom_cohort, phantom_pool

__all__ = ["MODALITIES", "is_phantom", "phantom_cohort", "phantom_pool"]
