"""Distillation methods, one per file; each owns its trainable modules. A new one is a file and a line in `METHODS`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

import torch

from monai_rd.keyword_options import check_options
from monai_rd.methods.at import AttentionTransfer
from monai_rd.methods.base import Method, Step, distributed, gather_batch, parameter_groups, trainable_parameters
from monai_rd.methods.ce import CrossEntropyAlone
from monai_rd.methods.crd import ContrastiveDistillation
from monai_rd.methods.drd import DeepReprogrammingDistillation
from monai_rd.methods.hint import Hint
from monai_rd.methods.kd import KnowledgeDistillation
from monai_rd.methods.maps import shrink_to_common
from monai_rd.methods.mgd import MaskedGenerativeDistillation
from monai_rd.methods.norm import NToOneMatching
from monai_rd.methods.pseudo import PseudoLabels
from monai_rd.methods.rd import ReprogrammingDistillation
from monai_rd.methods.rkd import RelationalDistillation
from monai_rd.methods.semckd import SemanticCalibration
from monai_rd.methods.sp import SimilarityPreserving
from monai_rd.methods.two_stages import TwoStages
from monai_rd.methods.vid import VariationalInformationDistillation
from monai_rd.nearest import did_you_mean
from monai_rd.networks import FrozenFoundationModel, Student

__all__ = [
    "METHODS",
    "Method",
    "Step",
    "build_method",
    "distributed",
    "gather_batch",
    "method_class",
    "options_in_effect",
    "parameter_groups",
    "shrink_to_common",
    "trainable_parameters",
]

logger = logging.getLogger(__name__)

METHODS: dict[str, type[Method]] = {
    "rd": ReprogrammingDistillation,
    "two_stages": TwoStages,
    "ce": CrossEntropyAlone,
    "kd": KnowledgeDistillation,
    "pseudo": PseudoLabels,
    "hint": Hint,
    "at": AttentionTransfer,
    "vid": VariationalInformationDistillation,
    "sp": SimilarityPreserving,
    "rkd": RelationalDistillation,
    "semckd": SemanticCalibration,
    "crd": ContrastiveDistillation,
    "mgd": MaskedGenerativeDistillation,
    "norm": NToOneMatching,
    "drd": DeepReprogrammingDistillation,
}

_READS = {2: "images or slices", 3: "volumes"}


def method_class(name: str) -> type[Method]:
    """Look up a method class by its name in `METHODS`, or by the import path of a class, such as "file.Class".

    Raises:
        ValueError: the name is unknown, or the path is not a `Method` subclass that can be imported.
    """
    if name in METHODS:
        return METHODS[name]
    file, _, own = name.rpartition(".")
    if not file:
        raise ValueError(f"unknown method '{name}'; known: {', '.join(METHODS)}{did_you_mean(name, METHODS)}")
    try:
        found = getattr(import_module(file), own)
    except (ImportError, AttributeError) as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{file}.".startswith(f"{error.name}.")
        where = "; is its file in this folder or on PYTHONPATH?" if missing else ""
        raise ValueError(f"no method '{name}': {error}{where}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ValueError(f"'{name}' is no method: derive its class from monai_rd.methods.Method")
    return found


def options_in_effect(name: str, options: Mapping[str, Any] | None, unlabelled: int | None = 0) -> dict[str, Any]:
    """Return the options that the method `name` is made with: those given, and its `unlabelled_options`.

    Args:
        name: as of `build_method`.
        options: those given.
        unlabelled: number of unlabelled images to train with.
    """
    return {**(method_class(name).unlabelled_options if unlabelled else {}), **(options or {})}


def build_method(
    name: str,
    student: Student,
    teacher: FrozenFoundationModel | None,
    labels: Sequence[Any],
    options: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    unlabelled: int | None = 0,
) -> Method:
    """Build the method `name` for this student and teacher.

    Args:
        name: one of `METHODS`, or the import path of a class, see `method_class`.
        student: the network to train.
        teacher: the frozen teacher; None only for a method that needs none.
        labels: the labels of the training list: class indices, or for multi-label data rows of 0.0 and 1.0.
        options: the method's own keyword arguments; those that are missing have the method's defaults, with unlabelled
            images its `unlabelled_options`.
        batch_size: number of items per training batch (in one process); passed on if the method has such an option.
        unlabelled: number of unlabelled images to train with; None if nothing is trained.

    Raises:
        ValueError: the name or an option is unknown; an option's value is of a wrong type; the method needs a teacher,
            a teacher with logits or unlabelled images and there are none; or only one of teacher and student takes
            volumes.
    """
    found = method_class(name)
    if found.needs_teacher and teacher is None:
        raise ValueError(f"the method '{name}' needs a teacher: give --teacher NAME or FILE, or use --method ce")
    if teacher is not None and found.needs_teacher:
        if teacher.spatial_dims != student.spatial_dims:
            raise ValueError(
                f"the teacher '{teacher.name}' reads {_READS[teacher.spatial_dims]}, the student "
                f"{_READS[student.spatial_dims]}: choose another --student (`monai-rd students` lists both kinds) or "
                "--teacher"
            )
        if found.needs_logits and teacher.head is None:
            raise ValueError(
                f"the method '{name}' needs a teacher that gives logits, which '{teacher.name}' does not: fit it to "
                "the task with --adapter NAME, of which linear_probe is the cheapest"
            )
    if found.needs_unlabelled and unlabelled == 0:
        raise ValueError(f"the method '{name}' learns from unlabelled images: give --unlabelled DIR, or use kd or ce")
    if unlabelled and not found.takes_unlabelled:
        logger.info("the method '%s' needs every item's label: %d unlabelled images are not used", name, unlabelled)
    known = [key for key, one in signature(found).parameters.items() if one.kind == one.KEYWORD_ONLY]
    check_options(f"the method '{name}'", found.__init__, known, options or {})
    chosen = options_in_effect(name, options, unlabelled)
    passed_on = {"batch_size": batch_size} if "batch_size" in known and batch_size is not None else {}
    return found(student, teacher, torch.as_tensor(labels), **passed_on | chosen)
