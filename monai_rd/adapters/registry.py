"""Adapters by name. A new one is a new file and a line here."""

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
    """Put an adapter into a teacher; the teacher itself stays as it is.

    Args:
        name: one of `ADAPTERS`.
        teacher: the frozen teacher.
        num_classes: of the task.
        **options: of the adapter, as its `fit` describes them.

    Raises:
        ValueError: an unknown name or option, or a teacher that the adapter does not fit.
    """
    if name not in ADAPTERS:
        raise ValueError(f"unknown adapter '{name}'; known: {', '.join(ADAPTERS)}{did_you_mean(name, ADAPTERS)}")
    if isinstance(teacher.backbone, SeveralTeachers) and name != "linear_probe":
        raise ValueError(f"the adapter '{name}' changes one teacher, not several ({teacher.name}): use linear_probe")
    return AdaptedTeacher(teacher, ADAPTERS[name], num_classes, options)
