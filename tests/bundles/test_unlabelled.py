"""Trainings with unlabelled images, and with a teacher that sees its own size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_rd.cache.feature_store import list_stores
from monai_rd.no_label import NO_LABEL
from monai_rd.phantoms import is_phantom
from tests.bundles.commands import BUNDLES, MODALITIES, QUICK, ROOT, config, copied, monai, torchrun, train
from tests.processes import kill_module_at

CONFIGS = BUNDLES / "rd_ct" / "configs"


@pytest.fixture(scope="session")
def pool(pool_of: Callable[[str], str]) -> str:
    return pool_of("ct")


def test_the_pool_of_phantoms_is_no_cohort_and_has_no_labels(cohort: str, pool: str) -> None:
    assert is_phantom(cohort)
    assert not (Path(pool) / "labels.csv").exists()
    assert len([one for one in Path(pool).iterdir() if one.is_dir()]) == 12


def test_batches_bring_unlabelled_items_and_the_teacher_its_own_size(cohort: str, pool: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset_dir": cohort, "output_dir": str(tmp_path), "image_size": 32, "slices": 2}
    settings |= {"phantom": True, "num_workers": 0, "batch_size": 4}
    both = config("ct", "train.json", **settings, unlabelled=pool, unlabelled_share=0.6, teacher_size=64)
    plain = config("ct", "train.json", **settings, unlabelled=None)
    loader = both.get_parsed_content("train#dataloader")
    batch = next(iter(loader))
    assert len(loader) == 8
    assert batch["image"].shape == (10, 2, 3, 32, 32)
    assert batch["teacher_image"].shape == (10, 2, 3, 64, 64)
    assert (batch["label"] == NO_LABEL).tolist() == [False] * 4 + [True] * 6
    smaller = torch.nn.functional.avg_pool2d(batch["teacher_image"].flatten(0, 1), 2).reshape(batch["image"].shape)
    assert torch.corrcoef(torch.stack([smaller.flatten(), batch["image"].flatten()]))[0, 1] > 0.98  # one view
    for index in (0, 5):  # the deployed student sees what it sees where no teacher stands beside it
        seen = [parser.get_parsed_content("validate#dataset")[index]["image"] for parser in (both, plain)]
        assert torch.equal(*seen)
    assert "teacher_image" not in plain.get_parsed_content("train#dataset")[0]


@pytest.mark.parametrize(("method", "share"), [("ce", 0.75), ("crd", 0.75), ("rd", 0)])
def test_what_cannot_use_them_is_not_shown_them(
    method: str, share: float, cohort: str, pool: str, tmp_path: Path
) -> None:
    settings = {"dataset_dir": cohort, "output_dir": str(tmp_path), "unlabelled": pool, "unlabelled_share": share}
    parser = config("ct", "train.json", **settings, method=method)
    assert parser.get_parsed_content("train#dataset").sizes == (32, 0)
    assert parser.get_parsed_content("method_def") is not None


@pytest.mark.parametrize(
    ("given", "with_them"),
    [
        ({}, True),
        ({"unlabelled": None}, False),
        ({"unlabelled_share": 0}, False),
        (json.loads((CONFIGS / "paper.json").read_text()), False),
    ],
    ids=["given", "none", "share 0", "paper"],
)
def test_rd_is_as_published_without_them(
    given: dict[str, Any], with_them: bool, cohort: str, pool: str, tmp_path: Path
) -> None:
    settings = {"dataset_dir": cohort, "output_dir": str(tmp_path), "phantom": True, "unlabelled": pool} | given
    parser = config("ct", "train.json", **settings)
    method, told = parser.get_parsed_content("method_def"), parser.get_parsed_content("settings#method_options")
    is_as = (method.detach_teacher, method.beta[1], method.kl.calibrated)
    assert is_as == ((True, 1.0, True) if with_them else (False, 0.0, False))
    assert told == ({"detach_teacher": True, "beta": [1.0, 1.0], "calibrated": True} if with_them else {})


def words(pool: str) -> list[str]:
    return [*QUICK, "--unlabelled", pool, "--teacher_size", "48", "--feature_views", "2", "--epoch_steps", "3"]


@pytest.mark.slow
def test_resume_after_a_kill_ends_at_the_same_numbers(cohort: str, pool: str, tmp_path: Path) -> None:
    """Killed by the system after the first epoch was saved; an epoch is less than a round of either kind of items."""
    roots, mixed = (
        (copied("ct", tmp_path / "whole"), copied("ct", tmp_path / "killed")),
        [*words(pool), "--cutmix", "true"],
    )
    printed = train(roots[0], cohort, *mixed, quick=False)
    assert "unlabelled: 12 of 12 images" in printed
    assert [(info.items, info.views) for info in list_stores(roots[0] / "eval" / "features")] == [(44, 2)]
    places = ["--bundle_root", str(roots[1]), "--output_dir", str(roots[1] / "eval"), "--dataset_dir", cohort]
    typed = ["run", "--config_file", str(CONFIGS / "train.json"), *places, *mixed]
    kill_module_at("epoch   1/2", "monai.bundle", *typed, cwd=ROOT, output=tmp_path / "printed.txt")
    assert "going on after epoch 1 of 2" in train(roots[1], cohort, *mixed, "--resume", "true", quick=False)
    found = [json.loads((root / "eval" / "metrics.json").read_text()) for root in roots]
    assert found[0] == found[1]
    first, second = (torch.load(root / "models" / "model.pt", weights_only=True) for root in roots)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    both = str([str(CONFIGS / name) for name in ("train.json", "evaluate.json")])
    places[1], places[3] = str(roots[0]), str(roots[0] / "eval")
    monai("run", "--config_file", both, *places, *mixed)  # unlabelled images have no part in it
    assert json.loads((roots[0] / "eval" / "metrics.json").read_text()) == found[0]


@pytest.mark.slow
def test_two_processes(cohort: str, pool: str, tmp_path: Path) -> None:
    root = copied("ct", tmp_path)
    files = str([str(CONFIGS / name) for name in ("train.json", "multi_gpu_train.json")])
    places = ["--bundle_root", str(root), "--output_dir", str(root / "eval"), "--dataset_dir", cohort]
    printed = torchrun("run", "--config_file", files, *places, *words(pool), "--batch_size", "4", processes=2)
    assert printed.count("epoch   2/2") == 1
    assert printed.count("100 % of the items with stored teacher features") == 1
    assert [(info.items, info.views) for info in list_stores(root / "eval" / "features")] == [(44, 2)]
    path = json.loads((root / "eval" / "history.json").read_text())[1]["teacher_path"]
    assert {"validation_accuracy", "unlabelled_confidence"} < path.keys()
    assert json.loads((root / "eval" / "metrics.json").read_text())["test"]["student"]["n"] == 8
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    assert not any(key.startswith("module.") for key in state)


@pytest.mark.slow
def test_a_fitted_teacher_answers_for_them(cohort: str, pool: str, tmp_path: Path) -> None:
    root = copied("ct", tmp_path)
    printed = train(root, cohort, "--unlabelled", pool, "--teacher_size", "48", "--method", "pseudo")
    assert "epoch   2/2" in printed
    assert set(json.loads((root / "eval" / "metrics.json").read_text())["test"]) == {"student", "tuned teacher"}


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_bundle_fits_its_teacher_in_folds(modality: str, cohort_of: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset_dir": cohort_of(modality), "output_dir": str(tmp_path), "unlabelled": None}
    for method, cross_fit, wanted in (("kd", 4, {0, 1, 2, 3}), ("kd", None, None), ("rd", 4, None)):
        parser = config(modality, "train.json", **settings, method=method, cross_fit=cross_fit)
        folds = parser.get_parsed_content("teacher_network#folds")
        assert (None if folds is None else set(folds)) == wanted
        assert folds is None or len(folds) == len(parser.get_parsed_content("data").training)
        assert parser.get_parsed_content("settings#cross_fit") == cross_fit
        assert parser.get_parsed_content("teacher_network#reads_features") == (method == "rd")


@pytest.mark.slow
def test_a_teacher_in_folds_answers_for_both(cohort: str, pool: str, tmp_path: Path) -> None:
    root = copied("ct", tmp_path)
    common = [*words(pool), "--method", "kd"]
    printed = train(root, cohort, *common, "--cross_fit", "2", quick=False)
    assert re.search(r"teacher 2 of 2 is fitted to 1\d of 32 images", printed)
    assert printed.count(" views in ") == 2  # of the labelled images for the fits, then of the others
    assert [(info.items, info.views) for info in list_stores(root / "eval" / "features")] == [(44, 2)]
    metrics = json.loads((root / "eval" / "metrics.json").read_text())
    assert set(metrics["test"]) == {"student", "tuned teacher"}
    assert metrics["settings"]["cross_fit"] == 2
    printed = train(root, cohort, *common, "--cross_fit", "2", "--resume", "true", quick=False)
    assert "going on after epoch 2 of 2" in printed
    assert printed.count("was tuned before") == 2
    assert json.loads((root / "eval" / "metrics.json").read_text()) == metrics
    printed = train(root, cohort, *common, "--cross_fit", "3", "--resume", "true", quick=False, code=1)
    assert "cross_fit was 2, now 3" in printed


@pytest.mark.slow
def test_pictures_without_a_label(cohort_of: Any, pool_of: Any, tmp_path: Path) -> None:
    root = copied("derm", tmp_path)
    printed = train(
        root, cohort_of("derm"), "--unlabelled", pool_of("derm"), "--teacher_size", "48", "--cutmix", "true"
    )
    assert "unlabelled: 12 of 12 images" in printed
