"""Everything runs on a device that is not the CPU: nothing is left behind, values agree, and no step waits for it."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from ignite.engine import Events

from monai_rd.methods import METHODS
from monai_rd.networks import Student
from monai_rd.transforms import CTAugmentation, DermAugmentation, MRAugmentation, USAugmentation, XrayAugmentation
from tests.bundles.commands import BUNDLES, QUICK, copied
from tests.conftest import TinyRun
from tests.second_device import NAME, build, on_second_device
from tests.methods.steps import step, tiny_teacher
from tests.methods.test_every_method import OPTIONS, SINGLE, Case, assert_all_learn, built, fitted, loss_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("g++") and shutil.which("ninja")), reason="no g++ and ninja to build a device"
    ),
]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    build(folder)
    return folder


def _mixes_are_refused() -> None:
    here, there = torch.ones(3), torch.ones(3, device=NAME)
    for mix in (
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: torch.nn.functional.linear(there, here),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mix()
    waiting = [lambda: there.cpu(), lambda: there[there > 0], lambda: there.sum().item(), lambda: here.to(NAME)]
    others = [lambda: there.sum() + here[0], lambda: here.to(NAME, non_blocking=True), lambda: there[there.long()]]
    for work, waits in [(one, 1) for one in waiting] + [(one, 0) for one in others]:
        before = torch.second.waits()
        work()
        print(torch.second.waits() - before, waits)


def test_the_device_is_one(device: Path) -> None:
    on_second_device(device, _mixes_are_refused)


def _methods_agree() -> None:
    torch.manual_seed(0)
    case = Case(Student("shufflenet_v2_x1_0", 3), fitted(tiny_teacher()), torch.rand(8, 3, 64, 64))
    target, index = torch.tensor(SINGLE), torch.arange(8)
    for name in METHODS:
        method, student = built(name, case.student, case.teacher, SINGLE)
        there = [deepcopy(one).to(NAME) for one in (method, student, case.teacher)]
        batch = [one.to(NAME) for one in (case.image, target, index)]
        for number in range(2):
            torch.manual_seed(number)
            expected = step(method, student, case.teacher, case.image, target, index)
            torch.manual_seed(number)
            before = torch.second.waits()
            found = step(*there, *batch)
            loss = loss_of(there[0], found, there[1](batch[0]), batch[1])
            loss.backward()
            waits = torch.second.waits() - before
            if number and waits:
                print(name, waits)
            for key, term in expected.items():
                assert found[key].device.type == NAME
                torch.testing.assert_close(
                    found[key].cpu(), term, rtol=1e-4, atol=1e-5, msg=lambda told: f"{name}, {key}: {told}"
                )
        assert_all_learn(
            there[1], there[0], loss_of(there[0], step(*there, *batch), there[1](batch[0]), batch[1]), name
        )


def test_methods_give_what_they_give_on_the_cpu_and_wait_for_nothing(device: Path) -> None:
    on_second_device(device, _methods_agree)


def _augmentations_agree() -> None:
    kinds = (CTAugmentation, MRAugmentation, USAugmentation, XrayAugmentation, DermAugmentation)
    for kind in kinds:
        for shape in ((6, 24, 20), (1, 6, 24, 20))[: 1 if kind is DermAugmentation else 2]:
            here, there = kind("image"), kind("image")
            here.set_random_state(0), there.set_random_state(0)
            for _ in range(20):
                image = torch.rand(shape)
                found = there({"image": image.to(NAME)})["image"]
                assert found.device.type == NAME
                torch.testing.assert_close(found.cpu(), here({"image": image})["image"])


def test_augmentations_do_what_they_do_on_the_cpu(device: Path) -> None:
    on_second_device(device, _augmentations_agree)


def _steps_wait_for_nothing(folder: Path) -> None:
    for name in ("rd", "ce"):
        run = TinyRun(folder / name, method=name, device=NAME)
        waits: list[int] = []
        run.trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: waits.append(torch.second.waits()))
        run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: waits.append(torch.second.waits()))
        run.trainer.run()
        assert len(waits) == 2 * 4 * 2
        assert waits[::2] == waits[1::2]


def test_a_step_of_training_waits_for_nothing(device: Path, tmp_path: Path) -> None:
    on_second_device(device, _steps_wait_for_nothing, tmp_path)


def _run_bundle(config: str, words: tuple[str, ...]) -> None:
    sys.argv = ["monai.bundle", "run", "--config_file", str(BUNDLES / "rd_ct" / "configs" / config), *words]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


@pytest.mark.parametrize("words", [(), ("--feature_views", "2"), ("--method", "kd")], ids=["loop", "store", "kd"])
def test_a_bundle_trains_as_on_the_cpu_and_scores(
    device: Path, tmp_path: Path, cohort_of: Callable[[str], str], words: tuple[str, ...]
) -> None:
    history = []
    for name in ("cpu", NAME):
        root = copied("ct", tmp_path / name)
        places = ("--bundle_root", str(root), "--output_dir", str(root / "eval"), "--dataset_dir", cohort_of("ct"))
        how = ("--device", name, "--amp", "false", "--num_workers", "0")
        on_second_device(device, _run_bundle, "train.json", (*places, *how, *QUICK, *words, "--report_page", "true"))
        on_second_device(device, _run_bundle, "inference.json", (*places, *how))
        assert (root / "eval" / "scores.csv").read_text().count("\n") == 1 + 64
        history.append(json.loads((root / "eval" / "history.json").read_text()))
        assert f"<td>{name}</td>" in (root / "eval" / "report.html").read_text()
    print(history)
