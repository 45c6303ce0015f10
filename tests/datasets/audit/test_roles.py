"""An audit of studies of several roles compares each image, and looks for what the roles of a study tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from monai_rd.cli.app import app
from monai_rd.datasets import make_datalist
from monai_rd.datasets.audit import audit, fix, write_contact_sheet
from monai_rd.datasets.datalist import read_datalist
from monai_rd.datasets.splits import SPLITS
from tests.datasets.audit.spoilt import drawn, found
from tests.datasets.test_role_lists import KEY
from tests.two_views import ROLES, write_two_views

CLASSES = ("clear", "covid")


def write(root: Path, count: int = 18) -> dict[str, list[dict[str, Any]]]:
    """Two views of each patient, a lateral one twice the size of the other; lists of three splits."""
    made: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for number in range(count):
        images = {role: f"{number}_{role}.png" for role in ("pa", "lateral")}
        for place, name in enumerate(images.values()):
            picture = drawn(2 * number + place)
            picture.resize([(1 + place) * side for side in picture.size]).save(root / name)
        label = CLASSES[number // 3 % 2]
        made[SPLITS[number % 3]].append({"image": images, "label": label, "patient": f"P-{number}"})
    return made


def read(root: Path, made: dict[str, list[dict[str, Any]]]) -> Any:
    (root / "list.json").write_text(json.dumps(made))
    return read_datalist(root, root / "list.json", {"default": "skip"}, KEY)[0]


def test_distinct_studies_are_left_alone(tmp_path: Path) -> None:
    """Roles of different sizes are no outliers, and two images of one study may be alike."""
    made = write(tmp_path)
    picture = Image.open(tmp_path / "0_pa.png")
    picture.resize((2 * picture.width, 2 * picture.height)).save(tmp_path / "0_lateral.png")
    lists = read(tmp_path, made)
    report = audit(lists)
    assert report.findings == []
    cleaned, removed = fix(lists, report)
    assert not removed
    assert [cleaned[split] for split in SPLITS] == [lists[split] for split in SPLITS]


def test_copies_and_leaks_are_found_in_each_role(tmp_path: Path) -> None:
    made = write(tmp_path)
    Image.open(tmp_path / "0_lateral.png").save(tmp_path / "4_pa.png")  # of training, now in validation
    Image.open(tmp_path / "6_pa.png").resize((100, 90)).save(tmp_path / "8_lateral.png")  # now in the test set
    Image.open(tmp_path / "9_pa.png").save(tmp_path / "9_lateral.png")
    (tmp_path / "12_lateral.png").write_bytes(b"damaged")
    made["training"][5]["patient"] = made["test"][5]["patient"]
    lists = read(tmp_path, made)
    report = audit(lists)
    told = {(one.kind, one.severity): {str(item) for item in one.items} for one in report.findings}
    names = {key: {" ".join(name.split()[:2]) for name in own} for key, own in told.items()}
    assert names["LABEL_CONFLICT", "error"] == {"training[0] lateral", "validation[1] pa"}
    assert names["NEAR_DUPLICATE", "error"] == {"training[2] pa", "test[2] lateral"}
    assert names["EXACT_DUPLICATE", "warning"] == {"training[3] pa", "training[3] lateral"}
    assert found(report, "EXACT_DUPLICATE")[0].message == "2 images of equal pixels in one study."
    assert names["UNREADABLE", "error"] == {"training[4] lateral"}
    (leak,) = found(report, "PATIENT_LEAK")
    assert [(*item.place, item.role) for item in leak.items] == [("training", 5, ""), ("test", 5, "")]
    assert "with 2 items" in leak.message
    assert len(report.pairs) == 3
    write_contact_sheet(report.pairs, tmp_path / "pairs.png")
    cleaned, removed = fix(lists, report)
    gone = {(one["split"], one["index"]): one["kind"] for one in removed}
    assert gone == {
        ("training", 0): "LABEL_CONFLICT",
        ("validation", 1): "LABEL_CONFLICT",
        ("training", 2): "NEAR_DUPLICATE",
        ("training", 4): "UNREADABLE",
        ("training", 5): "PATIENT_LEAK",
    }
    assert cleaned.series_roles == lists.series_roles


def test_what_the_roles_tell(tmp_path: Path) -> None:
    """The size of one role, and whether a study has it."""
    made = write(tmp_path, 60)
    for own in made.values():
        for item in own:
            if item["label"] == "covid":
                path = tmp_path / item["image"]["lateral"]
                picture = Image.open(path)
                picture.resize((picture.width, picture.height + 10)).save(path)
    messages = [one.message for one in found(audit(read(tmp_path, made)), "SHORTCUT_RISK")]
    assert [one.partition(":")[0] for one in messages] == ["The size of the images of lateral tells the label"]
    for own in made.values():
        for item in own:
            if item["label"] == "clear":
                del item["image"]["lateral"]
    messages = [one.message for one in found(audit(read(tmp_path, made)), "SHORTCUT_RISK")]
    assert [one.partition(":")[0] for one in messages] == ["The choice of the roles that a study has tells the label"]


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    for number in range(20):
        write_two_views(tmp_path / "in" / CLASSES[number % 2], "NORMAL", number)
    return tmp_path / "in"


def test_commands_take_roles(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    roles = ["--roles", str(ROLES["roles"])]
    made = CliRunner().invoke(app, ["datalist", str(studies), "--out", "list.json", *roles])
    assert made.exit_code == 0, made.output
    content = json.loads(Path("list.json").read_text())
    assert {tuple(one["roles"]) for split in SPLITS for one in content[split]} == {("pa", "lateral")}
    done = CliRunner().invoke(app, ["audit", str(studies), "list.json", *roles])
    assert done.exit_code in (0, 1), done.output  # phantoms may look alike
    told = json.loads(Path("audit/audit.json").read_text())
    assert sum(sum(own.values()) for own in told["counts"].values()) == 20
    key = Path("monai_rd.key").read_bytes()
    assert make_datalist(studies, "list.json", series_rule=ROLES, key=key).series_roles == ROLES
    without = CliRunner().invoke(app, ["audit", str(studies), "list.json"])
    assert "the --series_rule that the list was made with" in str(without.exception)
