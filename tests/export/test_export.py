"""`monai-rd export` of bundles whose students have random weights."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

import monai_rd
from monai_rd.cli.app import main
from monai_rd.export import FORMATS, export_formats
from monai_rd.files import sha256
from monai_rd.inference import TrainedBundle
from monai_rd.networks import Student
from monai_rd.phantoms import phantom_cohort
from monai_rd.transforms.ct import WINDOWS
from tests.bundles.commands import score
from tests.dicom_files import make_series
from tests.export.following import follow
from tests.small import SMALL
from tests.trained import VOLUMES, trained_bundle

SIZE, SLICES = 32, 3


def bundle_of(to: Path, modality: str = "ct", **settings: Any) -> Path:
    """A bundle as after a training with phantoms."""
    return trained_bundle(to, modality, **{"class_names": ["well", "ill"], "phantom": True, **settings})


def command(*words: object) -> int:
    """`monai-rd export WORDS`; gives the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["monai-rd", "export", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 4, "validation": 4, "test": 4})
        return phantom_cohort(tmp_path_factory.mktemp("cohort"), "ct")


WITHOUT_GPU = [name for name in FORMATS if name != "tensorrt"]


@pytest.fixture(scope="module")
def exported(bundle: Path, cohort: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all formats."""
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    out = tmp_path_factory.mktemp("exported")
    assert command(bundle, "--format", ",".join(WITHOUT_GPU), "--out", out, "--", "--dataset_dir", cohort) == 0
    return out


@pytest.mark.parametrize("form", WITHOUT_GPU)
def test_every_format_gives_the_networks_probabilities(form: str, bundle: Path, cohort: str, exported: Path) -> None:
    trained = TrainedBundle(bundle, dataset_dir=cohort)
    run = FORMATS[form].load(trained, exported / FORMATS[form].file, 1)
    images = torch.cat(list(trained.images("test", most=4)))
    assert images.shape == (4, SLICES, 3, SIZE, SIZE)
    with torch.inference_mode():
        for image in (images[:1, :1], images[:1], images[:3, :2]):  # any number of studies and slices
            expected = trained.network(image).softmax(dim=1)
            tolerance = 1e-5 if FORMATS[form].exact else 0.1
            torch.testing.assert_close(run(image), expected, atol=tolerance, rtol=0)
    assert expected[:, 0].std() > 1e-3  # the images' answers differ, or the above says nothing


def test_the_table_tells_what_was_compared(
    bundle: Path, cohort: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(bundle, "--format", "torchscript", "--out", tmp_path / "m.ts", "--", "--dataset_dir", cohort) == 0
    printed = capsys.readouterr().out
    assert f"{SMALL}: 4 phantoms" in printed
    assert "licences: not recorded, as there is no models/model_card.json" in printed
    assert (tmp_path / "m.ts").is_file()
    (row,) = (line for line in printed.splitlines() if line.startswith("│ torchscript"))
    _, _, size, difference, same, latency, _ = (cell.strip() for cell in row.split("│"))
    assert (size[-2:], same) == ("MB", "100.0%")
    assert float(difference) < 1e-6
    assert float(latency) > 0


def test_whoever_follows_the_metadata_gets_the_bundles_scores(bundle: Path, exported: Path, tmp_path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "model.onnx")
    manifest = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert manifest["output"]["class_names"] == ["well", "ill"]
    assert (manifest["input"]["name"], manifest["output"]["name"]) == ("image", "probabilities")
    assert session.get_inputs()[0].shape == manifest["input"]["shape"] == ["batch", "slices", 3, SIZE, SIZE]
    assert "Not for clinical use" in manifest["intended_use"]
    assert manifest["model"]["sha256"] == TrainedBundle(bundle).algorithm.sha256

    studies = tmp_path / "studies"
    uid, _ = make_series(studies / "series", slices=7, shape=(100, 90))
    picture = np.random.default_rng(0).integers(0, 256, (70, 30), dtype=np.uint8)
    Image.fromarray(picture).save(studies / "picture.png")
    slices = sorted(map(pydicom.dcmread, (studies / "series").iterdir()), key=lambda one: one.ImagePositionPatient[2])
    stack = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices])
    rows = score(bundle, str(studies), tmp_path / "eval")
    scored = {row["id"] == uid: [float(row["p_well"]), float(row["p_ill"])] for row in rows}
    for is_series, image in ((True, follow(manifest, stack, "HU")), (False, follow(manifest, picture[None], "grey"))):
        (found,) = session.run(None, {"image": image})
        np.testing.assert_allclose(found[0], scored[is_series], atol=1e-5)
    assert abs(scored[True][0] - scored[False][0]) > 1e-3


def test_the_window_in_the_metadata_is_the_one_trained_with(tmp_path: Path) -> None:
    trained = TrainedBundle(bundle_of(tmp_path, windows=["mediastinum"]))
    from monai_rd.export.manifest import manifest, network_metadata

    (step,) = (one for one in manifest(trained)["preprocessing"] if one["step"] == "HounsfieldWindowsd")
    assert list(map(tuple, step["windows"])) == [WINDOWS["mediastinum"]]
    channels = network_metadata(trained)["network_data_format"]["inputs"]["image"]["channel_def"]
    assert channels["0"] == "0 to 1 is -160 to 240 HU"


@pytest.mark.parametrize("modality", ["mr", "us", "xray", "derm"])
def test_every_modality_describes_its_steps(modality: str, tmp_path: Path) -> None:
    from monai_rd.export.manifest import manifest

    described = manifest(TrainedBundle(bundle_of(tmp_path, modality, n4=False)))
    assert all(step["does"] for step in described["preprocessing"])
    assert described["preprocessing"][-1]["step"] == "ChannelsToBagd"
    json.dumps(described)


def test_torchscript_tells_deploy_of_the_trained_student(exported: Path) -> None:
    files = {"metadata.json": "", "inference.json": "", "manifest.json": ""}
    torch.jit.load(str(exported / "model.ts"), _extra_files=files)
    metadata, inference, manifest = (json.loads(text) for text in files.values())
    formats = metadata["network_data_format"]
    assert formats["inputs"]["image"]["spatial_shape"] == [SIZE, SIZE]
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "well", "1": "ill"}
    assert manifest["output"]["name"] == "logits"
    config = ConfigParser({**inference, "bundle_root": "/nowhere"})  # no settings.json there
    assert config.get_parsed_content("class_names") == ["well", "ill"]
    assert config.get_parsed_content("prepare").shape == [1, 3, SIZE, SIZE]
    with zipfile.ZipFile(exported / "model.ts") as file:  # MONAI Deploy looks there
        assert "model/extra/metadata.json" in file.namelist()


def test_no_word_of_the_data_is_run_by_who_opens_an_export(tmp_path: Path) -> None:
    """Classes are called as folders, and body parts as headers say; MONAI runs what begins with $."""
    mark = tmp_path / "ran"
    evil = [
        f"$__import__('pathlib').Path({str(mark)!r}).touch()",
        "@policy",
        "%settings.json",
        "a@student",
        "it's \\x40",
    ]
    scope = {"modality": ["CT"], "body_part": evil, "orientation": ["axial"]}
    trained = TrainedBundle(bundle_of(tmp_path, class_names=evil, scope=scope))
    exported = json.loads(json.dumps(trained.inference_json()))
    config = ConfigParser({**exported, "bundle_root": "/nowhere"})
    assert config.get_parsed_content("class_names") == evil
    assert config.get_parsed_content("trained")["scope"] == scope
    assert not mark.exists()


@pytest.mark.parametrize("form", WITHOUT_GPU)
def test_every_file_names_the_model_it_was_made_of(form: str, exported: Path, bundle: Path) -> None:
    file = exported / FORMATS[form].file
    if file.is_dir():
        (described,) = file.rglob("manifest.json")
        made_of = json.loads(described.read_text())["model"]
    elif file.suffix == ".onnx":
        onnx = pytest.importorskip("onnx")
        made_of = json.loads({one.key: one.value for one in onnx.load(file).metadata_props}["model"])
    else:
        with zipfile.ZipFile(file) as archive:
            (name,) = (one for one in archive.namelist() if one.endswith("manifest.json"))
            made_of = json.loads(archive.read(name))["model"]
    assert made_of["sha256"] == sha256(bundle / "models" / "model.pt")
    assert made_of["settings_sha256"] == TrainedBundle(bundle).algorithm.settings


@pytest.mark.parametrize("form", WITHOUT_GPU)
def test_no_file_names_this_machine(form: str, exported: Path, bundle: Path, cohort: str) -> None:
    path = exported / FORMATS[form].file
    contents = [one.read_bytes() for one in (path, *path.rglob("*")) if one.is_file()]
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            contents += [file.read(name) for name in file.namelist()] + [" ".join(file.namelist()).encode()]
    package = Path(monai_rd.__file__).parents[1]
    for place in (package, Path(torch.__file__).parents[1], bundle, Path(cohort), exported, Path.home()):
        assert not any(str(place).encode() + b"/" in content for content in contents), place
    assert not any(word in content for content in contents for word in (b"teacher", b"phantom_ct"))


@pytest.mark.slow
def test_volumes_with_several_labels(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    trained = TrainedBundle(bundle_of(tmp_path, **VOLUMES, multi_label=True))
    files = export_formats(trained, ["torchscript", "triton"], tmp_path)  # Triton's holds the ONNX file
    (config,) = files["triton"].rglob("config.pbtxt")
    assert "dims: [ -1, 32, 32, 32 ]" in config.read_text()
    volume = torch.rand(3, 2, 32, 32, 32)  # in two windows
    with torch.inference_mode():
        expected = trained.network(volume).sigmoid()
        for form, file in files.items():
            found = FORMATS[form].load(trained, file, 1)(volume)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_tensorrt_without_a_gpu_says_so(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command(bundle, "--format", "tensorrt", "--out", tmp_path / "model.pt2") == 2
    assert "TensorRT needs an NVIDIA GPU" in capsys.readouterr().err
    assert not (tmp_path / "model.pt2").exists()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("settings", [{}, {"student": "resnet18_3d", "windows": ["full"], "slices": 32}])
def test_tensorrt_gives_the_networks_probabilities(settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("torch_tensorrt", reason="torch-tensorrt is not installed")
    trained = TrainedBundle(bundle_of(tmp_path, **settings))
    (file,) = export_formats(trained, ["tensorrt"], tmp_path).values()
    image = torch.rand(3, *trained.image_shape)
    with torch.inference_mode():
        expected = trained.network(image).softmax(dim=1)
        torch.testing.assert_close(FORMATS["tensorrt"].load(trained, file, 1)(image), expected, atol=1e-4, rtol=0)


def test_what_differs_is_not_written(
    bundle: Path, cohort: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    true = FORMATS["torchscript"]

    def load(*given: Any) -> Any:
        run = true.load(*given)
        return lambda image: run(image) + 2e-4

    wrong = replace(true, load=load)
    monkeypatch.setitem(FORMATS, "torchscript", wrong)
    (tmp_path / "model.ts").write_text("the last one")
    assert command(bundle, "--format", "torchscript", "--out", tmp_path, "--", "--dataset_dir", cohort) == 1
    assert "torchscript differs from PyTorch by more than 0.0001" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["model.ts"]
    assert (tmp_path / "model.ts").read_text() == "the last one"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onnx8"], "unknown format 'onnx8'; there are torchscript, onnx, onnx-int8, torch.export"),
        (["--format", "onnx,torchscript", "--out", "m.onnx"], "2 formats need a folder"),
        (["--format", "torchscript", "--", "--bundle_root", "/nowhere"], "no trained model '/nowhere/models/model.pt'"),
        (["--format", "torchscript", "--", "--dataset_dir", "/nowhere"], "'/nowhere' is not a folder"),
        (["--format", "torchscript", "--out", "/dev/null/here"], "/dev/null"),
    ],
)
def test_wrong_words(words: list[str], said: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(bundle, *words) == 2
    assert said in capsys.readouterr().err


def test_no_such_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path / "rd_ct", "--format", "onnx") == 2
    assert "a folder with configs/inference.json is needed" in capsys.readouterr().err
    assert command("rd_toe", "--format", "onnx") == 2
    assert "no bundle 'rd_toe'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["damaged", "other"])
def test_a_model_that_cannot_be_used(kind: str, tmp_path: Path) -> None:
    root = bundle_of(tmp_path)
    if kind == "damaged":
        (root / "models" / "model.pt").write_bytes(b"PK\x03\x04 no weights")
    else:
        torch.save(Student("mobilenet_v2", 2).state_dict(), root / "models" / "model.pt")
    with pytest.raises(ValueError, match=f"is damaged, or not the weights of the student '{SMALL}' with 2 classes"):
        TrainedBundle(root)


def test_int8_is_not_calibrated_on_phantoms_for_patients(tmp_path: Path, cohort: str) -> None:
    trained = TrainedBundle(bundle_of(tmp_path, phantom=False), dataset_dir=cohort)
    with pytest.raises(ValueError, match="give -- --dataset_dir DIR"):
        export_formats(trained, ["onnx-int8"], tmp_path)
