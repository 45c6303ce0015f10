"""NVIDIA FLARE's simulator trains the student that the script of the docs trains by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from monai_rd.phantoms import phantom_cohort
from tests.bundles.commands import ROOT

pytest.importorskip("nvflare", reason="needs pip install nvflare")


@pytest.mark.slow
def test_flare_gives_the_same_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 8, "validation": 8, "test": 8})
    monkeypatch.setattr("monai_rd.phantoms.cohort.POOL", 4)
    cohort = phantom_cohort(tmp_path, "derm")
    words = ["--bundle", "rd_derm", "--dataset_dir", cohort, "--rounds", "2", "--local_epochs", "1", "--device", "cpu"]
    words += ["--batch_size", "4", "--image_size", "32", "--report_page", "false", "--student", "shufflenet_v2_x1_0"]
    words += ["--unlabelled", "None"]
    found, first = [], tmp_path / "flare" / "first.pt"
    for script in ("federated", "flare"):
        command = [sys.executable, str(ROOT / "docs" / "guide" / f"{script}.py"), script, *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        models = [tmp_path / script / name / "models" / "model.pt" for name in ("site_a", "site_b")]
        assert models[0].read_bytes() == models[1].read_bytes()
        found.append(torch.load(models[0], weights_only=True))
    mine, theirs = found
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        torch.testing.assert_close(theirs[key].to(value.dtype), value, atol=0, rtol=0, msg=key)
    begun = torch.load(first, weights_only=True)
    assert all(not torch.equal(begun[key], mine[key]) for key in ("classifier.weight", "backbone.conv1.0.weight"))
