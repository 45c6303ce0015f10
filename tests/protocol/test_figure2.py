"""Figure 2 from trainings that lie there, without training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_rd.adapters import build_adapter, save_adapted
from monai_rd.networks import Student, load_teacher
from monai_rd.phantoms import phantom_cohort
from monai_rd.protocol.experiments import TABLES, Experiment, experiment
from monai_rd.protocol.figure2 import at_size, figure_report, planes_of
from monai_rd.protocol.tables import write_files


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Two seeds of each row, with random weights; ce's student of seed 1 is kd_full's."""
    split = {"training": 8, "validation": 8, "test": 8}
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT", split)
    words = ["--image_size", "32", "--teacher_size", "48", "--slices", "2", "--device", "cpu"]
    made = experiment(TABLES["figure2"], tmp_path / "out", phantom_cohort(tmp_path), seeds=2, words=words)
    base = load_teacher("phantom_ct")
    for (row, _, seed), run in made.runs.items():
        folder = run.folder(tmp_path / "out")
        (folder / "models").mkdir(parents=True)
        torch.manual_seed(100 * seed if row.name == "kd_full" else 100 * seed + (row.name == "rd" or not seed))
        torch.save(Student("resnet18", 2).state_dict(), folder / "models" / "model.pt")
        if row.adapter:
            save_adapted(folder / "teacher_full.safetensors", build_adapter("full", base, 2), base)
    return made


@pytest.mark.parametrize("shape", [(2, 4, 3, 24, 24), (2, 1, 8, 24, 24)], ids=["bags", "volumes"])
def test_each_network_sees_an_image_at_its_own_size(shape: tuple[int, ...]) -> None:
    seen: list[torch.Tensor] = []
    image, own = torch.rand(shape), [8, 16, 16] if shape[1] == 1 else [16, 16]
    at_size(lambda one: seen.append(one) or one, own)(image)
    at_size(lambda one: seen.append(one) or one, list(shape[-len(own) :]))(image)
    small, same = seen
    assert small.shape == (*shape[: 5 - len(own)], *own)
    assert small.mean().item() == pytest.approx(image.mean().item(), abs=0.02)
    assert same is image


@pytest.mark.slow
def test_planes_and_agreement(trained: Experiment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planes, names = planes_of(trained, trained.columns[0], out, triples=3, resolution=5)
    assert (len(planes), len(planes[0]), names) == (2, 3, ["clear", "opacity"])
    assert list(planes[0][0].labels) == ["tuned teacher", "ce", "kd_full", "rd"]
    assert planes[1][0].agreement("ce", "kd_full") == 1
    assert planes[0][0].images.shape == (3, 2, 3, 48, 48)  # the larger of the two sizes
    assert not torch.equal(planes[0][0].images, planes[0][1].images)
    assert torch.equal(planes[0][1].images, planes[1][1].images)

    report = figure_report(trained, out, 3, 5, "monai-rd benchmark figure2", {"torch": "x"})
    found = {one["method"]: one for one in report.records}
    expected = [[plane.agreement("tuned teacher", "rd") for plane in of_seed] for of_seed in planes]
    assert found["rd"]["mean"] == pytest.approx(torch.tensor(expected).mean().item())
    assert (found["rd"]["seeds"], found["rd"]["planes"]) == (2, 3)
    for suffix in ("png", "svg"):
        assert (out / f"figure2_phantom_ct_resnet18.{suffix}").stat().st_size > 5000
    assert "| phantom_ct | resnet18 | rd - kd_full |" in report.markdown()
    write_files(report, out)
    assert (out / "figure2.html").read_text().count("<svg") == 1
