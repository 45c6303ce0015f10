"""What each of the five bundles must do: train, infer, and keep MONAI's rules."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.bundle import create_workflow, verify_metadata, verify_net_in_out

from monai_rd.cache.orders import BalancedSampler
from monai_rd.datasets import find_studies
from monai_rd.files import sha256
from monai_rd.networks import Student
from tests.bundles.commands import BUNDLES, MODALITIES, PLANTED, config, score
from tests.card.reading import bare_numbers, front, hub_faults, licence_faults
from tests.small import SMALL

PATIENT = "PHANTOM"
Trained = Callable[[str], tuple[Path, str]]
Cohort = Callable[[str], str]
every_bundle = pytest.mark.parametrize("modality", MODALITIES)
# The default run trains another one on the layout of published data.
every_trained_bundle = pytest.mark.parametrize(
    "modality", [pytest.param(one, marks=[pytest.mark.slow] * (one != "ct")) for one in MODALITIES]
)


def images(cohort: str) -> list[str]:
    """Of each study of a cohort the name of its file or folder."""
    with open(Path(cohort) / "labels.csv", newline="") as file:
        return [row["image"] for row in csv.DictReader(file)]


def copy(cohort: str, name: str, to: Path) -> None:
    """Copy one study."""
    source = Path(cohort) / name
    to.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, to / name) if source.is_dir() else shutil.copy(source, to / name)


@pytest.mark.parametrize("modality", ["us", "derm"])
def test_what_is_done_about_rare_classes(modality: str, cohort_of: Cohort, tmp_path: Path) -> None:
    places = {"dataset_dir": cohort_of(modality), "output_dir": str(tmp_path), "unlabelled": None, "num_workers": 0}
    places |= {"student": SMALL, "image_size": 32, "slices": 2}
    sampled = config(modality, "train.json", **places, class_weights="sampling")
    counts = next(iter(sampled.get_parsed_content("train#dataloader")))["label"].bincount()
    assert len(counts) == len(sampled.get_parsed_content("data").class_names)
    assert counts.max() - counts.min() <= 1
    assert isinstance(sampled.get_parsed_content("train#tuning_loader").sampler, BalancedSampler)
    assert list(sampled.get_parsed_content("validate#key_metric")) == ["val_balanced_accuracy"]
    trainer = sampled.get_parsed_content("train#trainer")
    assert trainer.loss_function is sampled.get_parsed_content("train#loss")
    adjusted = config(modality, "train.json", **places, criterion="logit_adjustment")
    counts = torch.tensor(adjusted.get_parsed_content("data").class_counts("training"))
    torch.testing.assert_close(adjusted.get_parsed_content("train#loss").adjustment, (counts / counts.sum()).log())
    refused = config(modality, "train.json", **places, criterion="focal", adapter="lora")
    with pytest.raises(RuntimeError) as raised:
        refused.get_parsed_content("teacher_network")
    assert "--criterion focal is for images with several labels" in str(raised.value.__cause__)


@every_trained_bundle
def test_training_ends_with_the_table_and_says_phantoms(modality: str, trained_of: Trained) -> None:
    root, printed = trained_of(modality)
    result = json.loads((root / "eval" / "metrics.json").read_text())
    student = result["test"]["student"]
    assert student["n"] == 8
    assert set(result["test"]) == {"student", "reprogrammed teacher"}
    for word in ("accuracy", "ROC AUC", "reprogrammed teacher", "PHANTOMS", "epoch   2/2"):
        assert word in printed
    assert ("positive class" in printed) is (len(result["class_names"]) == 2)
    assert f"{student['accuracy']['value']:.3f}" in printed


@every_trained_bundle
def test_model_is_the_student_alone(modality: str, trained_of: Trained) -> None:
    root, _ = trained_of(modality)
    classes = json.loads((root / "models" / "settings.json").read_text())["class_names"]
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    student = Student(SMALL, len(classes))
    assert state.keys() == student.state_dict().keys()
    student.load_state_dict(state)
    found = {path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()}
    assert found == {"configs", "docs", "LICENSE", "eval", "models"}
    papers = ["metadata.json", "model.pt", "model_card.json", "model_card.md", "reference.json", "settings.json"]
    assert sorted(path.name for path in (root / "models").iterdir()) == papers


@every_trained_bundle
def test_inference_scores_studies_and_names_nobody(
    modality: str, trained_of: Trained, cohort_of: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, printed = trained_of(modality)
    names = images(cohort_of(modality))[:3]
    for name in names:
        copy(cohort_of(modality), name, tmp_path / "MUELLER_HANS")
    rows = score(root, str(tmp_path / "MUELLER_HANS"), tmp_path / "out")
    told = capsys.readouterr()
    printed += told.out.replace(str(tmp_path), "") + told.err
    assert "3 studies scored, 0 left out" in printed
    classes = json.loads((root / "models" / "settings.json").read_text())["class_names"]
    assert {row["id"] for row in rows} == {item["id"] for item in find_studies(tmp_path / "MUELLER_HANS").items}
    for row in rows:
        assert row["class"] in classes
        assert sum(float(row[f"p_{name}"]) for name in classes) == pytest.approx(1, abs=1e-5)
    printed = printed.replace("PHANTOMS drawn by the project", "")
    written = [path for place in (root / "eval", root / "models", tmp_path / "out") for path in place.rglob("*")]
    for word in (PATIENT, "MUELLER", Path(names[0]).stem, *PLANTED.values()):
        assert word not in printed
        for path in written:
            assert not path.is_file() or word.encode() not in path.read_bytes().replace(b"PHANTOMS:", b""), path


@pytest.mark.parametrize(
    "modality", ["ct", *(pytest.param(one, marks=pytest.mark.slow) for one in ("mr", "us", "xray"))]
)
def test_images_of_another_modality_are_not_scored(
    modality: str, trained_of: Trained, cohort_of: Cohort, tmp_path: Path
) -> None:
    other = "ct" if modality == "mr" else "mr"
    code = "WRONG_MODALITY"
    copy(cohort_of(modality), images(cohort_of(modality))[0], tmp_path / "mixed")
    copy(cohort_of(other), images(cohort_of(other))[1], tmp_path / "mixed")
    rows = score(trained_of(modality)[0], str(tmp_path / "mixed"), tmp_path / "out")
    assert sorted(row["problem"] for row in rows) == ["", code]
    assert all((row["class"] == "") is bool(row["problem"]) for row in rows)


@every_bundle
def test_inference_and_metadata_know_the_default_run(modality: str, cohort_of: Cohort, tmp_path: Path) -> None:
    """Before anything was trained, exports and checks build the network that the default run would train."""
    train = config(modality, "train.json", dataset_dir=cohort_of(modality), unlabelled=None)
    infer = config(modality, "inference.json", bundle_root=str(tmp_path))
    defaults = infer.get_parsed_content("trained")
    settings = train.get_parsed_content("settings")
    assert defaults.pop("scope") is defaults.pop("decision") is None  # nothing is known of what it will be asked
    assert defaults == {name: settings[name] for name in defaults}
    shape = json.loads((BUNDLES / f"rd_{modality}" / "configs" / "metadata.json").read_text())["network_data_format"]
    assert shape["inputs"]["image"]["spatial_shape"] == [settings["image_size"]] * 2
    assert list(shape["outputs"]["pred"]["channel_def"].values()) == settings["class_names"]


@every_bundle
def test_all_settings_of_a_training_are_compared_when_it_goes_on(modality: str) -> None:
    """A setting that one bundle's checkpoint knows and another's does not could change unnoticed between two runs."""
    known = set(json.loads((BUNDLES / "rd_ct" / "configs" / "train.json").read_text())["settings"])
    own = {"windows", "n4", "region"}
    train = json.loads((BUNDLES / f"rd_{modality}" / "configs" / "train.json").read_text())
    assert set(train["settings"]) - own == known - own
    assert set(train["settings"]) & own == set(train) & own


@every_trained_bundle
@pytest.mark.parametrize("kind", ["train", "infer"])
def test_monai_finds_every_property(
    kind: str, modality: str, trained_of: Trained, cohort_of: Cohort, tmp_path: Path
) -> None:
    file = BUNDLES / f"rd_{modality}" / "configs" / ("train.json" if kind == "train" else "inference.json")
    places = {"dataset_dir": cohort_of(modality), "output_dir": str(tmp_path)}
    places["bundle_root"] = str(trained_of(modality)[0])
    if kind == "train":
        places["unlabelled"] = "None"
    workflow = create_workflow(config_file=str(file), workflow_type=kind, **places)
    assert workflow.check_properties() == []


@every_bundle
def test_metadata_meets_the_schema_20240725(modality: str, tmp_path: Path) -> None:
    """MONAI's own check, against our statement of that schema's requirements (its file is not ours to ship)."""
    file = BUNDLES / f"rd_{modality}" / "configs" / "metadata.json"
    shutil.copy(Path(__file__).with_name("meta_schema_20240725_requirements.json"), tmp_path / "schema.json")
    verify_metadata(meta_file=str(file), filepath=str(tmp_path / "schema.json"))
    broken = json.loads(file.read_text())
    del broken["network_data_format"]["outputs"]["pred"]["value_range"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="value_range"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(tmp_path / "schema.json"))


@every_trained_bundle
def test_a_stranger_can_read_the_card(modality: str, trained_of: Trained, tmp_path: Path) -> None:
    """No number without interval or n, no licence missing, metadata that the Hub and MONAI read, nobody's name."""
    root, printed = trained_of(modality)
    card = root / "models" / "model_card.md"
    assert "model card: " in printed
    text = card.read_text()
    assert bare_numbers(text) == licence_faults(text) == hub_faults(text) == []
    assert front(text)["license"] == "apache-2.0"
    facts = json.loads(card.with_name("model_card.json").read_text())
    assert facts["results"]["student"]["n"] == facts["data"]["splits"]["test"]["n"] == 8
    assert facts["recipe"]["epochs_done"] == 2
    assert facts["model"]["sha256"] == sha256(root / "models" / "model.pt")
    assert "Trained and tested on drawn phantoms" in text
    assert [value for value in (*PLANTED.values(), PATIENT + "-", str(root)) if value in text + str(facts)] == []
    shutil.copy(Path(__file__).with_name("meta_schema_20240725_requirements.json"), tmp_path / "schema.json")
    verify_metadata(meta_file=str(root / "models" / "metadata.json"), filepath=str(tmp_path / "schema.json"))


@every_bundle
def test_network_fits_the_metadata(modality: str) -> None:
    configs = BUNDLES / f"rd_{modality}" / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    verify_net_in_out("network_def", **files, device="cpu")
