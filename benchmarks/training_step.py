"""One training step: RD with the feature store against the student alone and against the teacher in the loop.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --rounds 30 --variants alone store   # the first ratio alone, sooner and finer
    python benchmarks/training_step.py --variants alone compiled  # does torch.compile pay?
    python benchmarks/training_step.py --device cuda --amp --batch 64 --steps 50 --step-only   # not tried on CUDA yet
    python benchmarks/training_step.py --rounds 1 --size 64 --batch 8 --students resnet18   # tries it out: a minute

All have the same student, teacher, batch, precision, layout and optimizer. Those of the project are trained by MONAI's
SupervisedTrainer with the handlers of the bundles. The loss of all that have a teacher in the loop is RD's, but for
timm's task, which has only the KL of logits: less work, and no phi. `torchdistill` and `timm.task` come with the extra
"benchmark" (`pip install monai_rd[benchmark]`); who is not there is left out with a word.

A turn is an epoch of `--steps` steps, loading and augmentation with it; with `--step-only` the batches lie on the
device already. S is the student's forward pass and 3 S its step, which is measured, T the teacher's forward pass: with
features that cost nothing RD would be (T + 3 S) / 3 S times as fast as the loop, which is the ceiling.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from other_loops import plain_loop, timm_task, torchdistill_box
from parts import random_teacher, transforms, write_images
from rich.console import Console
from rich.table import Table
from timing import arguments, in_child, in_turn, machine, middle, ratios
from work import Turn, Work, optimizer

from monai_rd.cache import SkippingCacheDataset, feature_dataset
from monai_rd.handlers import CoTrainingHandler, CPUAutocast, EpochSeedHandler, amp_settings
from monai_rd.handlers.speed import peak_memory
from monai_rd.losses import ClassificationLoss
from monai_rd.memory import keep_freed_memory
from monai_rd.methods import parameter_groups
from monai_rd.networks import Reads, Student

VIEWS = 2


def by_monai(work: Work, network: Student, loader: Any, groups: Any, *handlers: Any) -> Turn:
    """Training by MONAI's trainer as the bundles set it up; a turn is an epoch."""
    cuda = work.device.type == "cuda"
    seed = [] if work.step_only else [EpochSeedHandler(0, loader)]
    precision = [CPUAutocast()] if work.amp and not cuda else []
    trainer = SupervisedTrainer(
        device=work.device,
        max_epochs=0,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer(groups),
        loss_function=ClassificationLoss(),
        train_handlers=[*seed, *handlers, *precision],
        decollate=False,
        non_blocking=cuda,
        amp=cuda and work.amp,
        amp_kwargs=amp_settings(work.device),
    )

    def turn() -> None:
        trainer.state.max_epochs += 1
        trainer.run()

    return turn


def alone(work: Work, plain: Dataset) -> Turn:
    """The student by itself, with cross entropy."""
    network = work.network()
    return by_monai(work, network, work.loader(plain), network.parameters())


def compiled(work: Work, plain: Dataset) -> Turn:
    """The same, compiled by PyTorch; how long that takes is printed."""
    network = work.network()
    network.compile()
    turn = by_monai(work, network, work.loader(plain), network.parameters())
    began = time.perf_counter()
    turn()
    print(f"{work.student}: the first epoch, in which it is compiled, took {time.perf_counter() - began:.0f} s")
    return turn


def with_store(work: Work, taught: Dataset) -> Turn:
    """RD whose batches bring the teacher's features out of the store."""
    network = work.network()
    method = work.method(network)
    handler = CoTrainingHandler(network, method)
    return by_monai(work, network, work.loader(taught), parameter_groups(network, method), handler)


def in_the_loop(work: Work, plain: Dataset) -> Turn:
    """RD that asks the teacher in every step."""
    network = work.network()
    method = work.method(network)
    handler = CoTrainingHandler(network, method, work.teacher)
    return by_monai(work, network, work.loader(plain), parameter_groups(network, method), handler)


def teacher_forward(work: Work, plain: Dataset) -> Turn:
    """T: what the teacher makes of an epoch's batches, which are loaded already."""
    images = [batch["image"].to(work.device) for batch in work.loader(plain)]
    reads = Reads(tap=True, grid=work.grid)

    def turn() -> None:
        assert work.teacher is not None
        with work.autocast():
            for image in images:
                work.teacher.read(image, reads)

    return turn


VARIANTS: dict[str, tuple[str, Callable[[Work, Dataset], Turn]]] = {
    "alone": ("student alone, cross entropy (3 S)", alone),
    "compiled": ("the same by torch.compile", compiled),
    "store": ("RD with the feature store", with_store),
    "handler": ("RD, teacher in the loop", in_the_loop),
    "plain": ("RD in a plain PyTorch loop", plain_loop),
    "torchdistill": ("RD in torchdistill's box", torchdistill_box),
    "timm": ("KD by timm's task", timm_task),
    "teacher": ("teacher's forward pass alone (T)", teacher_forward),
}

DEFAULT = [name for name in VARIANTS if name != "compiled"]  # compiling takes longer than all the rest


def turns_of(
    work: Work, names: Iterable[str], plain: Dataset, taught: Dataset, say: Callable[[str], object]
) -> dict[str, Turn]:
    """The turns of those variants that can be had."""
    found = {}
    for name in names:
        title, make = VARIANTS[name]
        try:
            found[name] = make(work, taught if name == "store" else plain)
        except (ImportError, TypeError, KeyError, AttributeError) as error:
            if name not in ("torchdistill", "timm"):
                raise
            say(f"{title}: left out ({type(error).__name__}: {error})")
    return found


def tabulate(title: str, times: dict[str, list[float]], steps: int) -> Table:
    """Seconds of a step, ratios round by round, and how much of the ceiling RD with the store reaches."""
    base, ours, teacher = (times.get(name) for name in ("alone", "store", "teacher"))
    others = [name for name in times if name not in ("alone", "compiled", "store", "teacher")]
    ceiling = [(t + s) / s for t, s in zip(teacher, base, strict=True)] if base and teacher else None
    columns: dict[str, dict[str, str]] = {
        "s a step": {name: middle([one / steps for one in taken], "{:.3g}") for name, taken in times.items()}
    }
    if base:
        columns["of the student alone"] = {name: middle(ratios(taken, base)) for name, taken in times.items()}
    if ours and others:
        columns["RD with the store is faster"] = {name: middle(ratios(times[name], ours)) for name in others}
    if ours and others and ceiling:
        shares = {name: ratios(ratios(times[name], ours), ceiling) for name in others}
        columns["share of the ceiling"] = {
            name: middle([100 * one for one in shares[name]], "{:.0f} %") for name in others
        }
    table = Table("", *columns, title=f"{title}, n = {min(map(len, times.values()))} rounds")
    for name in times:
        table.add_row(VARIANTS[name][0], *(cells.get(name, "") for cells in columns.values()))
    if ceiling:
        table.caption = f"medians \\[quartiles] of the rounds; the ceiling (T + 3 S) / 3 S is {middle(ceiling)}"
    return table


def remember(options: argparse.Namespace, work: Work, plain: Dataset, place: Path) -> None:
    """Train for a few steps in this process, and print the most memory that it took."""
    if options.memory_of == "store":
        plain = taught(work, plain, place)
    turn = VARIANTS[options.memory_of][1](work, plain)
    for _ in range(2):
        turn()
    found = {"memory": peak_memory()}
    if work.device.type == "cuda":
        found["device"] = torch.cuda.max_memory_allocated(work.device)
    print(json.dumps(found))


def taught(work: Work, plain: Dataset, place: Path) -> Dataset:
    """The training set with the teacher's features, which are computed where they are not there yet."""
    reads = Reads(tap=True, grid=work.grid)
    return feature_dataset(
        plain, work.teacher, reads, VIEWS, directory=place / "features", device=work.device, amp=work.amp
    )


def compare_memory(options: argparse.Namespace, student: str, place: Path) -> str:
    """Peak memory of RD with the store against that of the student alone."""
    words = [
        f"--{name}={getattr(options, name)}"
        for name in ("size", "device", "threads", "teacher", "batch", "steps", "grid")
    ]
    words += [f"--{name.replace('_', '-')}" for name in ("amp", "step_only", "plain_memory") if getattr(options, name)]
    peak = {
        name: in_child(__file__, *words, "--students", student, "--memory-of", name, "--place", place)
        for name in ("alone", "store")
    }
    return "; ".join(
        f"peak memory{' of the GPU' * (kind == 'device')}: {peak['alone'][kind] / 2**30:.2f} GiB alone, "
        f"{peak['store'][kind] / 2**30:.2f} GiB RD with the store, {peak['store'][kind] / peak['alone'][kind]:.2f}x"
        for kind in peak["alone"]
    )


def main() -> None:
    """Run and print."""
    parser = arguments(__doc__, rounds=9, size=224)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--students", nargs="+", default=["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=DEFAULT)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2, help="in a turn; take some 20 on a GPU")
    parser.add_argument("--grid", type=int, default=4, help="positions a side of the teacher's map that phi sees")
    parser.add_argument("--amp", action="store_true", help="bfloat16")
    parser.add_argument("--step-only", action="store_true", help="batches out of memory")
    parser.add_argument(
        "--plain-memory", action="store_true", help="freed memory goes back to the system, not as in the bundles"
    )
    parser.add_argument("--memory-of", choices=("alone", "store"), help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    if not options.plain_memory:
        keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        run(options, options.place or Path(temporary))


def run(options: argparse.Namespace, place: Path) -> None:
    """Run and print, with data in a folder."""
    console = Console(width=150)
    teacher = None if options.memory_of == "alone" else random_teacher(options.teacher, options.size).to(options.device)
    items = write_images(place / "images", options.batch * options.steps, options.size)
    plain = SkippingCacheDataset(items, transforms(options.size))
    shared = options.device, options.amp, options.batch, options.step_only, options.grid
    if options.memory_of:
        remember(options, Work(options.students[0], teacher, *shared), plain, place)
        return
    precision = "bfloat16" if options.amp else "float32"
    console.print(machine(options.device, options.threads))
    for student in options.students:
        work = Work(student, teacher, *shared)
        turns = turns_of(work, options.variants, plain, taught(work, plain, place), console.print)
        times = in_turn(turns, options.rounds, options.device)
        title = f"{options.teacher} to {student}, {options.size} px, batch {options.batch}, {precision}"
        console.print(tabulate(title, times, options.steps))
        console.print(compare_memory(options, student, place))


if __name__ == "__main__":
    main()
