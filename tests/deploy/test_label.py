"""MONAI Label: the folder it serves, what it reads of a bundle, and its real server where there is one."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from monai.transforms import Compose
from typer.testing import CliRunner

from monai_rd.__main__ import app as command
from monai_rd.deploy.label import write_label_app
from tests.bundles.commands import MODALITIES, config, score
from tests.deploy.trained import CLASS_NAMES, trained_bundle
from tests.dicom_files import make_series, oblique

SHARED_SHAPE = (40, 56)
TASK = "rd_ct_classification"


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


def label_python() -> str:
    """Python of an environment with MONAI Label and this package (docs/monai_label.md)."""
    python = os.environ.get("MONAI_LABEL_PYTHON")
    if not python:
        pytest.skip("MONAI_LABEL_PYTHON does not name the Python of an environment with MONAI Label")
    return python


@contextmanager
def running(command: list[str], port: int, page: str, home: Path) -> Iterator[str]:
    """A server, until it answers and to its end; what it printed is shown if it does not."""
    home.mkdir(exist_ok=True)
    log = home / "log.txt"
    with open(log, "w") as out:
        server = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=home,
            env={**os.environ, "HOME": str(home), "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}"},
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(address + page, timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"no answer: {log.read_text()[-3000:]}")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def label_server(app: Path, studies: str, home: Path, *conf: str) -> Iterator[str]:
    port = free_port()
    words = ["-m", "monailabel.main", "start_server", "--host", "127.0.0.1", "--port", str(port)]
    command = [label_python(), *words, "--app", str(app), "--studies", studies, *conf]
    with running(command, port, "/info/", home) as address:
        yield address


def ask(address: str, image: str = "", file: Path | None = None) -> Any:
    requests = pytest.importorskip("requests")
    files = {"params": (None, '{"device": "cpu"}')} | ({} if file is None else {"file": (file.name, file.read_bytes())})
    return requests.post(f"{address}/infer/{TASK}?output=json&image={image}", files=files, timeout=120)


class Cohort:
    """Two CT series, one of them oblique and with a mark outside its field of view; the same as NIfTI."""

    def __init__(self, folder: Path) -> None:
        self.bundle = trained_bundle(folder)
        self.dicom, self.nifti = folder / "dicom", folder / "nifti"
        self.nifti.mkdir()
        self.uids = {}
        for name, how in {"axial": {}, "oblique": {"orientation": oblique(), "change": self._mark}}.items():
            self.uids[name], _ = make_series(self.dicom / name, slices=9, shape=SHARED_SHAPE, seed=len(name), **how)
            reader = SimpleITK.ImageSeriesReader()  # as MONAI Label converts DICOM
            reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(self.dicom / name)))
            SimpleITK.WriteImage(reader.Execute(), str(self.nifti / f"{name}.nii.gz"))
        names = {uid: name for name, uid in self.uids.items()}
        rows = score(self.bundle, str(self.dicom), folder / "scores")
        self.expected = {names[row["series"]]: [float(row[f"p_{one}"]) for one in CLASS_NAMES] for row in rows}

    @staticmethod
    def _mark(number: int, dataset: Any) -> None:
        pixels = np.frombuffer(dataset.PixelData, np.int16).reshape(SHARED_SHAPE).copy()
        pixels[:14, :20] = -2000
        dataset.PixelData, dataset.PixelPaddingValue = pixels.tobytes(), -2000


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort(tmp_path_factory.mktemp("cohort"))


def test_nifti_of_a_series_has_its_probabilities(cohort: Cohort, tmp_path: Path) -> None:
    rows = score(cohort.bundle, str(cohort.nifti), tmp_path)
    found = {name: [float(row[f"p_{one}"]) for one in CLASS_NAMES] for name, row in zip(cohort.uids, rows, strict=True)}
    for name, probabilities in cohort.expected.items():
        assert found[name] == pytest.approx(probabilities, abs=1e-5), name
    assert max(abs(a - b) for a, b in zip(*found.values(), strict=True)) > 1e-3  # the student tells them apart


def assert_answer(answer: dict[str, Any], expected: list[float], names: list[str]) -> None:
    said = answer["prediction"]
    assert [(one["idx"], one["label"]) for one in said] == list(enumerate(names))
    assert [one["score"] for one in said] == pytest.approx(expected, abs=1e-5)
    assert answer["label_names"] == {name: number for number, name in enumerate(names)}


def test_the_server_answers_as_the_bundle_does(cohort: Cohort, tmp_path: Path) -> None:
    write_label_app(tmp_path / "app", [cohort.bundle])
    with label_server(tmp_path / "app", str(cohort.nifti), tmp_path / "home") as address:
        for name, expected in cohort.expected.items():
            answer = ask(address, name).json()
            assert_answer(answer, expected, CLASS_NAMES)
            assert answer["flags"] == []
        answer = ask(address, file=cohort.nifti / "axial.nii.gz").json()
        assert_answer(answer, cohort.expected["axial"], CLASS_NAMES)
        (tmp_path / "bad.nii.gz").write_bytes(b"no volume")
        refused = ask(address, file=tmp_path / "bad.nii.gz")
        assert (refused.status_code, refused.json()["detail"]["problem"]) == (422, "UNREADABLE_IMAGE")
        unknown = ask(address, "nobody")
        assert (unknown.status_code, unknown.json()["detail"]["problem"]) == (422, "NO_IMAGE")


def test_a_model_that_does_not_fit_stops_the_server(cohort: Cohort, tmp_path: Path) -> None:
    python = label_python()
    (copy,) = write_label_app(tmp_path / "app", [cohort.bundle])
    weights = torch.load(copy / "models" / "model.pt", weights_only=True)
    torch.save({key: value for key, value in weights.items() if "layer4" not in key}, copy / "models" / "model.pt")
    code = "import sys, main; main.ClassifierTask(sys.argv[1], {})"
    done = subprocess.run(
        [python, "-c", code, str(copy)], cwd=tmp_path / "app", capture_output=True, text=True, timeout=300, check=False
    )
    assert "is another network than the settings beside it" in done.stderr


def test_monai_labels_own_bundle_app_answers_the_same(cohort: Cohort, tmp_path: Path) -> None:
    (copy,) = write_label_app(tmp_path / "app", [cohort.bundle])
    get = [label_python(), "-m", "monailabel.main", "apps", "--download", "--name", "monaibundle"]
    subprocess.run([*get, "--output", str(tmp_path / "apps")], check=True, capture_output=True, timeout=300)
    model = tmp_path / "apps" / "monaibundle" / "model"
    model.mkdir()
    (model / copy.name).symlink_to(copy)
    conf = {"models": copy.name, "zoo_source": "github", "skip_trainers": "true", "sam2": "false"}
    words = [word for name, value in conf.items() for word in ("--conf", name, value)]
    with label_server(model.parent, str(cohort.nifti), tmp_path / "home", *words) as address:
        for name, expected in cohort.expected.items():
            assert_answer(ask(address, name).json(), expected, [one.lower() for one in CLASS_NAMES])


def test_series_of_a_pacs_by_dicomweb(cohort: Cohort, tmp_path: Path) -> None:
    label_python()
    plugin, orthanc = (
        Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),
        shutil.which("Orthanc", path="/usr/sbin"),
    )
    if orthanc is None or not plugin.is_file():
        pytest.skip("no Orthanc with its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
    write_label_app(tmp_path / "app", [cohort.bundle])
    port = free_port()
    settings = {
        "StorageDirectory": str(tmp_path / "pacs"),
        "IndexDirectory": str(tmp_path / "pacs"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(plugin)],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with running([orthanc, str(tmp_path / "orthanc.json")], port, "/system", tmp_path / "orthanc") as pacs:
        for file in cohort.dicom.rglob("*.dcm"):
            urllib.request.urlopen(f"{pacs}/instances", data=file.read_bytes(), timeout=60).close()
        with label_server(tmp_path / "app", f"{pacs}/dicom-web", tmp_path / "home") as address:
            for name, expected in cohort.expected.items():
                assert_answer(ask(address, cohort.uids[name]).json(), expected, CLASS_NAMES)
