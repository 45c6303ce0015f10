"""A whole training of RD with the store, its filling included, against the same training with the teacher in the loop.

    python benchmarks/whole_training.py --dataset COVID-CT
    python benchmarks/whole_training.py --dataset COVID-CT --float32
    python benchmarks/whole_training.py --dataset COVID-CT --epochs 60 --rounds 60      # nothing extrapolated

Both are the trainer of `rd_ct`'s own train.json with a ViT-B. The filling is measured whole, `--rounds` epochs of both
in turn (with the store the mean of an epoch of its features and one of new views), and counted `--epochs` times;
validation and checkpoints, which are the same, are left out. Below the table stands the ratio that would be reached if
everything but teacher and student cost nothing, from the times of the teacher's forward pass (T) and the student's own
step (3S) in the same run: E (T + 3S) / (K T + E 3S).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from epoch import ours
from parts import random_teacher
from rich.console import Console
from rich.table import Table
from timing import arguments, in_turn, machine, middle

from monai_rd.cache import FeatureExtractor
from monai_rd.handlers import default_amp
from monai_rd.memory import keep_freed_memory
from monai_rd.networks import Reads


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, rounds=3, size=0)  # 0: the bundle's own
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dataset", help="a data set of rd_ct; the phantoms by default")
    parser.add_argument("--students", default="resnet18")
    parser.add_argument("--views", type=int, default=8, help="K")
    parser.add_argument("--epochs", type=int, default=60, help="E")
    parser.add_argument("--float32", action="store_true", help="no mixed precision, which is the bundle's default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    table = Table(
        "student", "fill, s", "epoch, store: s", "epoch, loop: s", "whole, store: min", "whole, loop: min", "ratio"
    )
    ceilings = []
    for student in options.students.split(","):
        with tempfile.TemporaryDirectory() as folder:
            words: dict[str, Any] = {"output_dir": folder, "device": str(options.device)}
            words |= {"dataset_dir": options.dataset} if options.dataset else {}
            words |= {"image_size": options.size} if options.size else {}
            amp = not options.float32 and default_amp(options.device, student)
            words |= {"amp": amp}
            teacher = random_teacher(options.teacher, 224)
            loop = ours(student, {**words, "feature_views": 0}, teacher)
            with timed(FeatureExtractor, "fill") as fills:
                store = ours(student, {**words, "feature_views": options.views}, teacher, epochs=2)
            fill = sum(fills)
            alone = ours(student, {**words, "method": "ce", "feature_views": 0}, None)
            image = next(iter(loop.data_loader))["image"].as_subclass(torch.Tensor).to(options.device)

            def look(image: torch.Tensor = image, teacher: Any = teacher, amp: bool = amp) -> None:
                with torch.autocast(options.device.type, torch.bfloat16 if amp else None, enabled=amp):
                    teacher.read(image, Reads(tap=True))

            times = in_turn(
                {"store": store.run, "loop": loop.run, "alone": alone.run, "teacher": look},
                options.rounds,
                options.device,
            )
            times["store"] = [one / 2 for one in times["store"]]  # of two: features, and new views without any
            medians = {name: sorted(one)[len(one) // 2] for name, one in times.items()}
            steps = len(loop.data_loader)
            whole = fill + options.epochs * medians["store"], options.epochs * medians["loop"]
            table.add_row(
                student,
                f"{fill:.0f}",
                middle(times["store"], "{:.1f}"),
                middle(times["loop"], "{:.1f}"),
                *(f"{one / 60:.1f}" for one in whole),
                f"{whole[1] / whole[0]:.2f}",
            )
            seen, own = medians["teacher"] * steps, medians["alone"]
            ceiling = options.epochs * (seen + own) / (options.views * seen + options.epochs * own)
            precision = "bfloat16" if amp else "float32"
            ceilings.append(f"{student} {ceiling:.2f} ({precision}, T / 3S = {seen / own:.2f})")
            what = f"{len(loop.data_loader.dataset)} items of {list(image.shape[1:])}, batch {len(image)}"
    table.caption = (
        f"{what}, E = {options.epochs}, K = {options.views}, {options.rounds} epochs measured; the ceiling: "
        f"{', '.join(ceilings)}; {machine(options.device, options.threads)}"
    )
    Console(width=150).print(table)


@contextmanager
def timed(kind: type, name: str) -> Iterator[list[float]]:
    """Measure the calls of a method, in seconds."""
    seconds: list[float] = []
    plain = getattr(kind, name)

    def call(*arguments: Any) -> Any:
        began = time.perf_counter()
        found = plain(*arguments)
        seconds.append(time.perf_counter() - began)
        return found

    with patch.object(kind, name, call):
        yield seconds


if __name__ == "__main__":
    main()
