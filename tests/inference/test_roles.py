"""A study of several roles is scored by the mean of their features, wherever it is scored."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from pydicom import dcmread
from pydicom.dataset import Dataset

from monai_rd.datasets.splits import SPLITS
from monai_rd.errors import original_error
from monai_rd.export.manifest import manifest
from monai_rd.inference import Prediction, Predictor, TorchScriptFile, TrainedBundle, read_scores
from monai_rd.integrations.dicom_output import secondary_capture, structured_report
from monai_rd.integrations.explanation import explanation_picture, look
from monai_rd.integrations.monai_deploy.application import write_application
from monai_rd.integrations.monai_label.application import write_label_app
from monai_rd.transforms import CollimationCropd, LoadImageOrSeriesd, bag_collate
from tests.bundles.commands import config, score
from tests.dicom_files import make_series
from tests.servers import deploy
from tests.trained import trained_bundle
from tests.two_views import ROLES, write_two_views

MR = {"roles": {name: {"description": name} for name in ("t1", "t2", "flair")}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_bundle(tmp_path_factory.mktemp("bundle"), "xray", series_roles=ROLES)


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor(TrainedBundle(bundle, device="cpu"))


def logits_alone(predictor: Predictor, files: Sequence[Any]) -> list[torch.Tensor]:
    """The student's logits of images, each on its own."""
    found = []
    for file in files:
        image = predictor.classifier.prepare({"id": "", "image": file})["image"].as_tensor()
        with torch.inference_mode():
            found.append(predictor.classifier.network(image[None])[0])
    return found


def by_hand(predictor: Predictor, files: Sequence[Any]) -> list[float]:
    """The classifier is linear: the logits of mean features are the mean of the logits."""
    return torch.stack(logits_alone(predictor, files)).mean(dim=0).softmax(dim=0).tolist()


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Path]]]:
    """Two views in two series, in one series, PA alone, lateral alone, and neither."""
    root, views = tmp_path_factory.mktemp("studies"), [("PA", "LL"), ("LL", "PA"), ("PA",), ("LL",), ("TAN",)]
    made = (write_two_views(root / str(n), "PNEUMONIA", n, own, 1 + (n == 0)) for n, own in enumerate(views))
    return root, dict(made)


Studies = tuple[Path, dict[str, dict[str, Path]]]


def test_probabilities_are_the_mean_by_hand(predictor: Predictor, studies: Studies) -> None:
    root, made = studies
    found = {one.id: one for one in predictor(root)}
    assert set(found) == set(made)
    for uid, files in made.items():
        one = found[uid]
        if "TAN" in files:
            assert (one.problem, one.probabilities, one.roles) == ("NO_ROLE", {}, ())
            continue
        shown = [str(files[view]) for view in ("PA", "LL") if view in files]
        assert list(one.probabilities.values()) == pytest.approx(by_hand(predictor, shown), abs=2e-6)
        assert one.roles == tuple({"PA": "pa", "LL": "lateral"}[view] for view in ("PA", "LL") if view in files)
        assert [str(file) for file in one.files] == shown
        alone = [logits.softmax(dim=0).tolist() for logits in logits_alone(predictor, shown)]
        assert np.array(one.slices) == pytest.approx(np.array(alone), abs=2e-6)
    both, other = (found[uid] for uid, files in made.items() if len(files) == 2)
    assert len(both.series.split("|")) == 2
    assert "|" not in other.series


def test_each_study_alone_has_the_same_probabilities(predictor: Predictor, studies: Studies) -> None:
    root, made = studies
    together = {one.id: one.probabilities for one in predictor(root)}
    for number, uid in enumerate(made):
        (alone,) = predictor(root / str(number))
        assert alone.probabilities == pytest.approx(together[uid], abs=2e-6)


def described(study: str, name: str) -> Any:
    def change(_: int, header: Dataset) -> None:
        header.StudyInstanceUID, header.SeriesDescription = study, f"{name} ax"

    return change


def test_sequences_of_an_mr_study_weigh_the_same(tmp_path: Path) -> None:
    """Of studies with three, two and one of three roles in one batch; each series has another number of slices."""
    predictor = Predictor(TrainedBundle(trained_bundle(tmp_path, "mr", series_roles=MR), device="cpu"))
    expected = {}
    for number, names in enumerate([("t1", "t2", "flair"), ("flair", "t1"), ("t2",)]):
        uid = f"1.2.3.{number}"
        for place, name in enumerate(names):
            where = tmp_path / "in" / f"{number}_{name}"
            seed = 10 * number + place
            make_series(where, slices=4 + 3 * place, modality="MR", change=described(uid, name), seed=seed)
        present = [name for name in MR["roles"] if name in names]
        expected[uid] = by_hand(predictor, [str(tmp_path / "in" / f"{number}_{name}") for name in present])
    found = {one.id: one for one in predictor(tmp_path / "in")}
    assert {uid: list(one.probabilities.values()) for uid, one in found.items()} == {
        uid: pytest.approx(own, abs=2e-6) for uid, own in expected.items()
    }
    assert [len(found[uid].slices) for uid in expected] == [9, 6, 3]
    for one in found.values():
        role, _, place = look(predictor, one).place.partition(", ")
        assert role in one.roles
        assert re.fullmatch(r"InstanceNumber \d+, slice [123] of the 3 it was shown", place)
    assert found["1.2.3.1"].roles == ("t1", "flair")


def test_training_and_validation_show_the_same_bag(bundle: Path, tmp_path: Path) -> None:
    """The items of train.json are those that inference.json gives the student, and RD's teacher sees both views."""
    names = ("NORMAL", "PNEUMONIA")
    rows = ["study,label,split"]
    for number in range(12):
        views, label = (("PA", "LL") if number % 4 else ("LL",)), names[number % 2]
        study, _ = write_two_views(tmp_path / "in", label, number, views)
        rows.append(f"{study},{label},{SPLITS[number // 2 % 3]}")
    (tmp_path / "in" / "labels.csv").write_text("\n".join(rows))
    words = {"bundle_root": str(tmp_path), "output_dir": str(tmp_path / "out"), "dataset_dir": str(tmp_path / "in")}
    words |= {"series_rule": ROLES, "image_size": 32, "teacher_size": 48, "batch_size": 4, "device": "cpu"}
    parsed = config("xray", "train.json", **words)
    predictor = Predictor(TrainedBundle(bundle, device="cpu"))
    for item in parsed.get_parsed_content("validate#dataset"):
        (given,) = (one for one in predictor.find(tmp_path / "in").items if one["id"] == item["id"])
        asked = predictor.classifier.prepare(given)["image"].as_tensor()
        assert torch.equal(torch.as_tensor(item["image"]), asked)
        assert item["teacher_image"].shape == (len(given["image"]), 3, 48, 48)
    items = parsed.get_parsed_content("train#dataset")
    (batch,) = DataLoader(items, batch_size=len(items), collate_fn=bag_collate)
    assert batch["image"].shape[1:] == (2, 3, 32, 32)
    assert {len(item["image"]) for item in items} == {1, 2}
    settings = parsed.get_parsed_content("settings")
    assert settings["series_roles"] == ROLES
    plain = config("xray", "train.json", **{**words, "series_rule": {"modality": "DX"}})
    assert plain.get_parsed_content("settings")["series_roles"] is None


def test_scores_are_written_and_read(bundle: Path, predictor: Predictor, studies: Studies, tmp_path: Path) -> None:
    root, _ = studies
    found = predictor(root)
    predictor.write(found, tmp_path / "scores.csv")
    without_files = [Prediction(**{**vars(one), "files": ()}) for one in found]
    assert sorted(read_scores(tmp_path / "scores.csv"), key=lambda one: one.id) == sorted(
        without_files, key=lambda one: one.id
    )
    rows = score(bundle, str(root), tmp_path / "out")
    assert {row["id"]: row["problem"] for row in rows} == {one.id: one.problem for one in found}
    content = json.loads((tmp_path / "out" / "scores.json").read_text())["studies"]
    assert {row["id"]: row.get("roles", []) for row in content} == {one.id: list(one.roles) for one in found}


def test_a_report_refers_to_every_image(predictor: Predictor, studies: Studies) -> None:
    root, _ = studies
    for one in (each for each in predictor(root) if not each.problem):
        report = structured_report(one, predictor.algorithm)
        (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
        told = {
            (series.SeriesInstanceUID, image.ReferencedSOPInstanceUID)
            for series in evidence.ReferencedSeriesSequence
            for image in series.ReferencedSOPSequence
        }
        headers = [dcmread(file) for file in one.files]
        assert told == {(header.SeriesInstanceUID, header.SOPInstanceUID) for header in headers}
        assert report.StudyInstanceUID == evidence.StudyInstanceUID == one.id


def test_the_picture_shows_the_role_with_the_most_evidence(predictor: Predictor, studies: Studies) -> None:
    root, _ = studies
    for one in (each for each in predictor(root) if not each.problem):
        found = look(predictor, one)
        place = list(one.probabilities).index(one.classes[0])
        best = max(range(len(one.roles)), key=lambda role: logits_alone(predictor, map(str, one.files))[role][place])
        assert found.place.partition(",")[0] == one.roles[best]
        grey = LoadImageOrSeriesd("image")({"image": str(one.files[best])})["image"]
        shown = CollimationCropd("image")({"image": grey})["image"].as_tensor()[0].T
        np.testing.assert_allclose(found.pixels[..., 0], shown, atol=1)
        captured = secondary_capture(one, predictor.algorithm, explanation_picture(predictor, one))
        told = [source.ReferencedSOPInstanceUID for source in captured.SourceImageSequence]
        assert told == [dcmread(file).SOPInstanceUID for file in one.files]


def test_the_manifest_states_the_roles(bundle: Path) -> None:
    told = manifest(TrainedBundle(bundle))["input"]["roles"]
    assert {role: told[role] for role in ROLES["roles"]} == ROLES["roles"]
    assert "the mean over the roles" in told["does"]


def test_a_server_that_gives_one_image_refuses_it(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes studies of several roles"):
        write_label_app(tmp_path / "label", [bundle])
    listed = trained_bundle(tmp_path, "xray", series_roles={"roles": {"pa": None, "lateral": None}})
    with pytest.raises(ValueError, match="takes studies whose files a list names"):
        write_application(tmp_path / "deploy", str(listed))
    assert [path.name for path in tmp_path.iterdir()] == ["rd_xray"]


def test_the_exported_application_gives_the_same(bundle: Path, studies: Studies, tmp_path: Path) -> None:
    root, _ = studies
    write_application(tmp_path / "app", str(bundle))
    exported = Predictor(TorchScriptFile(tmp_path / "app" / "models" / "student" / "model.ts"))
    expected = {one.id: one for one in Predictor(TrainedBundle(bundle, device="cpu"))(root)}
    for one in exported(root):
        assert (one.problem, one.roles) == (expected[one.id].problem, expected[one.id].roles)
        assert one.probabilities == pytest.approx(expected[one.id].probabilities, abs=1e-6)
    done = deploy(tmp_path / "app", "-i", root, "-o", tmp_path / "out", "-m", tmp_path / "app" / "models")
    assert done.returncode == 0, done.stdout + done.stderr
    scored = json.loads((tmp_path / "out" / "scores.json").read_text())["studies"]
    assert {row["id"]: row.get("roles", []) for row in scored} == {uid: [*one.roles] for uid, one in expected.items()}
    for row in (row for row in scored if "problem" not in row):
        assert row["probabilities"] == pytest.approx(expected[row["id"]].probabilities, abs=1e-5)
    assert len(list((tmp_path / "out").glob("*.dcm"))) == sum(not one.problem for one in expected.values())


def test_a_rule_for_inference_has_the_roles_of_the_student(bundle: Path, studies: Studies, tmp_path: Path) -> None:
    root, made = studies
    rules = {
        "give a rule with roles, or none": {"modality": "DX"},
        "the roles pa, lateral, not 'ap'": {"roles": {"ap": {"view": "AP"}, "lateral": {"view": "LL"}}},
    }
    for told, rule in rules.items():
        with pytest.raises(ValueError, match=told):
            TrainedBundle(bundle, series_rule=rule)
        words = {"bundle_root": str(bundle), "dataset_dir": str(root), "output_dir": str(tmp_path)}
        parsed = config("xray", "inference.json", **words, series_rule=rule)
        with pytest.raises(RuntimeError) as error:
            parsed.get_parsed_content("initialize")
        assert re.search(told, str(original_error(error.value)))
    other = {"roles": {"lateral": {"view": "LL"}}}
    found = Predictor(TrainedBundle(bundle, series_rule=other, device="cpu"))(root)
    assert {one.id for one in found if one.roles == ("lateral",)} == {uid for uid, own in made.items() if "LL" in own}
