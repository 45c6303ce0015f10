"""Mixed precision on the CPU, and where it is the default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from monai_rd.handlers import CPUAutocast, amp_settings, default_amp
from monai_rd.handlers.failing import on_failure
from monai_rd.networks import Student

Run = Callable[..., Any]


def test_forward_pass_in_bfloat16_losses_and_parameters_in_float32(tiny_run: Run) -> None:
    ends = []
    for amp in (False, True):
        run, seen = tiny_run(folder=f"amp_{amp}", max_epochs=2), []
        if amp:
            CPUAutocast().attach(run.trainer)

        def look(engine: Engine, seen: list[Any] = seen) -> None:
            seen.append((engine.state.output["pred"].dtype, {t.dtype for t in engine.state.output["terms"].values()}))

        run.trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, look)
        validated: list[Any] = []
        run.network.register_forward_hook(lambda m, i, o, v=validated: v.append(o.dtype) if not m.training else None)
        run.trainer.run()
        assert set(validated) == {torch.float32}  # as the student is deployed
        wanted = torch.bfloat16 if amp else torch.float32
        assert {dtype for dtype, _ in seen} == {wanted}
        assert {dtype for _, dtypes in seen for dtype in dtypes} == {torch.float32}
        assert {p.dtype for p in run.network.parameters()} == {torch.float32}
        assert not torch.is_autocast_enabled("cpu")
        ends.append(run.trainer.state.output["terms"]["loss"])
    assert ends[0] != ends[1]
    torch.testing.assert_close(ends[1], ends[0], atol=0.05, rtol=0.05)


def test_an_error_in_a_step_leaves_no_autocast_behind(tiny_run: Run) -> None:
    run = tiny_run(max_epochs=1)
    CPUAutocast().attach(run.trainer)

    def fail(engine: Engine) -> None:
        assert torch.is_autocast_enabled("cpu")
        raise RuntimeError("on purpose")

    run.trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        run.trainer.run()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("device", "enabled"), [("cpu", False), ("meta", True)])
def test_nothing_is_attached_where_it_is_off_or_the_trainer_is_not_on_the_cpu(device: str, enabled: bool) -> None:
    trainer = Engine(lambda engine, batch: torch.is_autocast_enabled("cpu"))
    trainer.state.device = torch.device(device)
    CPUAutocast(enabled).attach(trainer)
    assert trainer.run([0]).output is False


def test_what_is_done_when_a_run_fails_is_done_for_all(tiny_run: Run) -> None:
    run, seen = tiny_run(max_epochs=1), []
    on_failure(run.trainer, lambda engine, error: seen.append(str(error)))
    on_failure(run.trainer, lambda engine, error: KeyError("in other words"))
    on_failure(run.trainer, lambda engine, error: seen.append(type(error).__name__))

    def fail(engine: Engine) -> None:
        raise RuntimeError("on purpose")

    run.trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, fail)
    with pytest.raises(KeyError, match="in other words") as caught:
        run.trainer.run()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert seen == ["on purpose", "KeyError"]


def test_3d_students_are_refused() -> None:
    student = Student("resnet10_3d")
    trainer = SupervisedTrainer("cpu", 1, [], student, torch.optim.SGD(student.parameters(), 0.1), torch.nn.MSELoss())
    with pytest.raises(ValueError, match="--amp true: 3D students are trained in float32 on a CPU"):
        CPUAutocast().attach(trainer)
    CPUAutocast(enabled=False).attach(trainer)


@pytest.mark.parametrize("computes", [False, True])
def test_it_is_the_default_where_the_cpu_computes_in_bfloat16(monkeypatch: pytest.MonkeyPatch, computes: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: computes)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert default_amp("cpu") is computes
    assert default_amp("cpu", "resnet18") is computes
    assert default_amp("cpu", "timm:vit_small_patch16_224") is computes
    for slower in ("shufflenet_v2_x1_0", "mobilenet_v2", "timm:tf_efficientnet_lite0", "efficientnet_b0_3d"):
        assert default_amp("cpu", slower) is False
    for volumes in ("resnet10_3d", "densenet121_3d"):
        assert default_amp("cpu", volumes) is False
    assert default_amp("cuda:1", "shufflenet_v2_x1_0") is True
    assert default_amp("cuda:1", "resnet10_3d") is True
    assert amp_settings("cpu") == {}


@pytest.mark.parametrize("bfloat16", [False, True])
def test_type_on_cuda_is_what_the_card_computes_in(monkeypatch: pytest.MonkeyPatch, bfloat16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    assert amp_settings("cuda") == ({"dtype": torch.bfloat16} if bfloat16 else {})
