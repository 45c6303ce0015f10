"""What is measured of the teacher path, against the same computed by hand, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from sklearn.metrics import roc_auc_score
from torch import Tensor

from monai_rd.handlers import HistoryHandler, ProgressHandler, TeacherPathWatch, read_history, watch
from monai_rd.handlers.watch import _Tally
from monai_rd.losses.cka import hsics
from monai_rd.losses.temperature import fit_temperature
from monai_rd.methods.base import PathOutput
from monai_rd.methods.ce import CrossEntropyAlone
from monai_rd.no_label import NO_LABEL
from monai_rd.teacher_features import UNSEEN
from tests.processes import in_two_processes
from tests.tiny_run import TinyRun, TinyStudent

Run = Callable[..., TinyRun]


def logits_of(p: list[Any]) -> Tensor:
    """Logits of probabilities: multi-label rows of them, else of the second of two classes."""
    found = torch.tensor(p)
    return found.logit() if found.dim() == 2 else torch.stack([torch.zeros(len(p)), found.logit()], dim=1)


def test_numbers_are_those_of_the_steps_and_of_the_validation_set(tiny_run: Run) -> None:
    run, seen = tiny_run(max_epochs=2), []
    method = run.method

    def look(module: Any, args: Any, f_t: Tensor) -> None:
        if module.training:
            seen.append((f_t.detach(), run.network.classifier(f_t).detach()))

    students: list[Tensor] = []
    method.phi.own[0].register_forward_hook(look)
    method.register_forward_pre_hook(lambda module, args: students.append(args[0].student.pooled.detach()))
    targets: list[Tensor] = []
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: targets.append(e.state.output["label"].as_subclass(Tensor))
    )
    run.trainer.run()
    found = run.trainer.state.teacher_path
    last = slice(2, 4)  # the steps of the second epoch
    logits, target = torch.cat([z for _, z in seen[last]]), torch.cat(targets[last])
    right = logits.argmax(1) == target
    by_class = [right[target == one].float().mean() for one in (0, 1)]
    assert found["train_accuracy"] == pytest.approx(sum(by_class) / 2)
    assert found["train_confidence"] == pytest.approx(logits.softmax(1).amax(1).mean())
    cross, own_t, own_s = sum(  # of two batches
        torch.stack(hsics(f_t, f_s, "unbiased")) for (f_t, _), f_s in zip(seen[last], students[last], strict=True)
    )
    assert found["cka"] == pytest.approx(float(cross / (own_t * own_s).sqrt()), rel=1e-4)
    assert "unlabelled_confidence" not in found
    images = list(run.evaluator.state.dataloader)
    path = method.teacher_path(run.network).eval()
    with torch.no_grad():
        said = torch.cat([path(run.teacher(batch["image"].as_subclass(Tensor))) for batch in images])
    target = torch.cat([batch["label"] for batch in images])
    right = (said.argmax(1) == target).float().mean()
    assert found["validation_accuracy"] == pytest.approx(right)  # as many of either class
    assert found["temperature"] == pytest.approx(fit_temperature(said, target), rel=0.01)  # features in half precision
    assert found["validation_auc"] == pytest.approx(roc_auc_score(target, said[:, 1] - said[:, 0]))
    shown = {name: value for name, value in run.trainer.state.metrics.items() if name.startswith("teacher_path")}
    assert shown == {f"teacher_path_{name}": value for name, value in found.items()}


def test_training_is_the_same_unwatched(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [tiny_run("watched")]
    with monkeypatch.context() as patch:
        patch.setattr(TeacherPathWatch, "attach", lambda self, engine: None)
        runs.append(tiny_run("alone"))
    for run in runs:
        run.trainer.run()
    for states in zip(*((run.network.state_dict(), run.method.state_dict()) for run in runs), strict=True):
        torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize(("items", "size", "kept"), [(512, 256 << 20, 16), (5, 256 << 20, 5), (512, 7 * 160 + 1, 7)])
def test_validation_costs_the_teacher_one_look_and_bounded_memory(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch, items: int, size: int, kept: int
) -> None:
    """Features of an image are 5 channels of 4 x 4 positions: 160 bytes."""
    monkeypatch.setattr(watch, "MOST_ITEMS", items)
    monkeypatch.setattr(watch, "MOST_BYTES", size)
    run, looks = tiny_run(max_epochs=3), []
    run.teacher.backbone.register_forward_hook(lambda module, args, output: looks.append(len(output)))
    run.evaluator.add_event_handler(Events.STARTED, lambda _: looks.append(0))
    run.trainer.run()
    first, second = [place for place, count in enumerate(looks) if count == 0][:2]
    assert sum(looks[first:second]) == kept + 1 + 16  # one to learn its size, and the steps of the next epoch
    assert sum(looks[second:]) == 16
    assert "validation_accuracy" in run.trainer.state.teacher_path


def test_an_epoch_without_teacher_has_only_the_validation(tiny_run: Run, tmp_path: Path) -> None:
    run = tiny_run(max_epochs=2)
    HistoryHandler(tmp_path / "history.json", run.evaluator).attach(run.trainer)

    def unseen(engine: Engine) -> None:
        if engine.state.epoch == 2:
            engine.state.batch["teacher_features"] = UNSEEN

    run.trainer.add_event_handler(Events.GET_BATCH_COMPLETED, unseen)
    run.trainer.run()
    assert [sorted(row["teacher_path"]) for row in read_history(tmp_path / "history.json")] == [
        ["cka", "temperature", "train_accuracy", "train_confidence", "validation_accuracy", "validation_auc"],
        ["temperature", "validation_accuracy", "validation_auc"],
    ]
    named = [f"teacher_path_{name}" for name in ("validation_accuracy", "validation_auc", "temperature")]
    assert [key for key in run.trainer.state.metrics if "path" in key] == named


def test_a_calibrated_method_learns_the_temperature_and_a_resumed_one_goes_on_with_it(tiny_run: Run) -> None:
    run = tiny_run("whole", max_epochs=3, calibrated=True)
    used = []
    run.method.register_forward_pre_hook(lambda method, _: used.append(float(method.kl.teacher_temperature)))
    found = []
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: found.append(engine.state.teacher_path["temperature"])
    )
    run.trainer.run()
    assert used[::2] == pytest.approx([1.0, *found[:2]])  # two steps an epoch
    assert len(set(found)) == 3
    part = tiny_run("part", max_epochs=3, calibrated=True)
    part.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
    part.trainer.run()
    again = tiny_run("part", max_epochs=3, calibrated=True, resume=True)
    again.trainer.run()
    torch.testing.assert_close(again.method.state_dict(), run.method.state_dict(), rtol=0, atol=0)


def test_a_method_without_such_a_path_has_no_numbers(
    tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rd", "ce"):
        run, path = tiny_run(name, max_epochs=1, method=name), tmp_path / f"{name}.json"
        HistoryHandler(path, run.evaluator).attach(run.trainer)
        ProgressHandler(run.evaluator).attach(run.trainer)
        run.trainer.run()
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
        assert ("teacher_path" in read_history(path)[0]) is (name == "rd")
        assert ("|  teacher train 0." in line) is (name == "rd")
        assert any(key.startswith("teacher_path") for key in run.trainer.state.metrics) is (name == "rd")


def test_classes_count_alike_and_items_without_a_label_only_in_their_confidence() -> None:
    tally = _Tally(3, False, torch.device("cpu"))
    logits = torch.cat([logits_of([0.1, 0.2, 0.7, 0.6, 0.9]), torch.full((5, 1), -50.0)], dim=1)
    tally.add(logits, torch.tensor([0, 0, 0, 1, NO_LABEL]))  # no item of the third class
    found = tally.read()
    assert found["accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["confidence"] == pytest.approx((0.9 + 0.8 + 0.7 + 0.6) / 4)
    assert found["unlabelled_confidence"] == pytest.approx(0.9)
    assert found["cka"] is None


def test_multi_label() -> None:
    tally = _Tally(3, True, torch.device("cpu"))
    tally.add(
        logits_of([[0.9, 0.2, 0.1], [0.4, 0.3, 0.1], [0.7, 0.6, 0.1], [0.9, 0.9, 0.9]]),
        torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 0], [NO_LABEL] * 3]),
    )
    found = tally.read()
    # The third class has no positive item: its accuracy is none.
    assert found["accuracy"] == pytest.approx(((1 / 2 + 0) / 2 + (0 + 1 / 2) / 2) / 2)
    assert found["confidence"] == pytest.approx((0.9 + 0.8 + 0.9 + 0.6 + 0.7 + 0.9 + 0.7 + 0.6 + 0.9) / 9)
    assert found["unlabelled_confidence"] == pytest.approx(0.9)


def test_features_that_half_precision_does_not_hold_are_kept_all_the_same(tiny_run: Run) -> None:
    run = tiny_run()
    with torch.no_grad():
        run.teacher.backbone[1].weight.mul_(1e6)
    known = watch._Known(run.teacher, run.method.reads)
    known.attach(run.evaluator)
    run.evaluator.run()
    kept = torch.cat([tap for tap, _ in known.items(torch.device("cpu"))])
    whole = torch.cat([run.teacher(batch["image"].as_subclass(Tensor)) for batch in run.evaluator.state.dataloader])
    assert whole.abs().max() > 1e5
    torch.testing.assert_close(kept, whole, rtol=2e-3, atol=1.0)


def _share(rank: int, folder: Path) -> None:
    part = slice(3 * rank, 3 * rank + 3)
    torch.save({**_tallied(part), **_of_answers(part)}, folder / f"{rank}.pt")


def _of_answers(which: slice) -> dict[str, float | None]:
    random = np.random.default_rng(0)
    labels = random.integers(2, size=(6, 4))
    logits = 4 * np.stack([-labels, labels], axis=2) + random.normal(scale=6, size=(6, 4, 2))
    student, engine = TinyStudent(), Engine(lambda engine, batch: None)
    watching = TeacherPathWatch(student, CrossEntropyAlone(student, None, torch.arange(2)), None, engine)
    return watching._of_answers(*(list(torch.from_numpy(one)[which]) for one in (logits, labels)))


def _tallied(which: slice) -> dict[str, float | None]:
    torch.manual_seed(0)
    tally, f_t, f_s = _Tally(2, False, torch.device("cpu")), torch.randn(6, 4, 5), torch.randn(6, 4, 5)
    for a, b in zip(f_t[which], f_s[which], strict=True):
        tally.add(a[:, :2], torch.tensor([0, 1, 1, NO_LABEL]))
        tally.align(PathOutput(a, a[:, :2], a + b))
    return tally.read()


@pytest.mark.parametrize("labels", [[0, 1, 1], [1, 1, 1]])
def test_of_one_class_there_is_no_area_and_a_diverged_path_is_named(labels: list[int]) -> None:
    student = TinyStudent()
    watching = TeacherPathWatch(
        student, CrossEntropyAlone(student, None, torch.arange(2)), None, Engine(lambda *_: None)
    )
    logits, target = torch.tensor([[1.0, 0], [0, 1], [0, 2]]), torch.tensor(labels)
    found = watching._of_answers([logits], [target])
    assert found["validation_auc"] == (1.0 if 0 in labels else None)
    assert found["temperature"] is not None
    with pytest.raises(ValueError, match="not all finite: its training has diverged"):
        watching._of_answers([logits / 0], [target])


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    in_two_processes(_share, tmp_path)
    whole = {**_tallied(slice(0, 6)), **_of_answers(slice(0, 6))}
    assert None not in whole.values()
    part = _of_answers(slice(0, 3))
    assert all(whole[name] != pytest.approx(part[name]) for name in ("temperature", "validation_auc"))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(whole)
