"""Parameter-free losses, one equation a file."""

from monai_rd.losses.cka import CKALoss, cka
from monai_rd.losses.kl import KLDistillationLoss

__all__ = ["CKALoss", "KLDistillationLoss", "cka"]
