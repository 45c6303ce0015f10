"""Networks of published teachers that no library has, written from their authors' papers and code."""

from __future__ import annotations

from monai_rd.networks.teacher.zoo.architectures.i3resnet import I3ResNet
from monai_rd.networks.teacher.zoo.architectures.residual_encoder import ResidualEncoder
from monai_rd.networks.teacher.zoo.architectures.rotary_vit import RotaryViT

__all__ = ["I3ResNet", "ResidualEncoder", "RotaryViT"]
