"""Which runs a table needs, and the lists they share."""

from __future__ import annotations

import csv
import json
import re
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from monai_rd.adapters import build_adapter
from monai_rd.bundle import parse_overrides
from monai_rd.cli.app import app
from monai_rd.datasets import make_datalist
from monai_rd.methods import METHODS, build_method
from monai_rd.networks import Student, load_teacher
from monai_rd.protocol.experiments import _OF_THE_MEAN, TABLES, Experiment, Row, Table, experiment
from monai_rd.protocol.runs import Run
from tests.small import SMALL

PAIR = Table("Two", (Row("ce", "ce"), Row("rd", "rd")))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """80 images of two classes in a sheet without a split."""
    folder, random = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for number in range(80):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append((f"{number}.png", "ab"[number % 4 == 0], f"P{number}"))
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "patient"), *rows])
    return folder


def lists(made: Experiment, row: str, seed: int) -> list[dict]:
    found = []
    for (one, _, number), run in made.runs.items():
        if (one.name, number) == (row, seed):
            path = Path(dict(zip(run.words[::2], run.words[1::2], strict=True))["--data_list"])
            found.append(json.loads(path.read_text()))
    return found


def test_one_split_for_all_seeds(images: Path, tmp_path: Path) -> None:
    """Data without a split of their own would have another test set with each seed."""
    out = tmp_path / "out"
    made = experiment(PAIR, out, str(images), seeds=3)
    again = experiment(PAIR, out, str(images), seeds=3)
    assert [run.key for run in made.runs.values()] == [run.key for run in again.runs.values()]
    assert len(list((out / "lists").iterdir())) == 1
    one = lists(made, "ce", 0)[0]
    assert all(lists(made, row, seed) == [one] for row in ("ce", "rd") for seed in range(3))
    expected = make_datalist(images, seed=0)
    assert [Path(item["image"]).name for item in expected.test] == [item["image"] for item in one["test"]]
    read = make_datalist(images, made.runs[made.rows[0], made.columns[0], 0].words[-1])
    assert [item["image"] for item in read.test] == [item["image"] for item in expected.test]


def test_a_method_without_teacher_is_trained_once(images: Path, tmp_path: Path) -> None:
    made = experiment(
        PAIR, tmp_path / "out", str(images), "rd_derm", ["pmc_clip", "lvm_med_vit_b"], ["resnet18"], seeds=2
    )
    ce, rd = ({run.key for (row, _, _), run in made.runs.items() if row.name == name} for name in ("ce", "rd"))
    assert (len(ce), len(rd)) == (2, 4)
    assert {run.teacher for (row, _, _), run in made.runs.items() if row.name == "ce"} == {None}


def test_methods_of_the_mean_run_after_those_that_store_a_map(images: Path, tmp_path: Path) -> None:
    """So a feature store needs one pass of the teacher for both; the rows stay in their order."""
    names = ["kd", "pseudo", "sp", "rkd", "rd"]
    made = experiment(TABLES["unlabelled"], tmp_path / "out", str(images), seeds=2, shares=[0.5], methods=names)
    assert [row.name for row in made.rows] == names
    assert [(seed, row.name) for row, _, seed in made.runs] == [
        (seed, name) for seed in range(2) for name in ("sp", "rd", "kd", "pseudo", "rkd")
    ]
    teacher = build_adapter("linear_probe", load_teacher("phantom_ct"), num_classes=2).frozen()
    for name in METHODS:
        reads = build_method(name, Student(SMALL), teacher, [0, 1] * 4, batch_size=8, unlabelled=1).reads
        mean_alone = (reads.pooled or reads.logits) and not reads.tap and not reads.levels
        assert mean_alone == (name in _OF_THE_MEAN), name


def test_shares_of_the_training_list(images: Path, tmp_path: Path) -> None:
    table = Table("Shares", PAIR.rows, (0.1, 0.5, 1.0))
    made = experiment(table, tmp_path / "out", str(images), seeds=2)
    whole = make_datalist(images, seed=0)
    assert [column.training for column in made.columns] == [5, 26, len(whole.training)]
    for seed in range(2):
        small, half, all_ = lists(made, "rd", seed)
        assert lists(made, "ce", seed) == [small, half, all_]
        assert small["test"] == half["test"] == all_["test"]
        assert small["validation"] == half["validation"] == all_["validation"]
        names = [{item["image"] for item in one["training"]} for one in (small, half, all_)]
        assert names[0] < names[1] < names[2]
        assert {item["label"] for item in small["training"]} == {0, 1}
    assert lists(made, "rd", 0)[0] != lists(made, "rd", 1)[0]


def test_shares_of_the_labels_leave_the_rest_unlabelled(images: Path, tmp_path: Path) -> None:
    rows = (*PAIR.rows, Row("rd_labelled", "rd", words=("--unlabelled_share", "0")))
    table = Table("Labels", rows, (0.5,), labels=True)
    made = experiment(table, tmp_path / "out", str(images), seeds=1, shares=[0.1], words=["--batch_size", "4"])
    whole = make_datalist(images, seed=0)
    assert [(column.share, column.training) for column in made.columns] == [(0.1, 5)]
    (own,) = lists(made, "rd", 0)
    assert lists(made, "ce", 0) == [own]
    assert not any("label" in item for item in own["unlabeled"])
    names = {Path(item["image"]).name for item in whole.training}
    assert {item["image"] for split in ("training", "unlabeled") for item in own[split]} == names
    assert len(own["training"]) + len(own["unlabeled"]) == len(names)
    words = {row.name: run.words for (row, _, _), run in made.runs.items()}
    assert words["rd_labelled"][:4] == ("--batch_size", "4", "--unlabelled_share", "0")
    assert words["rd"][:3] == ("--batch_size", "4", "--data_list")
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="a share is above 0 and at most 1"):
            experiment(table, tmp_path / "out", str(images), shares=[wrong])


def test_what_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--methods nonsense: there are ce, rd"):
        experiment(PAIR, tmp_path / "out", str(images), methods=["nonsense"])
    with pytest.raises(ValueError, match="--seed is an option of the benchmark"):
        experiment(PAIR, tmp_path / "out", str(images), words=["--seed", "3"])
    with pytest.raises(ValueError, match="words for the bundle are ids and values"):
        experiment(PAIR, tmp_path / "out", str(images), words=["--image_size"])
    with pytest.raises(ValueError, match="lies in the data"):
        experiment(PAIR, images / "out", str(images))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        experiment(PAIR, tmp_path / "out", str(tmp_path / "nowhere"))
    for teacher, error, said in (
        ("pmcclip", ValueError, "unknown teacher 'pmcclip'; known: "),
        ("lost.tflite", FileNotFoundError, "lost.tflite: no such file"),
    ):
        with pytest.raises(error, match=said):
            experiment(TABLES["table3"], tmp_path / "out", str(images), teachers=[teacher])
    with pytest.raises(ValueError, match="unknown student 'resnet19'"):
        experiment(TABLES["table3"], tmp_path / "out", str(images), students=["resnet19"])
    with pytest.raises(ValueError, match="--students resnet18,resnet10_3d: networks of images and of volumes have no"):
        experiment(TABLES["table3"], tmp_path / "out", str(images), students=["resnet18", "resnet10_3d"])


def test_students_of_volumes_have_their_own_phantoms_and_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_rd.phantoms.cohort.SPLIT_3D", {"training": 2, "validation": 2, "test": 2})
    made = experiment(PAIR, tmp_path / "out", students=["densenet121_3d"], seeds=1)
    (column,) = made.columns
    assert (column.teacher, column.student, column.training) == ("phantom_ct_3d", "densenet121_3d", 2)
    assert all(run.dataset_dir.endswith("phantoms_ct_3d_0") for run in made.runs.values())


def test_words() -> None:
    assert parse_overrides(["--image_size", "32", "--windows=['lung']", "--train#loss", "x"]) == {
        "image_size": 32,
        "windows": ["lung"],
        "train#loss": "x",
    }


@pytest.mark.parametrize("several", [False, True])
def test_rows_for_several_labels_an_image_are_left_out_of_other_data(
    several: bool, images: Path, tmp_path: Path
) -> None:
    if several:
        sheet = images / "labels.csv"
        sheet.write_text(re.sub(r",[ab],(P\d*5)", r",a|b,\1", sheet.read_text()))
    made = experiment(TABLES["skewed"], tmp_path / "out", str(images), seeds=1)
    assert ("focal" in {row.name for row in made.rows}) is several
    named = experiment(TABLES["skewed"], tmp_path / "out", str(images), seeds=1, methods=["focal", "rd"])
    assert [row.name for row in named.rows] == ["rd", "focal"]


def test_rows_are_methods_that_exist() -> None:
    assert {row.method for row in TABLES["table2"].rows + TABLES["table5"].rows} <= METHODS.keys()
    names = [[row.name for row in table.rows] for table in TABLES.values()]
    assert all(len(set(one)) == len(one) and "rd" in one for one in names)


@pytest.mark.parametrize("table", [name for name in TABLES if name != "figure2"])
def test_the_help_of_a_table_names_its_rows(table: str) -> None:
    commands = get_command(app).commands["benchmark"].commands
    words = set(re.findall(r"\w+", commands[table].help))
    assert {row.name for row in TABLES[table].rows} <= words


@pytest.mark.parametrize(
    "row", [row for table in TABLES.values() for row in table.rows if row.options], ids=attrgetter("name")
)
def test_options_of_rows_pass_the_command_line_and_what_a_run_writes(row: Row, tmp_path: Path) -> None:
    run = Run("rd_ct", "data", "-", "resnet18", row.method, 0, method_options=row.options)
    assert json.loads(json.dumps(run.description)) == run.description
    words = run.command(tmp_path)
    read = parse_overrides(words[words.index("--bundle_root") :])["method_options"]
    assert read == row.options
    network = Student(SMALL)
    build_method(row.method, network, load_teacher("phantom_ct"), [0, 1], read)
