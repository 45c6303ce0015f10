"""A student at work on a CPU, in several forms, against its ViT-B teacher in PyTorch: how much faster, and how alike.

    python benchmarks/inference.py                       # needs onnx, onnxruntime, onnxscript: the extra "onnx"
    python benchmarks/inference.py --rounds 1 --size 64 --batch 4 --students resnet18      # tries it out: a minute

The student has learnt for some steps to tell bright pictures from dark ones, so that its answers differ from picture
to picture; int8 is calibrated on such pictures. The difference is the largest of a logit from that of plain PyTorch, in
parts of the logits' standard deviation over pictures: it tells rounding from a wrong network, and not what int8 costs
in accuracy on a task that is worth the name.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts import pictures, random_teacher
from rich.console import Console
from rich.table import Table
from timing import arguments, in_turn, machine, middle, ratios
from torch import Tensor
from torch.nn import functional as F

from monai_rd.networks import DeployedStudent, FrozenFoundationModel, Student, channels_last

Form = Callable[[Tensor], Tensor]

CALIBRATION = 32  # pictures
STEPS = 40


def deployed(name: str, images: Tensor) -> DeployedStudent:
    """A student as it is deployed, which has learnt a little to tell bright pictures from dark ones."""
    torch.manual_seed(0)
    trained = channels_last(Student(name))
    labels = (images.mean(dim=(1, 2, 3)) > images.mean()).long()
    adam = torch.optim.AdamW(trained.parameters(), lr=1e-3, fused=True)
    for _ in range(STEPS):
        chosen = torch.randperm(len(images))[:16]
        adam.zero_grad()
        F.cross_entropy(trained(images[chosen]), labels[chosen]).backward()
        adam.step()
    student = DeployedStudent(name)
    student.load_state_dict(trained.state_dict())
    return student.eval()


def by_pytorch(student: DeployedStudent) -> dict[str, Form]:
    """Forms that PyTorch runs."""
    last = deepcopy(student).to(memory_format=torch.channels_last)
    half = deepcopy(last).to(torch.bfloat16)
    script = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.script(deepcopy(student))))
    return {
        "PyTorch": student,
        "PyTorch, channels last": lambda image: last(image.contiguous(memory_format=torch.channels_last)),
        "PyTorch, channels last, bfloat16": lambda image: half(
            image.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        ).float(),
        "TorchScript": script,
    }


def by_onnxruntime(
    student: DeployedStudent, batch: Tensor, calibration: Tensor, threads: int, place: Path
) -> dict[str, Form]:
    """Forms that ONNX Runtime runs, for batches of this size.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    import onnxruntime
    import onnxscript  # noqa: F401  # what torch.onnx works with
    from onnxruntime import quantization

    files = {
        "ONNX Runtime": place / "float32.onnx",
        "ONNX Runtime, int8 (static)": place / "static.onnx",
        "ONNX Runtime, int8 (dynamic)": place / "dynamic.onnx",
    }
    whole, static, dynamic = files.values()
    torch.onnx.export(student, (batch,), whole, input_names=["image"], verbose=False, external_data=False)
    prepared = place / "prepared.onnx"
    quantization.quant_pre_process(whole, prepared)

    class Pictures(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(calibration.split(len(batch)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            images = next(self.batches, None)
            return None if images is None or len(images) < len(batch) else {"image": images.numpy()}

    quantization.quantize_static(prepared, static, Pictures(), per_channel=True)
    quantization.quantize_dynamic(prepared, dynamic, per_channel=True)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    # Between two turns its threads must not wait actively: the others need the cores.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def form(path: Path) -> Form:
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])

    return {name: form(path) for name, path in files.items()}


def compare(
    student: DeployedStudent,
    teacher: FrozenFoundationModel,
    images: Tensor,
    batch: int,
    threads: int,
    rounds: int,
    say: Callable[[str], object],
) -> Table:
    """Time a student's forms and its teacher on batches of one size with so many threads."""
    torch.set_num_threads(threads)
    image, calibration = images[:batch], images[-CALIBRATION:]
    forms = by_pytorch(student)
    with tempfile.TemporaryDirectory() as place:
        try:
            forms |= by_onnxruntime(student, image, calibration, threads, Path(place))
        except ImportError as error:
            say(f"ONNX Runtime: left out ({error})")
        expected = torch.cat([student(one) for one in images.split(batch)])
        spread = float(expected.std(dim=0).mean())
        differences = {
            form: float((torch.cat([run(one) for one in images.split(batch)]) - expected).abs().max()) / spread
            for form, run in forms.items()
        }
        calls = max(8 // batch, 1)

        def turn(run: Form) -> Callable[[], None]:
            def call() -> None:
                for _ in range(calls):
                    run(image)

            return call

        times = in_turn({form: turn(run) for form, run in {"teacher": teacher, **forms}.items()}, rounds)
    table = Table(title=f"{student.name}, batch {batch}, {threads} thread(s), n = {rounds} rounds")
    for column in ("", "ms an image", "times as fast as the teacher", "difference"):
        table.add_column(column)
    for form, taken in times.items():
        table.add_row(
            f"teacher ({teacher.name}), PyTorch" if form == "teacher" else form,
            middle([1000 * one / calls / batch for one in taken], "{:.3g}"),
            middle(ratios(times["teacher"], taken), "{:.1f}"),
            f"{differences[form]:.1g}" if form in differences else "",
        )
    return table


def main() -> None:
    """Run and print."""
    parser = arguments(__doc__, rounds=9, size=224)
    parser.add_argument("--students", nargs="+", default=["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
    parser.add_argument("--batch", type=int, default=16, help="beside batches of one")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ.setdefault("TORCH_LOGS", "-all")
    console = Console(width=150)
    console.print(machine(torch.device("cpu"), options.threads))
    teacher = random_teacher(options.teacher, options.size)
    count = -(-max(2 * CALIBRATION, options.batch) // options.batch) * options.batch  # whole batches
    images: Any = pictures(count, options.size)
    for name in options.students:
        torch.set_num_threads(options.threads)
        student = deployed(name, images)
        for threads in sorted({1, options.threads}):
            for batch in sorted({1, options.batch}):
                with torch.inference_mode():
                    table = compare(student, teacher, images, batch, threads, options.rounds, console.print)
                console.print(table)


if __name__ == "__main__":
    main()
