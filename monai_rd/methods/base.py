"""What every distillation method is to the co-training handler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_rd.networks import FrozenFoundationModel, Level, Reads, Student, StudentFeatures, TeacherFeatures
from monai_rd.no_label import unlabelled_items
from monai_rd.processes import world_size

__all__ = [
    "Method",
    "PathOutput",
    "Step",
    "distributed",
    "gather_batch",
    "linear",
    "parameter_groups",
    "trainable_parameters",
    "unwrapped",
]


class Step(NamedTuple):
    """One training step, as a method sees it.

    Attributes:
        student: what the student made of the batch.
        teacher: what the teacher made of it; None for a method that needs none.
        network: the student itself, bare; its `classifier` is g.
        target: class indices `[B]`, or of mixed items the shares of the classes `[B, classes]`; multi-label 0 to 1 for
            each class, `[B, classes]`. Of unlabelled items `NO_LABEL`.
        indices: of the items in the training list `[B]`; None where the data set does not tell them.
    """

    student: StudentFeatures
    teacher: TeacherFeatures | None
    network: Student
    target: Tensor
    indices: Tensor | None = None

    @property
    def teacher_features(self) -> TeacherFeatures:
        """What the teacher made of the batch, for a method that needs one."""
        assert self.teacher is not None
        return self.teacher

    @property
    def unlabelled(self) -> Tensor:
        """Which items have no label, bool `[B]`."""
        return unlabelled_items(self.target)


class PathOutput(NamedTuple):
    """What a method's teacher path made of a batch, without a graph, beside the student's features.

    Attributes:
        features: f_t `[B, D]`.
        logits: z_t `[B, classes]`.
        student: f_s `[B, D]`.
    """

    features: Tensor
    logits: Tensor
    student: Tensor


class Method(nn.Module, ABC):
    """Gives named loss terms beside the student's own cross entropy, and owns whatever it trains for them.

    All methods are made alike, `Name(student, teacher, labels, option=...)`: the keyword-only arguments of a method are
    its options, what a user may set by `--method_options`. A method keeps neither network: whatever needs the student
    is handed it, and what the teacher makes of a batch comes with the `Step`.

    Args:
        student: the network to train, as it is before `prepare`.
        teacher: the frozen teacher; None only for a method that needs none.
        labels: of the training list: class indices `[n]`, multi-label rows of 0 and 1 `[n, classes]`.

    Attributes:
        needs_teacher: whether there must be a teacher.
        needs_logits: whether the teacher must have been fitted to the task, so that it gives logits.
        always_trains_student: whether the student learns in every epoch, so that an epoch of labels alone is not lost.
        in_stages: whether some epochs leave out a part of what the method trains; see `start_epoch` and
            `frozen_parameters`.
        takes_unlabelled: whether it makes use of items without a label.
        needs_unlabelled: whether it is nothing without them.
        takes_mixed: whether an item of a batch may be a mixture of two, see `CutMixHandler`.
        reads: what `forward` wants of the teacher; nothing unless the constructor says what.
        student_levels: the student's maps that `forward` wants, in this order; likewise.
        constant_weights: what `weights` gives in all epochs; likewise.
        multi_label: whether an image may have any number of the classes.
        spatial_dims: 2 for a student of images or bags of slices, 3 for one of volumes.
        path_output: what the teacher path made of the last batch, for who watches it, and None once that was taken.
    """

    needs_teacher: bool = True
    needs_logits: bool = False
    always_trains_student: bool = True
    in_stages: bool = False
    takes_unlabelled: bool = True
    needs_unlabelled: bool = False
    takes_mixed: bool = True

    reads: Reads = Reads()
    student_levels: tuple[Level, ...] = ()
    constant_weights: Mapping[str, float] = MappingProxyType({})
    path_output: PathOutput | None = None

    def __init__(self, student: Student, teacher: FrozenFoundationModel | None, labels: Tensor) -> None:
        super().__init__()
        self.multi_label, self.spatial_dims = labels.dim() == 2, student.spatial_dims

    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each loss term at `progress`, from 0 in the first epoch to 1 in the last; `constant_weights`.

        The trainer's own term, the student's cross entropy, may be among them as `student_ce`; else its weight is 1.
        """
        return dict(self.constant_weights)

    @abstractmethod
    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute the unweighted loss terms of one batch: scalars by name, with the names of `weights`."""

    def start_epoch(self, progress: float, student: Student) -> None:
        """Change what another epoch needs, before its first step and nowhere else; most methods change nothing."""

    def frozen_parameters(self, student: Student) -> list[nn.Parameter]:
        """Those parameters, its own and the student's, that this epoch does not teach, so that no optimizer moves them.

        Nothing but a gradient that is None keeps momentum and weight decay away from a parameter.
        """
        return []

    def teacher_path(self, student: Student) -> nn.Module | None:
        """From the teacher's tap to logits of the task, of a method that has such a path; else None."""
        return None

    def keep_path(self, step: Step, f_t: Tensor, z_t: Tensor) -> None:
        """Keep what the teacher path made of this step; a method that has such a path calls it in `forward`."""
        made = (one.detach().as_subclass(Tensor) for one in (f_t, z_t, step.student.pooled))
        self.path_output = PathOutput(*made)

    def take_path(self) -> PathOutput | None:
        """What was kept since it was last taken; None where the step had no teacher, or the method has no path."""
        made, self.path_output = self.path_output, None
        return made

    def prepare(self, student: Student) -> Student:
        """Change the student, in place, as it has to be while it is trained; most methods leave it alone."""
        return student

    def deployable(self, student: Student) -> dict[str, Tensor]:
        """The state dict of the student as it is deployed, without what `prepare` put in."""
        return student.state_dict()

    def no_weight_decay(self) -> list[nn.Parameter]:
        """Those of the method's parameters that no weight decay may pull at."""
        return []


def linear(ends: tuple[float, float], progress: float) -> float:
    """What a weight of this first and last value has come to at `progress`."""
    first, last = ends
    return first + (last - first) * progress


def trainable_parameters(network: nn.Module, method: nn.Module) -> list[nn.Parameter]:
    """All parameters that one optimizer trains: the student's with its classifier, then the method's own."""
    return [parameter for module in (network, method) for parameter in module.parameters() if parameter.requires_grad]


def parameter_groups(network: nn.Module, method: nn.Module) -> list[dict[str, Any]]:
    """`trainable_parameters` as an optimizer's groups: those that decay, then those that must not, if there are any."""
    bare: Any = unwrapped(method)
    kept = {id(parameter) for parameter in bare.no_weight_decay()}
    every = trainable_parameters(network, method)
    groups: list[dict[str, Any]] = [{"params": [parameter for parameter in every if id(parameter) not in kept]}]
    if kept:
        groups.append({"params": [parameter for parameter in every if id(parameter) in kept], "weight_decay": 0.0})
    return groups


def unwrapped(module: nn.Module) -> nn.Module:
    """The module itself, without the wrapper of DistributedDataParallel."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def distributed(module: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a module in DistributedDataParallel; one that trains nothing, which DDP refuses, is returned as it is."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    return nn.parallel.DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=isinstance(module, Method) and module.in_stages,
    )


def gather_batch(features: Tensor) -> Tensor:
    """Features of the global batch `[ranks * B, ...]` with gradient, or `features` itself in a single process.

    Every rank then computes the same loss of the whole batch. The backward pass sums the ranks' gradients, which DDP's
    averaging turns into the gradient of that one loss. All ranks must hold the same B (drop_last).
    """
    if world_size() == 1:
        return features
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(features)))
