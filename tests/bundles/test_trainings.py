"""Other trainings of the bundle for CT: stopped, in two processes, with a shared teacher, a real one."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_rd.cache.feature_store import list_stores
from tests.bundles.commands import BUNDLES, PLANTED, QUICK, ROOT, copied, monai, train
from tests.processes import kill_module_at
from tests.small import SMALL

REAL = ROOT.parent / "shared" / "data"
CONFIGS = BUNDLES / "rd_ct" / "configs"


@pytest.mark.slow
def test_resume_after_a_kill_ends_at_the_same_numbers(trained: tuple[Path, str], cohort: str, tmp_path: Path) -> None:
    """Killed by the system (SIGKILL) after the first epoch was saved; then the same command with --resume true."""
    root = copied("ct", tmp_path)
    places = ["--bundle_root", str(root), "--output_dir", str(root / "eval"), "--dataset_dir", cohort]
    words = ["run", "--config_file", str(CONFIGS / "train.json"), *places, *QUICK]
    kill_module_at("epoch   1/2", "monai.bundle", *words, cwd=ROOT, output=tmp_path / "printed.txt")
    assert not (root / "eval" / "metrics.json").exists()
    printed = train(root, cohort, "--resume", "true")
    assert "going on after epoch 1 of 2" in printed
    for file in ("eval/metrics.json", "models/settings.json"):
        assert json.loads((root / file).read_text()) == json.loads((trained[0] / file).read_text())
    first, second = (torch.load(r / "models" / "model.pt", weights_only=True) for r in (trained[0], root))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.slow
def test_students_share_a_tuned_teacher(cohort: str, tmp_path: Path) -> None:
    # One precision for both: the default differs between students on a CPU with bfloat16 instructions.
    words = ["--method", "kd", "--max_epochs", "1", "--adapters_dir", str(tmp_path / "adapters"), "--amp", "false"]
    printed = [
        train(copied("ct", tmp_path / student), cohort, *words, "--student", student)
        for student in (SMALL, "timm:test_efficientnet")
    ]
    assert ["epoch 1 of 1" in one for one in printed] == [True, False]
    assert ["was tuned before" in one for one in printed] == [False, True]
    for line in (line for one in printed for line in one.splitlines() if line.startswith("epoch   1/1")):
        assert re.search(r"= 1\.00\*[\d.]+ ce \+ 1\.00\*[\d.]+ kd  \|", line)


@pytest.mark.slow
def test_two_processes(cohort: str, tmp_path: Path) -> None:
    root = copied("ct", tmp_path)
    files = str([str(CONFIGS / name) for name in ("train.json", "multi_gpu_train.json")])
    places = ["--bundle_root", str(root), "--output_dir", str(root / "eval"), "--dataset_dir", cohort]
    words = [*QUICK, "--batch_size", "8", "--feature_views", "2"]
    printed = monai("run", "--config_file", files, *places, *words, processes=2)
    assert printed.count("epoch   2/2") == 1
    assert printed.count("50 % of the items with stored teacher features") == 1
    assert [info.views for info in list_stores(root / "eval" / "features")] == [2]
    assert json.loads((root / "eval" / "metrics.json").read_text())["test"]["student"]["n"] == 8
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    assert not any(key.startswith("module.") for key in state)


def test_mlflow_keeps_the_numbers_and_no_names(cohort: str, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    root, data = copied("ct", tmp_path), tmp_path / "MUELLER_HANS"
    shutil.copytree(cohort, data)
    train(root, str(data), "--tracking", str(CONFIGS / "mlflow.json"))
    with closing(sqlite3.connect(root / "eval" / "mlruns.db")) as database:
        kept = {(name, step) for name, step in database.execute("select key, step from metrics")}
        settings = dict(database.execute("select key, value from params"))
        assert database.execute("select name, status from runs").fetchall() == [(f"rd {SMALL} seed 3", "FINISHED")]
    named = ["loss", "student_ce", "teacher_ce", "kl", "cka", "val_accuracy", "val_auc"]
    path = ("train_accuracy", "train_confidence", "cka", "validation_accuracy", "validation_auc", "temperature")
    named += [f"teacher_path_{name}" for name in path]
    assert kept == {(name, epoch) for name in named for epoch in (1, 2)}
    assert settings["image_size"] == "32"
    for path in (one for one in (root / "eval").rglob("*") if one.is_file()):
        for word in ("MUELLER", "PHANTOM-", *PLANTED.values()):
            assert word.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_covid_ct_with_a_black_box_teacher(tmp_path: Path) -> None:
    """Real images and a real int8 network, a few steps on the official split."""
    data, teacher = REAL / "COVID-CT", REAL / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
    if not data.is_dir() or not teacher.is_file():
        pytest.skip("needs COVID-CT and the int8 MobileNetV2, which the project does not ship")
    pytest.importorskip("ai_edge_litert")
    words = ["--bundle_root", str(tmp_path), "--output_dir", str(tmp_path / "eval"), "--dataset_dir", str(data)]
    words += ["--teacher", str(teacher), "--max_epochs", "1", "--image_size", "64", "--student", "shufflenet_v2_x1_0"]
    words += ["--epoch_steps", "10", "--report_page", "false"]
    printed = monai("run", "--config_file", str(CONFIGS / "train.json"), *words)
    assert "training 425 (234 NonCOVID, 191 COVID); validation 118 (58 NonCOVID, 60 COVID); test 203" in printed
    result = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert result["test"]["student"]["n"] == 203
    assert result["phantom"] is False
    assert "PHANTOMS" not in printed
    assert np.isfinite(result["test"]["reprogrammed teacher"]["roc_auc"]["value"])
