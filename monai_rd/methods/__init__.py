"""Distillation methods, one a file; each owns its trainable parts. A new method is a new file and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monai_rd.methods.base import Method, trainable_parameters
from monai_rd.methods.ce import CrossEntropyAlone
from monai_rd.methods.rd import ReprogrammingDistillation

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = [
    "METHODS",
    "CrossEntropyAlone",
    "Method",
    "ReprogrammingDistillation",
    "build_method",
    "method_class",
    "trainable_parameters",
]

METHODS: dict[str, type[Method]] = {"rd": ReprogrammingDistillation, "ce": CrossEntropyAlone}


def method_class(name: str) -> type[Method]:
    """Find a method by name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method '{name}'; known: {', '.join(METHODS)}")
    return METHODS[name]


def build_method(
    name: str,
    student: Student,
    teacher: FrozenFoundationModel | None,
    multi_label: bool = False,
    **options: Any,
) -> Method:
    """Build the method `name` for this student and teacher.

    Args:
        name: one of `METHODS`.
        student: the network to train.
        teacher: the frozen teacher; None only for a method that needs none.
        multi_label: an image may have any number of the classes.
        options: the method's own keyword arguments.

    Raises:
        ValueError: an unknown name, or no teacher where the method needs one.
    """
    return method_class(name).build(student, teacher, multi_label, **options)
