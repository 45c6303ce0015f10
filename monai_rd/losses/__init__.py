"""Parameter-free losses, one equation per file, the choice of the supervised one, and temperature scaling."""

from monai_rd.losses.attention import attention_loss
from monai_rd.losses.auc_margin import AUCMarginLoss
from monai_rd.losses.cka import CKALoss, Estimator, cka
from monai_rd.losses.classification import ClassificationLoss, class_probabilities
from monai_rd.losses.criterion import build_criterion
from monai_rd.losses.focal import FocalClassificationLoss
from monai_rd.losses.kl import KLDistillationLoss
from monai_rd.losses.relational import angle_loss, distance_loss
from monai_rd.losses.similarity import similarity_loss

__all__ = [
    "AUCMarginLoss",
    "CKALoss",
    "ClassificationLoss",
    "Estimator",
    "FocalClassificationLoss",
    "KLDistillationLoss",
    "angle_loss",
    "attention_loss",
    "build_criterion",
    "cka",
    "class_probabilities",
    "distance_loss",
    "similarity_loss",
]
