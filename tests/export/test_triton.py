"""The model repository for Triton: somebody who has only its files gets the bundle's answers, also from a server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from monai_rd.cli.export import _put
from monai_rd.export import export_formats
from monai_rd.inference import TrainedBundle
from tests.bundles.commands import score
from tests.dicom_files import make_series
from tests.export.following import follow
from tests.servers import free_ports, running, triton_python
from tests.trained import trained_bundle

pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

CLASSES = ["well", "größer"]
MODEL = "reprogramming_distillation_chest_ct"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_bundle(tmp_path_factory.mktemp("trained"), class_names=CLASSES, phantom=True)


@pytest.fixture(scope="module")
def model(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder in the repository."""
    files = export_formats(TrainedBundle(bundle), ["triton"], tmp_path_factory.mktemp("exported"))
    return files["triton"] / MODEL


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> list[tuple[np.ndarray, str, list[float]]]:
    """A CT series in HU and a picture of 0 to 255, with the unit and what the bundle says of them."""
    folder = tmp_path_factory.mktemp("studies")
    uid, _ = make_series(folder / "series", slices=7, shape=(100, 90))
    picture = np.random.default_rng(0).integers(0, 256, (70, 30), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "picture.png")
    slices = sorted(map(pydicom.dcmread, (folder / "series").iterdir()), key=lambda one: one.ImagePositionPatient[2])
    stack = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices])
    rows = score(bundle, str(folder), tmp_path_factory.mktemp("eval"))
    answers = {row["id"] == uid: [float(row[f"p_{name}"]) for name in CLASSES] for row in rows}
    return [(stack, "HU", answers[True]), (picture[None], "grey", answers[False])]


def stated(model: Path) -> dict[str, Any]:
    """What the configuration says: a number, a word, or a list of them."""
    text = re.sub(r"#.*", "", (model / "config.pbtxt").read_text())
    found: dict[str, Any] = {part: stated_in(text, part) for part in ("input", "output", "instance_group")}
    return found | {key: value.strip('"') for key, value in re.findall(r"(?m)^(\w+): (\S+)$", text)}


def stated_in(text: str, part: str) -> dict[str, str]:
    block = re.search(rf"(?ms)^{part} \[(.*?)^\]", text)
    assert block is not None
    return {key: value.strip('"') for key, value in re.findall(r"(\w+): (\[.*?\]|\S+)", block[1])}


def test_who_has_the_repository_alone_gets_the_bundles_answers(
    model: Path, images: list[tuple[np.ndarray, str, list[float]]]
) -> None:
    said = stated(model)
    assert (said["name"], said["backend"], said["max_batch_size"]) == (model.name, "onnxruntime", "8")
    assert said["instance_group"] == {"count": "1", "kind": "KIND_AUTO"}
    assert "\ndynamic_batching { }\n" in (model / "config.pbtxt").read_text()
    assert (model / said["output"]["label_filename"]).read_text(encoding="utf-8").splitlines() == CLASSES
    dims = {name: json.loads(said[name]["dims"]) for name in ("input", "output")}
    assert {said[name]["data_type"] for name in dims} == {"TYPE_FP32"}
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
    ((given,), (answer,)) = session.get_inputs(), session.get_outputs()
    for tensor, name in ((given, "input"), (answer, "output")):
        whole = [length if isinstance(length, int) else -1 for length in tensor.shape]
        assert (tensor.name, whole, tensor.type) == (said[name]["name"], [-1, *dims[name]], "tensor(float)")
    manifest = json.loads((model / "manifest.json").read_text(encoding="utf-8"))
    found = []
    for values, unit, expected in images:
        (probabilities,) = session.run([answer.name], {given.name: follow(manifest, values, unit)})
        np.testing.assert_allclose(probabilities[0], expected, atol=1e-5)
        found.append(probabilities[0, 0])
    assert abs(found[0] - found[1]) > 1e-3
    batch = np.random.default_rng(0).random((8, 2, *dims["input"][1:]), dtype=np.float32)
    assert session.run(None, {given.name: batch})[0].shape == (8, *dims["output"])


def test_an_export_leaves_what_else_is_in_the_repository(tmp_path: Path) -> None:
    for folder, text in (("old", "old"), ("new", "new")):
        (tmp_path / folder / MODEL / "1").mkdir(parents=True)
        (tmp_path / folder / MODEL / "1" / "model.onnx").write_text(text)
    (tmp_path / "old" / MODEL / "2").mkdir()
    (tmp_path / "old" / MODEL / "2" / "model.onnx").write_text("mine")
    (tmp_path / "new" / MODEL / "labels.txt").write_text("a")
    _put(tmp_path / "new", tmp_path / "old")
    files = {str(path.relative_to(tmp_path / "old" / MODEL)): path.read_text() for path in tmp_path.rglob("*.*")}
    assert files == {"1/model.onnx": "new", "2/model.onnx": "mine", "labels.txt": "a"}


PYTHON_MODEL = """
import onnxruntime
import triton_python_backend_utils as triton
from pathlib import Path


class TritonPythonModel:
    def initialize(self, given):
        self.session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))

    def execute(self, requests):
        return [self.answer(triton.get_input_tensor_by_name(one, "image").as_numpy()) for one in requests]

    def answer(self, image):
        (found,) = self.session.run(None, {"image": image})
        return triton.InferenceResponse([triton.Tensor("probabilities", found)])
"""
CLIENT = """
import json, sys
import numpy, tritonclient.http as triton
client, name = triton.InferenceServerClient(sys.argv[1]), sys.argv[2]
found = {"config": client.get_model_config(name), "answers": []}
for path in sys.argv[3:]:
    image = numpy.load(path)
    given = triton.InferInput("image", image.shape, "FP32")
    given.set_data_from_numpy(image)
    answer = client.infer(name, [given], outputs=[triton.InferRequestedOutput("probabilities")])
    named = client.infer(name, [given], outputs=[triton.InferRequestedOutput("probabilities", class_count=1)])
    found["answers"].append([answer.as_numpy("probabilities").tolist(), named.as_numpy("probabilities").tolist()])
print(json.dumps(found, default=lambda one: one.decode()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's server is for Linux")
def test_a_triton_server_answers_as_the_bundle(
    model: Path, images: list[tuple[np.ndarray, str, list[float]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server of PyPI has no backend for ONNX: the file runs in its backend for Python; all else is as exported."""
    python = triton_python()
    asked = "import sys, pytriton, sysconfig; print(pytriton.__path__[0], sysconfig.get_config_var('LIBDIR'), "
    asked += "'%d.%d' % sys.version_info[:2])"
    package, libraries, version = subprocess.run(
        [python, "-c", asked], capture_output=True, text=True, check=True
    ).stdout.split()
    server = tmp_path / "server"
    shutil.copytree(Path(package) / "tritonserver", server)
    shutil.copy(
        server / "python_backend_stubs" / version / "triton_python_backend_stub", server / "backends" / "python"
    )
    repository = shutil.copytree(model.parent, tmp_path / "repository")
    config = repository / MODEL / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
    (repository / MODEL / "1" / "model.py").write_text(PYTHON_MODEL)
    manifest = json.loads((repository / MODEL / "manifest.json").read_text(encoding="utf-8"))
    files = []
    for number, (values, unit, _) in enumerate(images):
        files.append(tmp_path / f"{number}.npy")
        np.save(files[-1], follow(manifest, values, unit))
    (port,) = free_ports(1)
    words = [f"--model-repository={repository}", f"--backend-directory={server / 'backends'}", f"--http-port={port}"]
    words += ["--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"]
    own = Path(package).parent / "nvidia_pytriton.libs"
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{own}:{libraries}")
    monkeypatch.setenv("PATH", f"{Path(python).parent}:{os.environ['PATH']}")
    with running([str(server / "bin" / "tritonserver"), *words], port, "/v2/health/ready", tmp_path / "home"):
        asked_of = [python, "-c", CLIENT, f"127.0.0.1:{port}", MODEL, *map(str, files)]
        said = subprocess.run(asked_of, capture_output=True, text=True, check=True).stdout
    found = json.loads(said)
    assert found["config"]["max_batch_size"] == 8
    assert found["config"]["input"][0]["dims"] == [-1, 3, 32, 32]
    assert "dynamic_batching" in found["config"]
    for (_, _, expected), (answer, ((label,),)) in zip(images, found["answers"], strict=True):
        np.testing.assert_allclose(answer[0], expected, atol=1e-5)
        best = int(np.argmax(expected))
        assert label.split(":")[1:] == [str(best), CLASSES[best]]
