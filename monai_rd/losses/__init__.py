"""Parameter-free losses, one equation a file."""

from monai_rd.losses.cka import CKALoss, cka
from monai_rd.losses.classification import ClassificationLoss, class_probabilities
from monai_rd.losses.kl import KLDistillationLoss

__all__ = ["CKALoss", "ClassificationLoss", "KLDistillationLoss", "cka", "class_probabilities"]
