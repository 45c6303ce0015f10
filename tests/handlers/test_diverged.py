"""A training that diverges stops where it does, says why, and leaves nothing that could be taken for a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines.utils import IterationEvents
from torch import nn

from monai_rd.finite import NotFiniteError, TermSums, not_finite
from monai_rd.handlers import HistoryHandler, ProgressHandler
from tests.tiny_run import TinyRun

Run = Callable[..., Any]


def stopped(run: Any, folder: Path, said: str, capsys: pytest.CaptureFixture[str], epochs: int = 0) -> None:
    """The run ends with `said` after `epochs` whole epochs, and tells and keeps nothing of the one after."""
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: None)
    HistoryHandler(folder / "history.json", run.evaluator).attach(run.trainer)
    ProgressHandler(run.evaluator).attach(run.trainer)
    with pytest.raises(NotFiniteError, match=said):
        run.trainer.run()
    printed = capsys.readouterr().out
    assert printed.count("loss ") == epochs
    assert "nan" not in printed
    files = sorted(path.name for path in folder.rglob("[!.]*") if path.is_file())
    assert files == (["best_method.pt", "history.json", "last.pt", "model.pt", "settings.json"] if epochs else [])
    if epochs:
        assert len(json.loads((folder / "history.json").read_text())) == epochs
        for path in folder.rglob("*.pt"):
            kept = torch.load(path, weights_only=True)
            assert not not_finite(kept.get("network", kept))


def at(run: Any, epoch: int, work: Callable[[], object]) -> None:
    """Do something at the start of an epoch."""

    def do(engine: Any) -> None:
        if engine.state.epoch == epoch:
            work()

    run.trainer.add_event_handler(Events.EPOCH_STARTED, do)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_images_that_are_no_numbers(
    value: float, tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run()
    run.loader.dataset._cache[3]["image"][0, 2, 2] = value
    stopped(run, tmp_path, "images.*not a number|in epoch 1, step . ?, not finite: .*; the images of this step", capsys)


@pytest.mark.parametrize("term", ["student_ce", "teacher_ce", "kl", "cka"])
def test_the_term_is_named_and_no_step_made_of_it(
    term: str, tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, before = tiny_run(), []
    handler = next(one for one in _handlers(run))

    def spoil(engine: Any) -> None:
        if engine.state.iteration == 4:  # the second of the second epoch
            before.append({key: value.clone() for key, value in run.network.named_parameters()})
            if term != "student_ce":
                handler._terms[term] = handler._terms[term] * torch.nan

    run.trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, spoil)
    named = term
    if term == "student_ce":  # the loss of both cross entropies
        named = "student_ce, teacher_ce"
        plain = run.trainer.loss_function
        run.trainer.loss_function = lambda *given: (
            plain(*given) * (torch.nan if run.trainer.state.iteration == 4 else 1)
        )
    stopped(run, tmp_path, f"in epoch 2, step 2, not finite: {named}; ", capsys, epochs=1)
    for key, value in run.network.named_parameters():
        assert torch.equal(value, before[0][key]), key


def _handlers(run: Any) -> list[Any]:
    from monai_rd.handlers import CoTrainingHandler

    found = [
        one.__self__
        for one, *_ in run.trainer._event_handlers[IterationEvents.LOSS_COMPLETED]
        if isinstance(getattr(one, "__self__", None), CoTrainingHandler)
    ]
    assert found
    return found


def test_a_learning_rate_that_is_far_too_high(
    tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run()
    for group in run.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 1e30
    stopped(run, tmp_path, "the training has diverged.*smaller --learning_rate", capsys)


def test_weights_that_overflow_in_the_last_step(
    tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run()

    def spoil(engine: Any) -> None:
        if engine.state.iteration == 4:
            run.network.classifier.weight.data[0, 0] = torch.inf

    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, spoil)
    stopped(run, tmp_path, "in epoch 2: 1 of .* the first is classifier.weight", capsys, epochs=1)


def test_a_validation_without_numbers_is_never_best(
    tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run()
    images = run.evaluator.data_loader.dataset._cache
    spoilt = {**images[3], "image": images[3]["image"] * torch.nan}
    at(run, 2, lambda: images.__setitem__(3, spoilt))
    stopped(run, tmp_path, "after epoch 2 the student answers to images of the validation set", capsys, epochs=1)


def test_on_another_device_the_first_step_is_found_at_the_end() -> None:
    sums = TermSums()
    terms = {"loss": torch.ones((), device="meta"), "kl": torch.ones((), device="meta")}
    assert [sums.add(terms) for _ in range(5)] == [[]] * 5  # reading a value of the meta device would raise
    ((_, first),) = sums._kinds.values()
    assert first.device.type == "meta"
    known = TermSums()
    for number in range(1, 6):
        known.add({"loss": torch.tensor(1.0), "kl": torch.tensor(2.0 * number)})
    assert known.read() == ({"loss": 5.0, "kl": 30.0}, 0, [])
    known._kinds["loss", "kl"] = known._kinds["loss", "kl"][0], torch.tensor([4.0, 3.0])
    assert known.read()[1:] == (3, ["kl"])
    known.add({"loss": torch.tensor(1.5)})  # a step without one of the terms
    known._kinds[("loss",)] = known._kinds[("loss",)][0], torch.tensor([2.0])
    assert known.read() == ({"loss": 6.5, "kl": 30.0}, 2, ["loss"])


@pytest.mark.parametrize("method", ["ce", "rd"])
def test_a_batch_of_one_is_explained(method: str, tmp_path: Path) -> None:
    """By the loss that needs more, or where batch normalisation fails."""
    run = TinyRun(tmp_path, method=method)
    run.network.backbone.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(6)))
    loader = DataLoader(run.loader.dataset, batch_size=1)
    run.trainer.data_loader = run.trainer.state.dataloader = loader
    with pytest.raises(ValueError, match=r"a batch of 1 is too small to train with: .* give a larger --batch_size"):
        Engine.run(run.trainer, loader, max_epochs=1)
