"""The cost of students: parameters, multiply-accumulates, and latency measured on this machine's CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from monai_rd.networks.student.students import STUDENTS, Student, student_dims

__all__ = ["FOR_IMAGES", "FOR_VOLUMES", "StudentCost", "count_macs", "measure_students", "student_table"]

_TIMM = (
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium",
    "efficientnet_b0",
    "efficientvit_b0",
    "regnety_004",
    "fastvit_t8",
    "repvit_m0_9",
    "mobileone_s0",
    "convnextv2_atto",
    "tiny_vit_5m_224",
    "deit_tiny_patch16_224",
)
# For images the paper's three and current small networks; and the students for volumes.
FOR_IMAGES = (*(name for name in STUDENTS if student_dims(name) == 2), *(f"timm:{name}" for name in _TIMM))
FOR_VOLUMES = tuple(name for name in STUDENTS if student_dims(name) == 3)

_VOLUME = (96, 96, 96)
_FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class StudentCost:
    """The cost of one student with 2 classes in its deployed form (see `Student.deployed`), for one image or volume.

    Args:
        name: see `Student`.
        size: spatial size of the input, in pixels or voxels.
        feature_dim: D.
        parameters: number of parameters.
        macs: multiply-accumulates of convolutions and matrix products.
        milliseconds: time of one forward pass, in each round.
    """

    name: str
    size: tuple[int, ...]
    feature_dim: int
    parameters: int
    macs: int
    milliseconds: tuple[float, ...]


def count_macs(network: nn.Module, image: Tensor) -> int:
    """Count the multiply-accumulates of convolutions and matrix products (also in attention) in one forward pass.

    Nothing is computed: the network and the image are copied to PyTorch's meta device. Normalisation, activations and
    pooling are not counted.
    """
    shadow = deepcopy(network).to("meta").eval()
    # Fused attention is one operation, which older counters do not count on every device.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shadow(image.to("meta"))
    return counter.get_total_flops() // 2


def _input(student: Student, image_size: int) -> Tensor:
    if student.spatial_dims == 3:
        return torch.rand(1, 1, *_VOLUME)
    return torch.rand(1, 3, *(student.fixed_size or (image_size, image_size)))


@torch.inference_mode()
def measure_students(
    names: Sequence[str],
    image_size: int = 224,
    seconds: float = 15,
    progress: Callable[[str], None] = lambda _: None,
) -> list[StudentCost]:
    """Measure the cost of students.

    Each round times every student once, so that a short load on the machine does not affect one student only. Before
    each timed pass, an untimed one brings the network's weights into the CPU caches.

    Args:
        names: see `Student`.
        image_size: rows and columns in pixels for 2D students, except those with a fixed size. Volumes have
            96 x 96 x 96 voxels.
        seconds: duration of the measurement; at least three rounds are measured.
        progress: called with a message before each step.

    Returns:
        The costs, in the order of `names`.

    Raises:
        ValueError: an unknown name, or a size that a student cannot take.
    """
    for name in names:
        student_dims(name)  # refuses unknown names before any work
    students, images, macs = [], [], []
    for name in names:
        progress(f"building {name}")
        student = Student(name).deployed()
        image = _input(student, image_size)
        students.append(student)
        images.append(image)
        macs.append(count_macs(student, image))
    times: list[list[float]] = [[] for _ in names]
    end = perf_counter() + seconds
    while len(times[0]) < _FEWEST_ROUNDS or perf_counter() < end:
        for student, image, passes in zip(students, images, times, strict=True):
            progress(f"round {len(passes) + 1}: {student.name}")
            student(image)
            start = perf_counter()
            student(image)
            passes.append(1000 * (perf_counter() - start))
    return [
        StudentCost(
            name=student.name,
            size=tuple(image.shape[2:]),
            feature_dim=student.feature_dim,
            parameters=sum(parameter.numel() for parameter in student.parameters()),
            macs=count,
            milliseconds=tuple(passes),
        )
        for student, image, count, passes in zip(students, images, macs, times, strict=True)
    ]


def student_table(costs: Sequence[StudentCost]) -> Table:
    """Return the table that `monai-rd students` prints."""
    threads, rounds = torch.get_num_threads(), len(costs[0].milliseconds)
    table = Table(
        title="Students, deployed form, 2 classes",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="GMACs count convolutions and matrix products. CPU: batch of 1, float32, median over interleaved "
        f"rounds, n = {rounds}, {threads} thread{'' if threads == 1 else 's'}.",
        caption_justify="left",
    )
    table.add_column("student", no_wrap=True)
    for name in ("input", "params M", "GMACs", "width D", "CPU ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for cost in costs:
        table.add_row(
            cost.name,
            "x".join(map(str, cost.size)),
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.macs / 1e9:.3f}",
            str(cost.feature_dim),
            f"{median(cost.milliseconds):.1f}",
        )
    return table
