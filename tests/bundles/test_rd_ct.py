"""The skeleton of the bundles, by the one for CT: what can happen to a run, and what may be made of its student."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from pydicom import dcmread
from pydicom.uid import generate_uid

from monai_rd.datasets import find_studies
from monai_rd.errors import original_error
from monai_rd.handlers import RunLock
from tests.bundles.commands import BUNDLES, QUICK, ROOT, config, infer, monai, score, train
from tests.handlers.test_run_lock import holding

BUNDLE = BUNDLES / "rd_ct"
CONFIGS = BUNDLE / "configs"


def test_inference_scores_every_series(trained: tuple[Path, str], cohort: str, tmp_path: Path) -> None:
    folder = tmp_path / "mixed" / "nested"
    for study in ("study_0001", "study_0002", "study_0003"):
        shutil.copytree(Path(cohort) / study, folder / study)
    sorted((folder / "study_0003").iterdir())[0].unlink()
    sorted((folder / "study_0003").iterdir())[4].unlink()
    (folder / "notes.txt").write_text("junk")
    (folder / "damaged.png").write_text("junk")
    shutil.copytree(Path(cohort) / "study_0004", folder / "study_0004")
    cut = sorted((folder / "study_0004").iterdir())[5]
    cut.write_bytes(cut.read_bytes()[:-1000])
    out = tmp_path / "out"
    printed = infer(trained[0], str(tmp_path / "mixed"), out, "--batch_size", "3")
    assert "2 studies scored, 3 left out (1 MISSING_SLICES, 1 UNREADABLE_IMAGE, 1 TRUNCATED_PIXELS)" in printed
    with open(out / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    studies = find_studies(tmp_path / "mixed", policy={"default": "skip"})
    assert len(rows) == 5
    assert {row["id"] for row in rows} == {one["id"] for one in studies.items} | {studies.problems[0].series_uid}
    assert [row["problem"] for row in rows[:3]] == ["", "", "MISSING_SLICES"]
    assert all(row["message"] for row in rows[2:])
    for row in rows[:2]:
        assert row["class"] in ("clear", "opacity")
        assert float(row["p_clear"]) + float(row["p_opacity"]) == pytest.approx(1, abs=1e-5)
        assert float(row["probability"]) == max(float(row["p_clear"]), float(row["p_opacity"]))
    assert {row["class"] for row in rows[2:]} == {""}
    (row,) = score(trained[0], str(folder / "study_0001"), tmp_path / "alone")
    (same,) = (one for one in rows if one["id"] == row["id"])
    assert float(row["p_clear"]) == pytest.approx(float(same["p_clear"]), abs=1e-5)


def test_labelled_studies_are_measured(trained: tuple[Path, str], cohort: str, tmp_path: Path) -> None:
    """The test split again, by inference: the numbers of the training's own report."""
    words = {"bundle_root": str(trained[0]), "output_dir": str(tmp_path / "out"), "dataset_dir": cohort}
    config("ct", "inference.json", **words, labelled=True).get_parsed_content("evaluator").run()
    before = json.loads((trained[0] / "eval" / "metrics.json").read_text())
    found = json.loads((tmp_path / "out" / "scores_metrics.json").read_text())["metrics"]
    assert found["n"] == before["test"]["student"]["n"]
    for name in ("accuracy", "roc_auc"):
        assert found[name]["value"] == pytest.approx(before["test"]["student"][name]["value"])
    assert found["calibration_error"]["value"] == pytest.approx(before["calibration"]["error"], abs=1e-5)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["model"]["temperature"] == pytest.approx(before["calibration"]["temperature"])
    assert scores["versions"]["monai_rd"]
    for study in scores["studies"]:
        assert study["series"] == study["id"] != study["study"]
        assert len(study["slices"]) == 2
        logits = np.log(study["slices"]).mean(axis=0)  # up to a constant
        assert np.exp(logits) / np.exp(logits).sum() == pytest.approx(list(study["probabilities"].values()), abs=1e-4)


def test_studies_unlike_the_training_are_refused_or_flagged(
    trained: tuple[Path, str], cohort: str, tmp_path: Path
) -> None:
    def change(name: str, keyword: str, value: Any) -> None:
        shutil.copytree(Path(cohort) / "study_0001", tmp_path / "data" / name)
        uid = generate_uid()
        for file in (tmp_path / "data" / name).iterdir():
            dataset = dcmread(file)
            dataset.SeriesInstanceUID = uid
            setattr(dataset, keyword, value)
            dataset.save_as(file)

    change("plain", "SeriesNumber", 1)
    change("other", "Modality", "PT")
    change("dark", "RescaleIntercept", -3000)
    rows = score(trained[0], str(tmp_path / "data"), tmp_path / "out")
    assert sorted((row["problem"], row["flags"]) for row in rows) == [
        ("", ""),
        ("", "UNUSUAL_INTENSITIES"),
        ("WRONG_MODALITY", ""),
    ]
    assert [row["class"] == "" for row in rows] == [False, False, True]


def test_the_policy_of_a_config_is_followed(cohort: str, tmp_path: Path) -> None:
    """A gap, which the headers tell, and cut-off pixels, which loading tells."""
    data = tmp_path / "data"
    shutil.copytree(cohort, data)
    with open(data / "labels.csv", newline="") as file:
        training = [row["image"] for row in csv.DictReader(file) if row["split"] == "training"]
    sorted((data / training[0]).iterdir(), key=lambda path: path.name)[5].unlink()
    cut = sorted((data / training[1]).iterdir())[5]
    cut.write_bytes(cut.read_bytes()[:-1000])

    def training_data(policy: dict[str, str]) -> Any:
        parser = ConfigParser()
        parser.read_config(CONFIGS / "train.json")
        parser.update(
            {
                "dataset_dir": str(data),
                "output_dir": str(tmp_path / "out"),
                "policy": policy,
                "phantom": True,
                "unlabelled": None,
            }
        )
        return parser.get_parsed_content("train#dataset")

    with pytest.raises(RuntimeError) as caught:
        training_data({})
    assert "MISSING_SLICES" in str(original_error(caught.value))
    with pytest.raises(RuntimeError) as caught:
        training_data({"MISSING_SLICES": "skip"})
    assert original_error(caught.value).code == "TRUNCATED_PIXELS"  # type: ignore[attr-defined]
    assert len(training_data({"default": "skip"})) == len(training) - 2
    assert len(training_data({"default": "skip", "MISSING_SLICES": "warn"})) == len(training) - 1


@pytest.mark.slow
def test_evaluate_reports_what_training_reported(trained: tuple[Path, str], cohort: str, tmp_path: Path) -> None:
    """And so it does while another training is at work there, which a second training does not."""
    root = trained[0]
    with holding(root / "models", root / "eval"):
        evaluate_alike(root, cohort)
        assert "another training is at work here (monai.bundle run, process " in train(root, cohort, code=1)
    left = RunLock([root / "models", root / "eval"])  # by the other one, which was killed
    left.acquire()
    left.release()


def evaluate_alike(root: Path, cohort: str) -> None:
    before = json.loads((root / "eval" / "metrics.json").read_text())
    files = str([str(CONFIGS / name) for name in ("train.json", "evaluate.json")])
    places = ["--bundle_root", str(root), "--output_dir", str(root / "eval"), "--dataset_dir", cohort]
    model = (root / "models" / "model.pt").read_bytes()
    printed = monai("run", "--config_file", files, *places, *QUICK)
    assert json.loads((root / "eval" / "metrics.json").read_text()) == before
    assert (root / "models" / "model.pt").read_bytes() == model
    assert "student measured" in printed
    assert not [word for word in ("fitted", "saved") if word in printed]


@pytest.mark.parametrize("form", ["ckpt_export", pytest.param("onnx_export", marks=pytest.mark.slow)])
def test_exports_agree_with_the_network(form: str, trained: tuple[Path, str], tmp_path: Path) -> None:
    root = trained[0]
    file = tmp_path / ("model.ts" if form == "ckpt_export" else "model.onnx")
    if form == "onnx_export":
        runtime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    monai(
        form,
        "network_def",
        "--filepath",
        str(file),
        "--ckpt_file",
        str(root / "models" / "model.pt"),
        "--meta_file",
        str(CONFIGS / "metadata.json"),
        "--config_file",
        str(CONFIGS / "inference.json"),
        "--bundle_root",
        str(root),
    )
    network = config("ct", "inference.json", bundle_root=str(root)).get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(root / "models" / "model.pt", weights_only=True))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(image)
        if form == "ckpt_export":
            found = torch.jit.load(str(file)).eval()(image)
        else:
            session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"student": "resnet19"}, "unknown student 'resnet19'; known: resnet18"),
        ({"method": "kd2"}, "unknown method 'kd2'"),
        ({"dataset_dir": "/nowhere"}, "dataset_dir '/nowhere' is not a folder"),
        ({"teacher": "resnet50"}, "unknown teacher 'resnet50'"),
        ({"num_classes": 5}, "num_classes is 5"),
    ],
)
def test_wrong_input_says_what_to_do(override: dict[str, Any], said: str, cohort: str, tmp_path: Path) -> None:
    places: dict[str, Any] = {"bundle_root": str(tmp_path), "output_dir": str(tmp_path / "eval"), "dataset_dir": cohort}
    places["unlabelled"] = None
    with pytest.raises(RuntimeError) as caught:
        config("ct", "train.json", **{**places, **override}).get_parsed_content("train#trainer")
    assert said in str(original_error(caught.value))
    assert not list(tmp_path.iterdir())


def test_a_failed_run_ends_with_the_cause(cohort: str, tmp_path: Path) -> None:
    printed = train(tmp_path / "rd_ct", cohort, "--batch_size", "1000", code=1)
    assert "smaller --batch_size" in printed.split("The cause:")[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset_dir", "20240131"], "dataset_dir '20240131' is not a folder"),
        (["--dataset_dir", "None"], "dataset_dir 'None' is not a folder"),
        (["--max_epoch", "1"], "nothing reads --max_epoch (did you mean 'max_epochs'?)"),
    ],
)
def test_wrong_words_of_a_command_are_refused(words: list[str], said: str, tmp_path: Path) -> None:
    places = ["--bundle_root", str(tmp_path), "--output_dir", str(tmp_path / "eval")]
    assert said in monai("run", "--config_file", str(CONFIGS / "train.json"), *places, *words, code=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_refusal_is_the_last_line_and_has_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIGS / "train.json"), "--epochs=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("The cause: nothing reads --epochs")
    assert "Traceback" not in done.stderr


def test_inference_before_training_says_so(cohort: str, tmp_path: Path) -> None:
    shutil.copytree(CONFIGS, tmp_path / "rd_ct" / "configs")
    printed = infer(tmp_path / "rd_ct", cohort, tmp_path / "out", code=1)
    assert "no trained model" in printed


@pytest.mark.parametrize("place", [ROOT, BUNDLE, CONFIGS, Path("/")])
def test_the_bundle_is_found_from_anywhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert Path(config("ct", "inference.json").get_parsed_content("bundle_root")) == BUNDLE
