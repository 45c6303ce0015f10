"""Co-training, seeding and checkpoints on a whole small training."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor
from torch.nn import functional as F

from monai_rd.handlers import CoTrainingHandler, ProgressHandler
from monai_rd.methods import build_method
from monai_rd.teacher_features import UNSEEN
from monai_rd.teacher_image import TEACHER_IMAGE

Run = Callable[..., Any]


def state_of(run: Any) -> dict[str, Tensor]:
    parts = {"network": run.network, "method": run.method}
    return {f"{name}.{key}": value.clone() for name, part in parts.items() for key, value in part.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_the_loss_is_equation_3_with_falling_weights(tiny_run: Run) -> None:
    run, seen = tiny_run(max_epochs=3), []

    def look(engine: Engine) -> None:
        seen.append((engine.state.epoch, dict(engine.state.term_weights), dict(engine.state.output["terms"])))
        assert torch.equal(engine.state.output["loss"].detach(), engine.state.output["terms"]["loss"])

    run.trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, look)
    run.trainer.run()
    for epoch, weights, terms in seen:
        w = {1: 1.0, 2: 0.5, 3: 0.0}[epoch]
        assert weights == {"teacher_ce": w, "kl": w, "cka": w}
        expected = terms["student_ce"] + w * (terms["teacher_ce"] + terms["kl"] + terms["cka"])
        torch.testing.assert_close(terms["loss"], expected)


def test_the_teacher_sees_its_own_image_where_there_is_one(tiny_run: Run) -> None:
    run, seen, learnt = tiny_run(max_epochs=1), [], []

    @run.trainer.on(Events.ITERATION_STARTED)
    def add(engine: Engine) -> None:
        engine.state.batch[TEACHER_IMAGE] = engine.state.batch["image"].repeat_interleave(2, -1)

    run.teacher.backbone.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape))
    run.network.backbone.register_forward_pre_hook(lambda m, args: learnt.append(args[0].shape) if m.training else None)
    run.trainer.run()
    assert learnt == [(8, 3, 16, 16)] * 2
    assert seen[:2] == [(8, 3, 16, 32)] * 2  # then it looks at validation images, which have no other


def test_the_student_is_not_run_twice_and_its_own_features_are_used(tiny_run: Run) -> None:
    run, calls = tiny_run(max_epochs=1), []
    run.network.backbone.register_forward_hook(lambda m, i, o: calls.append(o.mean(dim=(2, 3))) if m.training else None)
    given = []
    run.method.register_forward_pre_hook(lambda m, args: given.append(args[0].student.pooled))
    run.trainer.run()
    assert len(calls) == len(given) == 2
    for computed, passed in zip(calls, given, strict=True):
        assert torch.equal(computed, passed)


def test_teacher_is_frozen_and_everything_else_moves(tiny_run: Run) -> None:
    run = tiny_run(calibrated=True)
    backbone = run.teacher.backbone
    before, start = copy.deepcopy(backbone.state_dict()), state_of(run)
    modes = []
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: modes.append(backbone.training))
    run.trainer.run()
    assert_same(before, backbone.state_dict())
    assert not any(modes)
    assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())
    end = state_of(run)
    still = [k for k, v in start.items() if torch.equal(v, end[k]) and not k.endswith("num_batches_tracked")]
    assert still == ["network.temperature"]  # which is fitted at the end


def test_nothing_of_the_teacher_on_disk_and_model_is_the_student_alone(tiny_run: Run) -> None:
    run = tiny_run(max_epochs=2)
    run.trainer.run()
    model = torch.load(run.checkpoint.model_path, weights_only=True)
    assert model.keys() == run.network.state_dict().keys()
    teacher = [v for v in run.teacher.backbone.state_dict().values() if v.ndim > 1]

    def tensors(content: Any) -> list[Tensor]:
        if isinstance(content, Tensor):
            return [content]
        values = (
            content.values() if isinstance(content, dict) else content if isinstance(content, (list, tuple)) else ()
        )
        return [tensor for value in values for tensor in tensors(value)]

    for file in (run.checkpoint.model_path, run.checkpoint.last, run.checkpoint.best_method):
        for tensor in tensors(torch.load(file, weights_only=True)):
            assert not any(tensor.shape == t.shape and torch.equal(tensor, t) for t in teacher)


@pytest.mark.parametrize("selection", ["best", "last"])
def test_which_epoch_is_kept(tiny_run: Run, selection: str) -> None:
    run = tiny_run(max_epochs=3, selection=selection)

    def first_is_best(evaluator: Engine) -> None:
        evaluator.state.best_metric_epoch = 1

    run.evaluator.add_event_handler(Events.COMPLETED, first_is_best)
    kept = []
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: kept.append(copy.deepcopy(run.network.state_dict()))
    )
    run.trainer.run()
    assert_same(torch.load(run.checkpoint.model_path, weights_only=True), kept[0 if selection == "best" else -1])


def test_another_selection_is_refused(tiny_run: Run) -> None:
    with pytest.raises(ValueError, match=r"model_selection is 'best' .* or 'last', not 'test'"):
        tiny_run(selection="test")


def test_what_the_method_puts_into_the_student_is_not_deployed(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(max_epochs=1)
    monkeypatch.setattr(run.method, "deployable", lambda student: {"only": student.classifier.bias.detach() * 0})
    run.trainer.run()
    assert torch.load(run.checkpoint.model_path, weights_only=True).keys() == {"only"}
    assert torch.load(run.checkpoint.last, weights_only=True)["network"].keys() == run.network.state_dict().keys()


def test_the_method_learns_which_items_it_sees(tiny_run: Run) -> None:
    run, seen = tiny_run(max_epochs=1), []
    run.method.register_forward_pre_hook(lambda method, args: seen.append(args[0].indices))
    run.trainer.run()
    assert sorted(torch.cat(seen).tolist()) == list(range(16))


class Killed(BaseException):
    """A kill that no handler catches."""


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("moment", ["before the first save", "in an epoch", "while saving", "after the end"])
def test_killed_and_resumed_ends_at_the_same_bits(
    tiny_run: Run, moment: str, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if num_workers and moment != "in an epoch":
        pytest.skip("one moment with workers is enough")
    whole = tiny_run("whole", num_workers=num_workers)
    whole.trainer.run()
    killed = tiny_run("killed", num_workers=num_workers)

    def kill(*_: Any) -> None:
        raise Killed

    if moment == "while saving":
        killed.trainer.add_event_handler(
            Events.EPOCH_STARTED(once=3), lambda e: monkeypatch.setattr("monai_rd.files.os.replace", kill)
        )
    elif moment != "after the end":
        iteration = 2 if moment == "before the first save" else 6
        killed.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), kill)
    if moment == "after the end":
        killed.trainer.run()
    else:
        with pytest.raises(Killed):
            killed.trainer.run()
    monkeypatch.undo()

    resumed = tiny_run("killed", resume=True, num_workers=num_workers)
    torch.manual_seed(12345)  # a new process has another random state
    resumed.trainer.run()
    assert_same(state_of(whole), state_of(resumed))
    for name in ("model_path", "best_method"):
        first, second = (torch.load(getattr(r.checkpoint, name), weights_only=True) for r in (whole, resumed))
        assert_same(first, second)
    assert whole.evaluator.state.best_metric == resumed.evaluator.state.best_metric
    assert whole.evaluator.state.best_metric_epoch == resumed.evaluator.state.best_metric_epoch
    assert not list(resumed.checkpoint.last.parent.glob("*.tmp"))


def test_resume_with_other_settings_is_refused(tiny_run: Run) -> None:
    tiny_run(max_epochs=2).trainer.run()
    with pytest.raises(ValueError, match=r"max_epochs was 2, now 3"):
        tiny_run(max_epochs=3, resume=True).trainer.run()


def test_a_fresh_run_forgets_the_old_one(tiny_run: Run) -> None:
    tiny_run(max_epochs=2).trainer.run()
    again = tiny_run(max_epochs=2)
    again.trainer.add_event_handler(Events.ITERATION_STARTED(once=1), lambda e: e.terminate())
    existed = []
    again.trainer.add_event_handler(Events.EPOCH_STARTED, lambda e: existed.append(again.checkpoint.last.exists()))
    again.trainer.run()
    assert existed[0] is False


def test_settings_lie_beside_the_model(tiny_run: Run) -> None:
    run = tiny_run(max_epochs=1)
    run.trainer.run()
    settings = json.loads(run.checkpoint.model_path.with_name("settings.json").read_text())
    assert settings == {"max_epochs": 1, "class_names": ["a", "b"]}


def test_stored_teacher_features_replace_the_teacher(tiny_run: Run) -> None:
    """With `teacher_features` in the batch the handler needs no teacher and the losses are the same."""
    run = tiny_run(max_epochs=1)
    batch = next(iter(run.loader))
    losses = []
    rows = run.teacher.rows(batch["image"], run.method.reads)
    for teacher, stored in ((run.teacher, False), (None, True)):
        network, method = copy.deepcopy(run.network), copy.deepcopy(run.method)
        trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=1,
            train_data_loader=[batch | ({"teacher_features": rows} if stored else {})],
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
            loss_function=F.cross_entropy,
            train_handlers=[CoTrainingHandler(network, method, teacher)],
            decollate=False,
        )
        trainer.run()
        losses.append(trainer.state.output["loss"])
    assert torch.equal(*losses)


def test_the_teacher_is_told_which_items_it_sees(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run, told = tiny_run(max_epochs=1), []
    read = run.teacher.read

    def told_of(image: Tensor, reads: Any, indices: Tensor | None = None) -> Any:
        told.append(indices)
        return read(image, reads, indices)

    monkeypatch.setattr(run.teacher, "read", told_of)
    batch = next(iter(run.loader))
    places = torch.arange(len(batch["image"])).flip(0)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[batch, batch | {"index": places}],
        network=run.network,
        optimizer=torch.optim.SGD(run.network.parameters(), lr=0.1),
        loss_function=F.cross_entropy,
        train_handlers=[CoTrainingHandler(run.network, run.method, run.teacher)],
        decollate=False,
    )
    trainer.run()
    known = batch.get("index")
    assert len(told) == 2
    assert known is None or torch.equal(told[0], known)
    assert torch.equal(told[1], places)


def test_views_that_no_teacher_saw_are_learnt_from_their_labels(tiny_run: Run) -> None:
    """In an epoch whose `teacher_features` are empty there is no term, and nothing of the method is trained."""
    run = tiny_run(max_epochs=2)
    batch = next(iter(run.loader))
    rows = run.teacher.rows(batch["image"], run.method.reads)
    loader = [batch | {"teacher_features": rows}]
    parameters = [*run.network.parameters(), *run.method.parameters()]
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=2,
        train_data_loader=loader,
        network=run.network,
        optimizer=torch.optim.AdamW(parameters, lr=0.1),
        loss_function=F.cross_entropy,
        train_handlers=[CoTrainingHandler(run.network, run.method, None)],
        decollate=False,
        optim_set_to_none=True,
    )
    seen = []

    def end_of_epoch(engine: Any) -> None:
        student, method = (copy.deepcopy(one.state_dict()) for one in (run.network, run.method))
        seen.append((dict(engine.state.metrics), dict(engine.state.term_weights), student, method))
        loader[0] = batch | {"teacher_features": UNSEEN}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, end_of_epoch)
    trainer.run()
    (taught, weights, student, method), (alone, none, later, same) = seen
    assert set(taught) == {"loss", "student_ce", *weights}
    assert set(weights) == {"teacher_ce", "kl", "cka"}
    assert (set(alone), none) == ({"loss", "student_ce"}, {})
    assert alone["loss"] == pytest.approx(alone["student_ce"])
    assert all(torch.equal(value, same[key]) for key, value in method.items())
    assert any(not torch.equal(value, later[key]) for key, value in student.items())


def test_an_epoch_may_have_steps_with_and_without_the_teacher(tiny_run: Run) -> None:
    """As with stored views where an epoch ends within a round."""
    run = tiny_run(max_epochs=1)
    seen: list[dict[str, Any]] = []

    def some(engine: Any) -> None:
        if engine.state.iteration == 0:
            engine.state.batch["teacher_features"] = UNSEEN

    run.trainer.add_event_handler(Events.GET_BATCH_COMPLETED, some)
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append(dict(engine.state.output["terms"]))
    )
    run.trainer.run()
    assert [sorted(terms) for terms in seen] == [
        ["loss", "student_ce"],
        ["cka", "kl", "loss", "student_ce", "teacher_ce"],
    ]
    found, weights = run.trainer.state.metrics, run.trainer.state.term_weights
    assert weights == {"teacher_ce": 1, "kl": 1, "cka": 1}
    assert found["kl"] == pytest.approx(sum(terms.get("kl", 0) for terms in seen) / 2)
    assert found["loss"] == pytest.approx(found["student_ce"] + sum(found[name] for name in weights), rel=1e-5)


def test_without_teacher_and_features_the_error_says_what_to_do(tiny_run: Run) -> None:
    run = tiny_run(max_epochs=1)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=run.loader,
        network=run.network,
        optimizer=run.optimizer,
        loss_function=F.cross_entropy,
        train_handlers=[CoTrainingHandler(run.network, run.method, None)],
        decollate=False,
    )
    with pytest.raises(ValueError, match="teacher_features"):
        trainer.run()


def test_cross_entropy_alone_trains_the_same_student_as_no_handler(tiny_run: Run) -> None:
    run = tiny_run(max_epochs=1)
    batches = list(run.loader)
    ends = []
    for handlers in ([], [CoTrainingHandler]):
        network = copy.deepcopy(run.network)
        trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=2,
            train_data_loader=batches,
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
            loss_function=F.cross_entropy,
            train_handlers=[handler(network, build_method("ce", network, None, [0, 1])) for handler in handlers],
            decollate=False,
        )
        trainer.run()
        ends.append(network.state_dict())
    assert_same(*ends)


def test_progress_prints_each_term_of_each_epoch(tiny_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(max_epochs=2)
    ProgressHandler(run.evaluator).attach(run.trainer)
    run.trainer.run()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    assert "epoch   1/2" in lines[0]
    metrics = run.trainer.state.metrics
    for name, shown in (("student_ce", "ce"), ("teacher_ce", "teacher ce"), ("kl", "kl"), ("cka", "cka")):
        assert f"{metrics[name]:.3f} {shown}" in lines[1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_one_epoch_on_cuda_with_amp(tiny_run: Run) -> None:
    run = tiny_run(max_epochs=1)
    network, method, teacher = run.network.cuda(), run.method.cuda(), run.teacher.cuda()
    trainer = SupervisedTrainer(
        device=torch.device("cuda"),
        max_epochs=1,
        train_data_loader=run.loader,
        network=network,
        optimizer=run.optimizer,
        loss_function=F.cross_entropy,
        train_handlers=[CoTrainingHandler(network, method, teacher)],
        decollate=False,
        amp=True,
    )
    trainer.run()
    assert all(torch.isfinite(term) for term in trainer.state.output["terms"].values())
