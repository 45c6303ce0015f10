"""A training with two teachers at once, stopped and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from monai_rd.bundle import bundle_config
from monai_rd.cache.feature_store import list_stores
from monai_rd.networks.teacher.several import SeveralTeachers
from tests.bundles.commands import MODALITIES, copied, train


@pytest.mark.slow
def test_two_teachers_are_one_in_store_settings_report_and_after_a_stop(
    cohort_of: Callable[[str], str], tmp_path: Path
) -> None:
    root, options = copied("ct", tmp_path), [{"turn": "RAS"}, {"tap": "layer3", "mean": 0.5}]
    words = ["--teacher", "phantom_ct,phantom_mr", "--teacher_options", str(options), "--feature_views", "2"]
    words += ["--total_epochs", "2", "--amp", "false"]
    train(root, cohort_of("ct"), *words, "--max_epochs", "1")
    with safe_open(root / "eval" / "teacher_statistics.safetensors", "pt") as file:
        run = file.metadata()["run"]
    train(root, cohort_of("ct"), *words, "--max_epochs", "2", "--resume", "true")
    metrics = json.loads((root / "eval" / "metrics.json").read_text())
    assert set(metrics["test"]) == {"student", "reprogrammed teacher"}
    settings = json.loads((root / "models" / "settings.json").read_text())
    assert (settings["teacher"], settings["teacher_options"]) == ("phantom_ct,phantom_mr", options)
    (store,) = list_stores(root / "eval" / "features")
    assert (store.notes, store.views) == ({"teacher": "phantom_ct,phantom_mr"}, 2)
    with safe_open(root / "eval" / "teacher_statistics.safetensors", "pt") as file:
        assert file.metadata()["run"] == run


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_bundle_hands_names_and_options_on(modality: str, tmp_path: Path) -> None:
    options = [{"size": "null"}, {"turn": "LPS"}]
    given = {"teacher": "phantom_ct,phantom_mr", "teacher_options": options, "phantom": False}
    parser = bundle_config(f"rd_{modality}", {**given, "dataset_dir": str(tmp_path)})
    backbone = parser.get_parsed_content("teacher_def").backbone
    assert isinstance(backbone, SeveralTeachers)
    assert [one.preprocessing.size for one in backbone.teachers] == [None, 96]
    assert [one.preprocessing.turn for one in backbone.teachers] == [None, "LPS"]
