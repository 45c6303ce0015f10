"""Base class of the distillation methods: the interface that the co-training handler uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_rd.losses import ClassificationLoss, KLDistillationLoss
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
    """The data of one training step that a method computes its loss terms from.

    Attributes:
        student: the student's features and logits for the batch.
        teacher: the teacher's features for the batch; None for a method that needs no teacher.
        network: the student itself, without a DDP wrapper; its `classifier` is g.
        target: class indices `[B]`, or for mixed items the shares of the classes `[B, classes]`; for multi-label data
            values from 0 to 1, `[B, classes]`. Unlabelled items have `NO_LABEL` (-100).
        indices: indices of the items in the training list `[B]`; None if the data set does not provide them.
        criterion: from logits and target to a scalar: the trainer's own loss, which a method uses for every other
            logits that learn the labels, so that they all learn them alike.

    Example:
        >>> import torch
        >>> from monai_rd.methods import Step
        >>> from monai_rd.networks import Student, StudentFeatures
        >>> student, image = Student("resnet18", num_classes=2), torch.rand(4, 3, 64, 64)
        >>> pooled = student.features(image)
        >>> features = StudentFeatures(image, pooled, student.classifier(pooled), maps=())
        >>> Step(features, None, student, target=torch.tensor([0, 1, 1, -100])).unlabelled
        tensor([False, False, False,  True])
    """

    student: StudentFeatures
    teacher: TeacherFeatures | None
    network: Student
    target: Tensor
    indices: Tensor | None = None
    criterion: Callable[[Tensor, Tensor], Tensor] = ClassificationLoss()

    @property
    def teacher_features(self) -> TeacherFeatures:
        """The teacher's features for the batch, for a method that needs a teacher."""
        assert self.teacher is not None
        return self.teacher

    def mean_criterion(self, logits: Tensor) -> Tensor:
        """Return the mean of the criterion over several networks' logits `[networks, B, classes]` of the batch."""
        return torch.stack([self.criterion(one, self.target) for one in logits]).mean()

    @property
    def unlabelled(self) -> Tensor:
        """Mask of the items without a label, bool `[B]`."""
        return unlabelled_items(self.target)


class PathOutput(NamedTuple):
    """Detached output of a method's teacher path for one batch, with the student's features.

    Attributes:
        features: f_t `[B, D]`.
        logits: z_t `[B, classes]`.
        student: f_s `[B, D]`.
    """

    features: Tensor
    logits: Tensor
    student: Tensor


class Method(nn.Module, ABC):
    """Base class of a distillation method: named loss terms added to the student's cross entropy, with their modules.

    Every method has the constructor `Name(student, teacher, labels, option=...)`. Its keyword-only arguments are its
    options, which users set with `--method_options`. A method does not keep the student or the teacher: methods that
    need the student get it as an argument, and the teacher's features come with the `Step`.

    Args:
        student: the network to train, as it is before `prepare`.
        teacher: the frozen teacher; None only for a method that needs none.
        labels: the labels of the training list: class indices `[n]`, or multi-label rows of 0 and 1 `[n, classes]`.

    Attributes:
        needs_teacher: a teacher is required.
        needs_logits: the teacher must have been fitted to the task, so that it gives logits.
        always_trains_student: the student is trained in every epoch, so an epoch with labels alone is useful.
        in_stages: some epochs do not train all parts of the method; see `start_epoch` and `frozen_parameters`.
        takes_unlabelled: items without a label are used.
        needs_unlabelled: unlabelled items are required.
        takes_mixed: an item of a batch may be a mixture of two, see `CutMixHandler`.
        unlabelled_options: options whose default is another one if there are unlabelled images.
        reads: the teacher's features that `forward` uses; set in the constructor, default none.
        student_levels: the student's maps that `forward` uses, in this order; set in the constructor, default none.
        constant_weights: the weights that `weights` returns in all epochs; set in the constructor, default none.
        multi_label: an image may have any number of the classes.
        spatial_dims: 2 for a student of images or bags of slices, 3 for a student of volumes.
        path_output: the teacher path's output for the last batch, for monitoring; None after `take_path`.

    Example:
        A method with one term, which keeps the student's logits small.

        >>> import torch
        >>> from monai_rd.methods import Method
        >>> from monai_rd.networks import Student
        >>> class SmallLogits(Method):
        ...     needs_teacher, constant_weights = False, {"small": 0.1}
        ...     def forward(self, step):
        ...         return {"small": step.student.logits.square().mean()}
        >>> method = SmallLogits(Student("resnet18", num_classes=2), None, torch.tensor([0, 1]))
        >>> method.weights(progress=0.0)
        {'small': 0.1}
    """

    needs_teacher: bool = True
    needs_logits: bool = False
    always_trains_student: bool = True
    in_stages: bool = False
    takes_unlabelled: bool = True
    needs_unlabelled: bool = False
    takes_mixed: bool = True
    unlabelled_options: Mapping[str, Any] = MappingProxyType({})

    reads: Reads = Reads()
    student_levels: tuple[Level, ...] = ()
    constant_weights: Mapping[str, float] = MappingProxyType({})
    path_output: PathOutput | None = None

    def __init__(self, student: Student, teacher: FrozenFoundationModel | None, labels: Tensor) -> None:
        super().__init__()
        self.multi_label, self.spatial_dims = labels.dim() == 2, student.spatial_dims

    def weights(self, progress: float) -> dict[str, float]:
        """Return the weight of each loss term; by default `constant_weights`.

        The trainer's own term, the student's cross entropy, may be included as `student_ce`; otherwise its weight is 1.

        Args:
            progress: 0 in the first epoch to 1 in the last.
        """
        return dict(self.constant_weights)

    @abstractmethod
    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the unweighted loss terms of one batch: scalar tensors, with the same names as in `weights`."""

    def start_epoch(self, progress: float, student: Student) -> None:
        """Update the method or the student at the start of an epoch; by default nothing changes."""

    def frozen_parameters(self, student: Student) -> list[nn.Parameter]:
        """Return the parameters, of the method and of the student, that must not change in this epoch.

        Their gradients are set to None before the optimizer's step, because only then neither momentum nor weight decay
        changes a parameter.
        """
        return []

    def teacher_path(self, student: Student) -> nn.Module | None:
        """Return the module from the teacher's tap to the task's logits; None if the method has no such path."""
        return None

    def calibrate(self, temperature: float) -> None:
        """Set the temperature that calibrates the teacher path's logits, for the KL terms that use it.

        It is called after each epoch with validation, with the same value in all processes.
        """
        for part in self.modules():
            if isinstance(part, KLDistillationLoss) and part.calibrated:
                part.teacher_temperature.fill_(temperature)

    def keep_path(self, step: Step, f_t: Tensor, z_t: Tensor) -> None:
        """Store the teacher path's output of this step; a method with a teacher path calls this in `forward`."""
        made = (one.detach().as_subclass(Tensor) for one in (f_t, z_t, step.student.pooled))
        self.path_output = PathOutput(*made)

    def take_path(self) -> PathOutput | None:
        """Return the stored output and clear it; None if the step had no teacher or the method has no teacher path."""
        made, self.path_output = self.path_output, None
        return made

    def prepare(self, student: Student) -> Student:
        """Modify the student in place for the training and return it; by default nothing changes."""
        return student

    def deployable(self, student: Student) -> dict[str, Tensor]:
        """Return the state dict of the deployed student, without the modules that `prepare` added."""
        return student.state_dict()

    def no_weight_decay(self) -> list[nn.Parameter]:
        """Return the method's parameters that are excluded from weight decay."""
        return []


def linear(ends: tuple[float, float], progress: float) -> float:
    """Interpolate linearly between the first and the last value; `progress` is 0 to 1."""
    first, last = ends
    return first + (last - first) * progress


def trainable_parameters(network: nn.Module, method: nn.Module) -> list[nn.Parameter]:
    """Return all trainable parameters for one optimizer: the student's with its classifier, then the method's."""
    return [parameter for module in (network, method) for parameter in module.parameters() if parameter.requires_grad]


def parameter_groups(network: nn.Module, method: nn.Module) -> list[dict[str, Any]]:
    """Return `trainable_parameters` as optimizer groups: with weight decay, then (if any) without weight decay."""
    bare: Any = unwrapped(method)
    kept = {id(parameter) for parameter in bare.no_weight_decay()}
    every = trainable_parameters(network, method)
    groups: list[dict[str, Any]] = [{"params": [parameter for parameter in every if id(parameter) not in kept]}]
    if kept:
        groups.append({"params": [parameter for parameter in every if id(parameter) in kept], "weight_decay": 0.0})
    return groups


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module without its DistributedDataParallel wrapper, if it has one."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def distributed(module: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a module in DistributedDataParallel; return it unchanged if it has no trainable parameters (DDP fails)."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    return nn.parallel.DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=isinstance(module, Method) and module.in_stages,
    )


def gather_batch(features: Tensor) -> Tensor:
    """Gather features of all processes, with gradient; in a single process return `features` itself.

    Every rank then computes the same loss of the whole batch. The backward pass sums the ranks' gradients, which DDP's
    averaging turns into the gradient of that one loss. All ranks must have the same B (drop_last).

    Args:
        features: of this process's batch `[B, ...]`.

    Returns:
        Features of the global batch `[ranks * B, ...]`.
    """
    if world_size() == 1:
        return features
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(features)))
