"""A student at work on a CPU, in every format of `monai-rd export`, against a ViT-B teacher in PyTorch.

    python benchmarks/inference.py                       # needs onnx, onnxruntime, onnxscript: the extra "onnx"
    python benchmarks/inference.py --rounds 1 --size 64 --students resnet18      # tries it out: a minute
    python benchmarks/inference.py --bundles DIR ... --dataset_dir DATA          # trained bundles on their test images

Without `--bundles` the students have learnt for some steps to tell bright pictures from dark ones, so that their
answers differ from picture to picture; int8 is calibrated on such pictures, and the label agreement tells rounding from
a wrong network, not what int8 costs on a task that is worth the name. With them it is that of the test images, after
calibration on the validation images.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from parts import pictures, random_teacher
from rich.console import Console
from rich.table import Table
from timing import arguments, in_turn, machine, middle, ratios
from torch import Tensor
from torch.nn import functional as F

from monai_rd.bundle import bundle_root
from monai_rd.export import FORMATS, export_formats
from monai_rd.export.program import Classify, Probabilities, predicted_labels
from monai_rd.inference import TrainedBundle
from monai_rd.networks import FrozenFoundationModel, Student, for_training

PICTURES = 64  # half of them to calibrate on, half to compare on
STEPS = 40


class OnPictures(TrainedBundle):
    """A bundle whose images are the benchmark's pictures."""

    def images(self, split: str, most: int) -> Iterable[Tensor]:  # type: ignore[override]
        """Give the pictures of a split as bags of one."""
        half = pictures(PICTURES, self.image_shape[-1]).chunk(2)
        return half[split == "test"][:most, None].split(1)


def learnt(name: str, size: int, place: Path) -> TrainedBundle:
    """A bundle, made in `place`, whose student has learnt a little to tell bright pictures from dark ones."""
    images = pictures(PICTURES, size)
    torch.manual_seed(0)
    student = for_training(Student(name))
    targets = (images.mean(dim=(1, 2, 3)) > images.mean()).long()
    adam = torch.optim.AdamW(student.parameters(), lr=1e-3, fused=True)
    for _ in range(STEPS):
        chosen = torch.randperm(len(images))[:16]
        adam.zero_grad()
        F.cross_entropy(student(images[chosen]), targets[chosen]).backward()
        adam.step()
    root = place / "rd_ct"
    shutil.copytree(Path(bundle_root("rd_ct")) / "configs", root / "configs")
    (root / "models").mkdir()
    torch.save(student.state_dict(), root / "models" / "model.pt")
    config = ConfigParser(json.loads((root / "configs" / "inference.json").read_text()))
    config["bundle_root"] = str(root)
    settings = {**config.get_parsed_content("trained"), "student": name, "class_names": ["dark", "bright"]}
    settings |= {"image_size": size, "slices": 1, "phantom": True}
    (root / "models" / "settings.json").write_text(json.dumps(settings))
    return OnPictures(str(root))


def compare(
    trained: TrainedBundle,
    teacher: FrozenFoundationModel,
    threads: int,
    rounds: int,
    say: Callable[[str], object],
) -> Table:
    """Time a student's formats and a teacher on one image with so many threads."""
    torch.set_num_threads(threads)
    runs: dict[str, Classify] = {"PyTorch": Probabilities(trained.network, trained.multi_label).eval()}
    with tempfile.TemporaryDirectory() as place:
        for name in FORMATS:
            try:
                (file,) = export_formats(trained, [name], Path(place)).values()
                runs[name] = FORMATS[name].load(trained, file, threads)
            except ValueError as error:
                say(f"{name}: left out ({error})")
    answers: dict[str, list[Tensor]] = {name: [] for name in runs}
    with torch.inference_mode():
        for image in trained.images("test", most=1000):
            for name, run in runs.items():
                answers[name].append(run(image))
        one = image[:, :1]  # a picture, or a slice
        turns = {name: lambda run=run: run(one) for name, run in runs.items()}
        times = in_turn({"teacher": lambda: teacher(one[:, 0]), **turns}, rounds)
    expected = torch.cat(answers["PyTorch"])
    label = partial(predicted_labels, multi_label=trained.multi_label)
    title = f"{trained.network.name}, an image of {one.shape[-1]} pixels, {threads} thread(s), n = {rounds} rounds"
    table = Table(title=f"{title}; {len(expected)} images compared")
    for column in ("", "ms an image", "times as fast as the teacher", "largest difference", "same label"):
        table.add_column(column)
    for name, taken in times.items():
        found = torch.cat(answers[name]) if name in answers else None
        same = None if found is None else (label(found) == label(expected)).float().mean()
        table.add_row(
            f"teacher ({teacher.name}), PyTorch" if found is None else name,
            middle([1000 * seconds for seconds in taken], "{:.3g}"),
            middle(ratios(times["teacher"], taken), "{:.1f}"),
            "" if found is None else f"{float((found - expected).abs().max()):.1e}",
            "" if same is None else f"{float(same):.1%}",
        )
    return table


def main() -> None:
    """Classify and print."""
    parser = arguments(__doc__, rounds=9, size=224)
    parser.add_argument("--students", nargs="+", default=["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
    parser.add_argument("--bundles", nargs="+", default=[], help="bundle folders that hold models/model.pt")
    parser.add_argument("--bundle", default="rd_ct", help="whose configs they have")
    parser.add_argument("--dataset_dir", help="what they were trained on")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    console = Console(width=150)
    console.print(machine(torch.device("cpu"), options.threads))
    data = {"dataset_dir": options.dataset_dir} if options.dataset_dir else {}
    with tempfile.TemporaryDirectory() as place:
        bundles = [TrainedBundle(options.bundle, bundle_root=root, **data) for root in options.bundles]
        if not bundles:
            bundles = [learnt(name, options.size, Path(place) / name) for name in options.students]
        for trained in bundles:
            teacher = random_teacher(options.teacher, trained.image_shape[-1])
            for threads in sorted({1, options.threads}):
                console.print(compare(trained, teacher, threads, options.rounds, console.print))


if __name__ == "__main__":
    main()
