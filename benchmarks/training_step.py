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
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from parts import random_teacher, transforms, write_images
from rich.console import Console
from rich.table import Table
from timing import arguments, in_child, in_turn, machine, middle, ratios
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.bundle import default_workers
from monai_rd.cache import SkippingCacheDataset, taught_dataset
from monai_rd.handlers import CoTrainingHandler, CPUAutocast, EpochSeedHandler, amp_settings
from monai_rd.handlers.speed import peak_memory
from monai_rd.losses import ClassificationLoss
from monai_rd.memory import keep_freed_memory
from monai_rd.methods import build_method, parameter_groups
from monai_rd.methods.rd import ReprogrammingDistillation
from monai_rd.networks import FrozenFoundationModel, Reads, Student, channels_last
from monai_rd.transforms import bag_collate

# Constant weights, so that every step is the first epoch's.
RD = {"alpha": (1.0, 1.0), "beta": (1.0, 1.0)}
VIEWS = 2

Turn = Callable[[], object]


@dataclass
class Work:
    """What all variants share."""

    student: str
    teacher: FrozenFoundationModel | None
    device: torch.device
    amp: bool
    batch: int
    step_only: bool
    grid: int

    def network(self) -> Student:
        """The student, with the same random weights for everybody."""
        torch.manual_seed(0)
        return channels_last(Student(self.student)).to(self.device)

    def method(self, network: Student) -> ReprogrammingDistillation:
        """RD with phi, with the same random weights for everybody."""
        torch.manual_seed(0)
        method = build_method("rd", network, self.teacher, [0, 1], {**RD, "grid": self.grid})
        assert isinstance(method, ReprogrammingDistillation)
        return method.to(self.device)

    def loader(self, dataset: Dataset) -> Iterable[dict[str, Any]]:
        """The batches of an epoch, as the bundles load them, or ready on the device."""
        cuda = self.device.type == "cuda"
        loader = DataLoader(
            dataset,
            batch_size=self.batch,
            shuffle=True,
            drop_last=True,
            num_workers=0 if self.step_only else default_workers(self.device),
            pin_memory=cuda and not self.step_only,
            collate_fn=bag_collate,
        )
        return [_moved(batch, self.device) for batch in loader] if self.step_only else loader

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of those that do not go through MONAI's trainer."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def optimizer(groups: Any) -> torch.optim.Optimizer:
    """The bundles' optimizer."""
    return torch.optim.AdamW(groups, lr=1e-3, fused=True)


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


def by_hand(
    work: Work, plain: Dataset, step: Callable[[Tensor, Tensor], Tensor], update: Callable[[Tensor], object]
) -> Turn:
    """Training by a loop over batches: `step` gives the loss of images and labels, `update` does the rest."""
    loader = work.loader(plain)

    def turn() -> None:
        for batch in loader:
            image, target = (batch[key].to(work.device, non_blocking=True) for key in ("image", "label"))
            with work.autocast():
                loss = step(image, target)
            update(loss)

    return turn


def rd_loss(
    network: Student, method: ReprogrammingDistillation, f_s: Tensor, z_s: Tensor, tap: Tensor, y: Tensor
) -> Tensor:
    """Eq. 3 of the paper with alpha = beta = 1."""
    f_t = method.phi(tap)
    z_t = network.classifier(f_t)
    return F.cross_entropy(z_s, y) + F.cross_entropy(z_t, y) + method.kl(z_s, z_t) + method.cka(f_s, f_t)


def plain_loop(work: Work, plain: Dataset) -> Turn:
    """The same by PyTorch alone."""
    network = work.network()
    method, teacher = work.method(network), work.teacher
    assert teacher is not None
    adam = optimizer(parameter_groups(network, method))

    def step(image: Tensor, target: Tensor) -> Tensor:
        f_s = network.features(image)
        return rd_loss(network, method, f_s, network.classifier(f_s), teacher(image), target)

    def update(loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()

    return by_hand(work, plain, step, update)


def torchdistill_box(work: Work, plain: Dataset) -> Turn:
    """The same by torchdistill's distillation box, which trains whatever belongs to its student: phi is put there."""
    from torchdistill.core.distillation import get_distillation_box

    class StudentAndPhi(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = work.network()
            self.method = work.method(self.student)

        def forward(self, image: Tensor) -> Tensor:
            return self.student(image)

    both = StudentAndPhi()

    class Loss(nn.Module):
        def forward(self, student: Any, teacher: Any, target: Tensor) -> Tensor:
            f_s, z_s, tap = student["student.classifier"]["input"], student["."]["output"], teacher["."]["output"]
            return rd_loss(both.student, both.method, f_s, z_s, tap, target)

    box = get_distillation_box(
        work.teacher,
        both,
        {},
        {
            "num_epochs": 1,
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only", "forward_hook": {"input": ["student.classifier"]}},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": {"rd": {"criterion": Loss(), "weight": 1.0}}},
            },
            "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3, "fused": True}},
        },
        work.device,
        None,
        False,
        1,
    )
    box.pre_epoch_process()
    return by_hand(work, plain, box.forward_process, box.post_forward_process)


def timm_task(work: Work, plain: Dataset) -> Turn:
    """Distillation of logits by timm's task, from the teacher's own head."""
    from timm.task import DistillationTeacher, LogitDistillationTask

    assert work.teacher is not None
    network: Any = work.network()
    # What the task asks a student of timm's; ours normalises its images itself.
    network.num_classes, network.in_chans = 2, 3
    network.pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    vit: Any = work.teacher.backbone
    task = LogitDistillationTask(
        network,
        DistillationTeacher(vit.network, device=work.device),
        nn.CrossEntropyLoss(),
        device=work.device,
        verbose=False,
    )
    adam = optimizer(network.parameters())

    def step(image: Tensor, target: Tensor) -> Tensor:
        return task(image[:, 0], target)["loss"]  # a bag of one is an image

    def update(loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()

    task.train()
    return by_hand(work, plain, step, update)


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
    return taught_dataset(
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
