"""Phantom cohorts: synthetic images for the bundles' default runs, drawn from random numbers and written as real files.

There is one cohort per modality, with the classes of the paper's data set of that modality. The phantoms imitate no
patient: a model trained on them knows phantoms and nothing else. `cohort.SPLIT` holds the number of studies.
"""

from monai_rd.phantoms.cohort import MODALITIES, is_phantom, phantom_cohort, phantom_pool

__all__ = ["MODALITIES", "is_phantom", "phantom_cohort", "phantom_pool"]
