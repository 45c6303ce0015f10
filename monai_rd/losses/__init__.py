"""Parameter-free losses, one equation per file."""

from monai_rd.losses.attention import attention_loss
from monai_rd.losses.cka import CKALoss, Estimator, cka
from monai_rd.losses.classification import ClassificationLoss, class_probabilities
from monai_rd.losses.kl import KLDistillationLoss
from monai_rd.losses.relational import angle_loss, distance_loss
from monai_rd.losses.similarity import similarity_loss

__all__ = [
    "CKALoss",
    "ClassificationLoss",
    "Estimator",
    "KLDistillationLoss",
    "angle_loss",
    "attention_loss",
    "cka",
    "class_probabilities",
    "distance_loss",
    "similarity_loss",
]
