"""Adapters by name. To add one, write a file and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monai_rd.adapters.adaptformer import ADAPTFORMER
from monai_rd.adapters.base import AdaptedTeacher, Adapter
from monai_rd.adapters.lora import LORA
from monai_rd.adapters.lpt import LPT
from monai_rd.adapters.vpt import VPT_DEEP, VPT_SHALLOW
from monai_rd.adapters.vqt import VQT
from monai_rd.adapters.whole import FULL, LINEAR_PROBE
from monai_rd.nearest import did_you_mean
from monai_rd.networks.teacher.several import SeveralTeachers

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["ADAPTERS", "build_adapter"]

ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter for adapter in (LINEAR_PROBE, FULL, ADAPTFORMER, LORA, VPT_SHALLOW, VPT_DEEP, VQT, LPT)
}


def build_adapter(name: str, teacher: FrozenFoundationModel, num_classes: int, **options: Any) -> AdaptedTeacher:
    """Build a teacher with an adapter and a head; the teacher itself is not changed.

    Args:
        name: one of `ADAPTERS`.
        teacher: the frozen teacher.
        num_classes: number of classes of the task.
        **options: options of the adapter: the keyword arguments of its `fit`.

    Raises:
        ValueError: an unknown name or option, or a teacher that the adapter does not support.
    """
    if name not in ADAPTERS:
        raise ValueError(f"unknown adapter '{name}'; known: {', '.join(ADAPTERS)}{did_you_mean(name, ADAPTERS)}")
    if isinstance(teacher.backbone, SeveralTeachers) and name != "linear_probe":
        raise ValueError(f"the adapter '{name}' changes one teacher, not several ({teacher.name}): use linear_probe")
    return AdaptedTeacher(teacher, ADAPTERS[name], num_classes, options)
