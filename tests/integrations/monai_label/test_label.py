"""MONAI Label: the folder it serves, what it reads of a bundle, and its real server where there is one."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from monai.transforms import Compose
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from monai_rd.cli.app import app as command
from monai_rd.files import sha256
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.monai_label import label_app
from monai_rd.integrations.monai_label.application import write_label_app
from tests.bundles.commands import MODALITIES, config
from tests.dicom_files import make_series
from tests.servers import label_python, label_server, running_orthanc
from tests.small import SMALL
from tests.trained import trained_bundle

TASK = "rd_ct_classification"
APP = Path(label_app.__file__).with_name("main.py")


def test_the_app_is_complete_and_says_what_the_student_was_trained_on(tmp_path: Path) -> None:
    bundle = trained_bundle(tmp_path)
    done = CliRunner().invoke(command, ["label-app", str(tmp_path / "app"), str(bundle)])
    assert done.exit_code == 0, done.output
    copy = tmp_path / "app" / "model" / TASK
    classes = [
        node for node in ast.parse((tmp_path / "app" / "main.py").read_text()).body if isinstance(node, ast.ClassDef)
    ]
    apps = [one.name for one in classes if "MONAILabelApp" in [ast.unparse(base) for base in one.bases]]
    assert apps == ["ClassificationApp"]  # MONAI Label looks for the first such class
    answer = json.loads((copy / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert answer["channel_def"] == {"0": "no finding", "1": "COVID", "2": "Other"}
    assert (answer["num_channels"], answer["spatial_shape"]) == (3, [1, 3])
    assert (copy / "models" / "model.pt").read_bytes() == (bundle / "models" / "model.pt").read_bytes()


def test_no_app_of_what_cannot_be_served(tmp_path: Path) -> None:
    bundle = trained_bundle(tmp_path / "a")
    with pytest.raises(ValueError, match="different names"):
        write_label_app(tmp_path / "app", [bundle, trained_bundle(tmp_path / "b")])
    (bundle / "models" / "settings.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks models/settings\.json"):
        write_label_app(tmp_path / "app", [bundle])
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"run the bundle's train\.json first"):
        write_label_app(tmp_path / "app", [bundle])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    (tmp_path / "app").mkdir()
    with pytest.raises(FileExistsError, match="remove it"):
        write_label_app(tmp_path / "app", [bundle])


# What this package installs and the environment of docs/guide/monai_label.md lacks.
LACKING = (
    "highdicom",
    "imagecodecs",
    "imagehash",
    "onnx",
    "open_clip",
    "openpyxl",
    "peft",
    "rich",
    "tenacity",
    "typer",
)


@pytest.mark.slow
def test_the_app_needs_no_package_that_its_environment_lacks(tmp_path: Path) -> None:
    bundle, main = trained_bundle(tmp_path), ast.parse(APP.read_text(encoding="utf-8"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((5, 24, 40), np.float32)), str(tmp_path / "a.nii.gz"))
    ours = [
        ast.unparse(one) for one in main.body if isinstance(one, ast.ImportFrom) and "monai_rd" in (one.module or "")
    ]
    code = [f"import sys; sys.modules.update(dict.fromkeys({LACKING}))", *ours]
    code += [
        "(found,) = Predictor(TrainedBundle(sys.argv[1])).score([item_of_image(sys.argv[2])])",
        "print(found.problem)",
    ]
    command = [sys.executable, "-c", "\n".join(code), str(bundle), str(tmp_path / "a.nii.gz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


@pytest.mark.parametrize("modality", MODALITIES)
def test_inference_has_what_monai_label_reads(modality: str, tmp_path: Path) -> None:
    """Its own bundle app goes by these ids, adds a step that trips over `spatial_shape`, and cannot remove writers."""
    bundle = trained_bundle(tmp_path, modality)
    parser = config(modality, "inference.json", bundle_root=str(bundle), device="cpu")
    preprocessing, postprocessing = (parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing"))
    assert isinstance(preprocessing, Compose)
    assert [type(one).__name__ for one in postprocessing.transforms] == ["Activationsd"]
    network, inferer = parser.get_parsed_content("network_def"), parser.get_parsed_content("inferer")
    ramp = np.tile(np.arange(40, dtype=np.uint8) * 5, (5, 24, 1))
    if modality in ("ct", "mr"):
        study, image = tmp_path / "study.nii.gz", SimpleITK.GetImageFromArray(ramp.astype(np.float32))
    else:
        colours = np.stack([ramp[0], ramp[0] // 2, 200 - ramp[0]], axis=-1)
        study, image = tmp_path / "study.png", SimpleITK.GetImageFromArray(colours, isVector=True)
    SimpleITK.WriteImage(image, str(study))
    data: dict[str, Any] = {"image": str(study)}
    for transform in preprocessing.transforms:
        data = transform(data)
    assert "spatial_shape" not in data["image"].meta
    data["pred"] = inferer(data["image"][None], network.eval())[0]
    assert data["pred"].array.shape == (3,)  # a MetaTensor
    assert postprocessing(data)["pred"].sum().item() == pytest.approx(1)
    # Its own app does not load strictly: the student does.
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({"classifier.weight": torch.zeros(3, 512)}, strict=False)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    assert [next(iter(metadata[side])) for side in ("inputs", "outputs")] == ["image", "pred"]


def test_the_server_refuses_what_it_cannot_score(tmp_path: Path) -> None:
    label_python()
    write_label_app(tmp_path / "app", [trained_bundle(tmp_path)])
    studies = tmp_path / "studies"
    studies.mkdir()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((5, 24, 40), np.float32)), str(studies / "air.nii.gz"))
    with label_server(tmp_path / "app", str(studies), tmp_path / "home", TASK) as server:
        uploaded = server.ask(file=studies / "air.nii.gz").json()
        assert (uploaded["flags"], uploaded["prediction"]) == ([], server.ask("air").json()["prediction"])
        (served,) = (tmp_path / "app" / "model").iterdir()
        assert uploaded["model"] == {"sha256": sha256(served / "models" / "model.pt")}
        (tmp_path / "bad.nii.gz").write_bytes(b"no volume")
        refused = server.ask(file=tmp_path / "bad.nii.gz")
        assert (refused.status_code, refused.json()["detail"]["problem"]) == (422, "UNREADABLE_IMAGE")
        for name in ("nobody", "1.2.3", "..", "../studies", "a b", "%00"):
            unknown = server.ask(name)
            assert (unknown.status_code, unknown.json()["detail"]["problem"]) == (404, "NO_IMAGE"), name


def test_a_series_that_an_archive_does_not_give_is_told(tmp_path: Path) -> None:
    label_python()
    write_label_app(tmp_path / "app", [trained_bundle(tmp_path)])
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        archive = open_archive(orthanc.web)
        uid, _ = make_series(tmp_path / "ct", shape=(24, 24))

        def a_report(k: int, ds: Dataset) -> None:
            ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"
            del ds.PixelData, ds.Rows, ds.Columns

        report, _ = make_series(tmp_path / "sr", slices=1, change=a_report)
        for name in ("ct", "sr"):
            archive.store(sorted((tmp_path / name).iterdir()))
        with label_server(tmp_path / "app", orthanc.web, tmp_path / "home", TASK) as server:
            assert server.ask(uid).status_code == 200
            told = {name: server.ask(name) for name in ("1.2.3", "no-uid", "..", report)}
            orthanc.process.terminate()
            orthanc.process.wait(30)
            told["gone"] = server.ask("1.2.4")
            assert server.ask(uid).status_code == 200  # which the server keeps
    found = {name: (one.status_code, one.json()["detail"]["problem"]) for name, one in told.items()}
    missing = (404, "NO_IMAGE")
    assert found == {
        "1.2.3": missing,
        "no-uid": missing,
        "..": missing,
        report: (422, "NO_IMAGE"),
        "gone": (502, "NO_ANSWER"),
    }


def test_a_model_that_does_not_fit_stops_the_server(tmp_path: Path) -> None:
    python = label_python()
    (copy,) = write_label_app(tmp_path / "app", [trained_bundle(tmp_path)])
    weights = torch.load(copy / "models" / "model.pt", weights_only=True)
    torch.save({key: value for key, value in weights.items() if "layer4" not in key}, copy / "models" / "model.pt")
    code = "import sys, main; main.ClassifierTask(sys.argv[1])"
    done = subprocess.run(
        [python, "-c", code, str(copy)], cwd=tmp_path / "app", capture_output=True, text=True, timeout=300, check=False
    )
    assert f"not the weights of the student '{SMALL}'" in done.stderr
