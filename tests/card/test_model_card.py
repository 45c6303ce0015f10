"""Model cards: what they tell, that no number stands alone, and that nothing of the user's is lost."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monai_rd.card.page import page
from monai_rd.cli.app import app
from monai_rd.conformal_groups import group_key
from monai_rd.inference import TrainedBundle
from monai_rd.inference.papers import licences_of
from monai_rd.licences import Origin
from tests.card.made import DATA, TEACHER, ended
from tests.card.reading import bare_numbers, front, hub_faults, licence_faults, sections, tables

FORBIDDEN = Origin("teacher weights", "retfound", "CC BY-NC 4.0", "https://huggingface.co/x/y", "the zoo", hub="x/y")
UNKNOWN = Origin("teacher weights", "mine.onnx", sha256="ab" * 32)


def facts_of(card: Path) -> dict:
    return json.loads(card.with_name("model_card.json").read_text())


@pytest.mark.parametrize(
    "kind",
    [
        {
            "sex": ("F", "M"),
            "site": ("Geheim Hospital", "Other"),
            "operating_point": "sensitivity 0.9",
            "conformal_groups": "site",
        },
        {"class_names": ("a", "b", "c"), "per_class": 12},
        {"class_names": ("a", "b", "c"), "multi_label": True, "per_class": 12, "operating_point": "specificity 0.8"},
        {"per_class": 4},
        {"per_class": 5, "volumes": True},
    ],
    ids=["two classes", "three classes", "several labels", "few", "volumes"],
)
def test_no_number_stands_alone_and_no_licence_is_missing(kind: dict, tmp_path: Path) -> None:
    card = ended(tmp_path / "MUELLER_HANS", **kind).write()
    text, facts = card.read_text(), facts_of(card)
    assert bare_numbers(text) == []
    assert licence_faults(text) == []
    assert hub_faults(text) == []
    assert facts["hugging_face"] == front(text)
    n = facts["results"]["student"]["n"]
    assert n == len(facts["data"]["class_names"]) * kind.get("per_class", 24)
    (results, classes) = tables(sections(text)["Results"])
    assert results[0]["n"] == str(n)
    assert len(classes) == len(facts["data"]["class_names"])
    assert "MUELLER" not in text + json.dumps(facts)
    assert "Geheim" not in text + json.dumps(facts)
    assert str(tmp_path) not in text + json.dumps(facts)
    for one in facts["data"]["splits"].values():
        assert len(one["list_sha256"]) == len(one["images_sha256"]) == 64
    if "site" in kind:
        (groups,) = tables(sections(text)["Patient groups"])
        assert [row["Group"] for row in groups] == ["F", "M", "site 1", "site 2"]
        assert sum(int(row["n"]) for row in groups) == 2 * n
        (points,) = tables(sections(text)["Operating points"])
        assert points[0]["n"] == "24 and 24"
        _, limits = tables(sections(text)["Conformal sets"])
        known = [group_key("site", name) for name in sorted(kind["site"], key=lambda name: group_key("site", name))]
        assert [row["Site"] for row in limits] == [name for name in (*known, "any other") for _ in "ab"]
        assert [row["n"] for row in limits] == ["12"] * 4 + ["24"] * 2
    assert ("| region | body |" in text) is ("volumes" in kind)
    if kind.get("per_class") == 4:
        assert "No conformal sets: fewer than 9 validation studies." in text
        assert "Classes with fewer than 20 test studies" in text


def test_numbers_without_interval_or_n_are_found(tmp_path: Path) -> None:
    """The check itself fails where a card is wrong."""
    card = ended(tmp_path, sex=("F", "M"), operating_point="sensitivity 0.9").write()
    facts = facts_of(card)
    for spoil in (
        lambda one: one["results"]["student"]["accuracy"].pop("interval"),
        lambda one: one["results"]["student"]["classes"][0]["roc_auc"].pop("interval"),
        lambda one: one["results"]["student"].update(n=""),
        lambda one: one["groups"]["metrics"]["sex"]["F"]["accuracy"].pop("interval"),
        lambda one: one["calibration"].update(n=0),
        lambda one: one["calibration"].update(fitted_on=0),
        lambda one: one["sets"]["coverage"].pop("interval"),
        lambda one: one["decision"]["sets"][0].update(n=[0, 24]),
        lambda one: one["decision"]["operating_points"][0]["sensitivity"].pop("interval"),
    ):
        spoilt = json.loads(json.dumps(facts))
        spoil(spoilt)
        assert bare_numbers(page(spoilt)) != [], spoil
    spoilt = json.loads(json.dumps(facts))
    spoilt["licences"]["chain"][0]["follows"] = ""
    assert licence_faults(page(spoilt)) == ["teacher weights"]


@pytest.mark.parametrize(
    ("origins", "use", "said", "licence"),
    [
        ((TEACHER, DATA), "allowed", "commercial use is allowed", {"license": "unknown"}),
        ((UNKNOWN, DATA), "unknown", "no licence is known of teacher weights mine.onnx", {"license": "unknown"}),
        (
            (TEACHER, UNKNOWN, FORBIDDEN, DATA),
            "forbidden",
            "commercial use is forbidden by the licence of teacher weights retfound (CC BY-NC 4.0); no licence is kno",
            {"license": "other", "license_name": "may-inherit-cc-by-nc-4.0", "license_link": FORBIDDEN.source},
        ),
    ],
    ids=["allowed", "unknown", "several, the strictest"],
)
def test_what_licences_say_is_in_the_card(
    origins: tuple[Origin, ...], use: str, said: str, licence: dict[str, str], tmp_path: Path
) -> None:
    card = ended(tmp_path, origins=origins, per_class=10).write()
    text = card.read_text()
    assert said in "".join(sections(text)[""]).replace("\\", "")
    assert {key: value for key, value in front(text).items() if key.startswith("license")} == licence
    assert front(text).get("base_model", []) == [one.hub for one in origins if one.hub]
    assert licence_faults(text) == hub_faults(text) == []
    assert facts_of(card)["licences"]["commercial_use"] == use
    metadata = json.loads(card.with_name("metadata.json").read_text())
    assert metadata["licences"]["commercial_use"] == use
    assert metadata["eval_metrics"]["accuracy"]["n"] == 20
    assert metadata["data_source"].startswith("data of those who trained it")


def test_what_licences_say_is_in_all_that_is_made_of_the_student(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    from monai_rd.export import export_formats
    from monai_rd.inference import TorchScriptFile

    card = ended(tmp_path, origins=(TEACHER, UNKNOWN, FORBIDDEN, DATA), per_class=10).write()
    trained = TrainedBundle(card.parents[1], device="cpu")
    made = export_formats(trained, ["torchscript", "onnx"], tmp_path)
    (told,) = (one.value for one in onnx.load(made["onnx"]).metadata_props if one.key == "licences")
    assert json.loads(told) == facts_of(card)["licences"]
    assert json.loads(told)["commercial_use"] == "forbidden"
    algorithm = TorchScriptFile(made["torchscript"]).algorithm
    assert algorithm == trained.algorithm
    assert algorithm.parameters[-1].startswith("licences=commercial use is forbidden by the licence of teacher weights")


def test_a_card_of_another_student_is_not_taken(tmp_path: Path) -> None:
    card = ended(tmp_path, per_class=10).write()
    model = card.with_name("model.pt")
    assert licences_of(model)["commercial_use"] == "allowed"
    whole = card.with_name("model_card.json").read_text()
    card.with_name("model_card.json").write_text(whole[:100])
    assert "is damaged" in licences_of(model)["in_words"]
    card.with_name("model_card.json").unlink()
    assert "there is no models/model_card.json" in licences_of(model)["in_words"]
    card.with_name("model_card.json").write_text(whole)
    model.write_bytes(model.read_bytes() + b" ")
    assert "of another model.pt" in licences_of(model)["in_words"]
    assert licences_of(model)["commercial_use"] == "unknown"


def test_names_of_classes_break_nothing(tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", "a|b *c* [x](http://y) `z` # 5")
    text = ended(tmp_path, class_names=names).write().read_text()
    assert "<script" not in text.split("\n---\n")[1]
    rows = [row for lines in sections(text).values() for table in tables(lines) for row in table]
    assert sum(r"a\|b \*c\* \[x\](http://y) \`z\` \# 5" in row.get("", "") for row in rows) == 2
    assert bare_numbers(text) == licence_faults(text) == hub_faults(text) == []


def test_own_words_are_merged_in_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    card = ended(tmp_path, per_class=10)
    path = card.write()
    notes = path.with_name("model_card_notes.md")
    assert not notes.exists()
    before = path.read_text()
    notes.write_bytes("# Ethics\r\n\nVote 12/3 <!-- not closed\n\n```\n\tMünchen\a".encode("cp1252"))
    done = CliRunner().invoke(app, ["card", str(path.parents[1])])
    assert (done.exit_code, done.stdout) == (0, f"{path}\n")
    words = "# Ethics\n\nVote 12/3 <!-- not closed\n\n```\n    München\\x07\n"
    assert path.read_text() == before[: before.index("None. Write them")] + words
    card.write()
    assert path.read_text().endswith(words)
    assert notes.read_bytes().endswith("\tMünchen\a".encode("cp1252"))
    assert caplog.records == []

    path.write_text(path.read_text() + "Written by hand.\n")
    card.write()
    assert "Written by hand" not in path.read_text()
    assert path.with_name("model_card_edited_1.md").read_text().endswith("Written by hand.\n")
    assert "was edited by hand: it is kept as model_card_edited_1.md" in caplog.text
    path.with_name("model_card.json").write_text("{")
    card.write()
    assert path.with_name("model_card_edited_2.md").read_text() == path.read_text()
    assert bare_numbers(path.read_text()) == []


def test_a_training_does_not_fail_because_of_its_card(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    card = ended(tmp_path, per_class=10)
    models = tmp_path / "rd_ct" / "models"
    (models / "model_card_notes.md").mkdir()
    path = card.write()
    assert "model_card_notes.md could not be read: Is a directory" in path.read_text()
    path.unlink()
    path.mkdir()
    (path / "in the way").touch()
    assert card.write() is None
    (record,) = (one for one in caplog.records if one.levelno == logging.ERROR)
    assert "the model card could not be written (one that is there is of an earlier student)" in record.getMessage()
    assert not record.exc_info


def test_a_card_that_is_not_there_cannot_be_written_anew(tmp_path: Path) -> None:
    card = ended(tmp_path, per_class=10)
    done = CliRunner().invoke(app, ["card", str(tmp_path / "rd_ct")])
    assert isinstance(done.exception, ValueError)
    assert "there is no models/model_card.json" in str(done.exception)
    assert card.write() is not None


def test_packages_carry_the_card_and_say_what_its_licences_say(tmp_path: Path) -> None:
    """Without a card of its own a student counts as one of an unknown licence."""
    path = ended(tmp_path, origins=(FORBIDDEN, DATA), per_class=10).write()
    root, copy = path.parents[1], Path("model", "rd_ct_classification")
    forbidden = "commercial use is forbidden by the licence of teacher weights retfound"
    for said, cards in ((forbidden, 1), ("not recorded, as there is no models/model_card.json", 0)):
        for command, card in (
            (["label-app", str(tmp_path / f"label{cards}"), str(root)], Path(f"label{cards}", copy, "models")),
            (["deploy-app", str(tmp_path / f"deploy{cards}"), str(root)], Path(f"deploy{cards}")),
        ):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
            assert said in done.output
            assert (tmp_path / card / "model_card.md").is_file() is bool(cards)
            assert not cards or (tmp_path / card / "model_card.md").read_text() == path.read_text()
        path.with_name("model_card.json").unlink(missing_ok=True)
    assert TrainedBundle(tmp_path / "label1" / copy).licences["commercial_use"] == "forbidden"
