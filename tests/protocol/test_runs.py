"""What tells one training from another, and when one counts as finished."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fire.parser import DefaultParseValue

from monai_rd.protocol.runs import BEGUN, _hash_of_folder, data_fingerprint
from tests.protocol.conftest import a_run


def test_everything_that_decides_the_result_is_in_the_key(data: Path) -> None:
    ours = a_run(data)
    others = [
        {"bundle": "rd_mr"},
        {"student": "mobilenet_v2"},
        {"method": "rd"},
        {"seed": 1},
        {"teacher": "pmc_clip"},
        {"method_options": {"kd": False}},
        {"adapter": "lora"},
        {"max_epochs": 3},
        {"model_selection": "last"},
        {"words": ("--image_size", "32")},
    ]
    keys = {ours.key, *(a_run(data, **fields).key for fields in others)}
    assert len(keys) == len(others) + 1


def test_data_and_files_count_by_content(data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"first")
    before = a_run(data, teacher=str(weights), words=("--data_list", str(weights)))
    key = before.key
    moved, copied = data.rename(tmp_path / "moved"), weights.rename(tmp_path / "w.pt")
    assert a_run(moved, teacher=str(copied), words=("--data_list", str(copied))).key == key
    (copied).write_bytes(b"other")
    assert a_run(moved, teacher=str(copied), words=("--data_list", str(copied))).key != key
    fingerprint = data_fingerprint(moved)
    (moved / "labels.csv").write_text("image,label\na.png,y\n")  # of the same size
    changed = data_fingerprint(moved)
    (moved / "a.png").write_bytes(b"123456")
    assert len({fingerprint, changed, data_fingerprint(moved)}) == 3
    assert str(tmp_path) not in json.dumps(before.description)


def test_a_list_of_the_same_patients_is_the_same_whatever_their_pseudonyms(data: Path, tmp_path: Path) -> None:
    """They depend on a key of the folder, and trainings are to be found again in another."""
    keys = []
    for number, patients in enumerate((["a1", "b2", "a1"], ["c3", "d4", "c3"], ["a1", "a1", "b2"], ["", "", ""])):
        items = [{"image": f"{place}.png", "label": 0, "patient": one} for place, one in enumerate(patients)]
        listed = tmp_path / f"{number}.json"
        listed.write_text(json.dumps({"class_names": ["x"], "training": items}, indent=1))
        keys.append(a_run(data, words=("--data_list", str(listed))).key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("word", ["{0}", "['{0}','{1}']", "{1},,{0}", "[{0}, {1}]"])
def test_folders_and_lists_of_paths_count_by_content(word: str, data: Path, tmp_path: Path) -> None:
    keys = []
    for name in ("one", "two"):
        pool, weights = tmp_path / name / "pool", tmp_path / name / "w.pt"
        pool.mkdir(parents=True)
        (pool / "a.png").write_bytes(b"123")
        weights.write_bytes(b"first")
        run = a_run(data, words=("--unlabelled", word.format(pool, weights)))
        assert str(tmp_path) not in json.dumps(run.description)
        keys.append(run.key)
    assert keys[0] == keys[1]
    (pool / "b.png").write_bytes(b"4")
    _hash_of_folder.cache_clear()
    assert a_run(data, words=("--unlabelled", word.format(pool, weights))).key != keys[0]


def test_words_arrive_as_they_were_meant(data: Path, tmp_path: Path) -> None:
    """MONAI's command reads its words by fire, for which JSON's false is a string."""
    run = a_run(data, method="rd", method_options={"co_training": False, "stages": 2}, teacher="pmc_clip")
    words = run.command(tmp_path)
    values = {name: DefaultParseValue(value) for name, value in pairwise(words)}
    assert values["--method_options"] == {"co_training": False, "stages": 2}
    assert values["--report_page"] is False
    assert "--resume" not in words
    run.folder(tmp_path).mkdir(parents=True)
    (run.folder(tmp_path) / "last.pt").touch()
    words = run.command(tmp_path)
    assert words[words.index("--resume") + 1] == "True"


@pytest.mark.parametrize("other", ["code", "config", "note"])
def test_other_code_goes_on_with_no_unfinished_training(
    other: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first epochs would be of one code and its last of another, and a teacher fitted anew another one."""
    run = a_run(data)
    checkpoint = run.folder(tmp_path) / "last.pt"
    run.folder(tmp_path).mkdir(parents=True)
    run.begin(tmp_path)
    checkpoint.touch()
    run.begin(tmp_path)
    assert checkpoint.exists()
    if other == "code":
        monkeypatch.setattr("monai_rd.protocol.runs.code_hash", lambda: "other")
    elif other == "config":
        config = tmp_path / "bundle" / "configs" / "train.json"
        config.parent.mkdir(parents=True)
        config.write_text("{}")
        monkeypatch.setattr("monai_rd.protocol.runs.bundle_root", lambda _: str(tmp_path / "bundle"))
    else:  # begun by a version that noted nothing
        (run.folder(tmp_path) / BEGUN).unlink()
    run.begin(tmp_path)
    assert not checkpoint.exists()
    checkpoint.touch()
    run.begin(tmp_path)
    assert checkpoint.exists()


def test_finished_is_only_what_is_whole(data: Path, tmp_path: Path) -> None:
    run = a_run(data)
    folder = run.folder(tmp_path)
    folder.mkdir(parents=True)

    def leave(n: int) -> None:
        (folder / "metrics.json").write_text(json.dumps({"test": {"student": {"n": n}}, "settings": {}}))
        np.savez(folder / "predictions.npz", probabilities=np.full((4, 2), 0.5, np.float32), labels=np.arange(4) % 2)

    with pytest.raises(ValueError, match=r"no whole result: .*metrics\.json"):
        run.finish(tmp_path, 1.0)
    leave(5)
    with pytest.raises(ValueError, match=r"tells of 5 test images, predictions\.npz of 4"):
        run.finish(tmp_path, 1.0)
    assert run.result(tmp_path) is None
    leave(4)
    assert run.result(tmp_path) is None
    run.finish(tmp_path, 1.0)
    result = run.result(tmp_path)
    assert result is not None
    assert result.labels.tolist() == [0, 1, 0, 1]
    assert {"monai_rd", "torch", "monai", "timm", "machine", "config"} <= result.made.keys()

    whole = (folder / "predictions.npz").read_bytes()
    for damage in (whole[:-1], b"", whole[:50] + b"x" + whole[51:]):
        (folder / "predictions.npz").write_bytes(damage)
        assert run.result(tmp_path) is None
    (folder / "predictions.npz").write_bytes(whole)
    assert run.result(tmp_path) is not None
    (folder / "run.json").write_text((folder / "run.json").read_text().replace('"seed": 0', '"seed": 1'))
    assert run.result(tmp_path) is None
