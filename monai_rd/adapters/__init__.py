"""Fitting a teacher to the task before distillation: parameter-efficient adapters, linear probe, full fine-tuning."""

from monai_rd.adapters.base import AdaptedTeacher, Adapter, Recipe
from monai_rd.adapters.cross_fit import CrossFittedTeacher
from monai_rd.adapters.registry import ADAPTERS, build_adapter
from monai_rd.adapters.standardised import standardise
from monai_rd.adapters.stored import load_adapted, save_adapted
from monai_rd.adapters.tuning import tuned_teacher

__all__ = [
    "ADAPTERS",
    "AdaptedTeacher",
    "Adapter",
    "CrossFittedTeacher",
    "Recipe",
    "build_adapter",
    "load_adapted",
    "save_adapted",
    "standardise",
    "tuned_teacher",
]
