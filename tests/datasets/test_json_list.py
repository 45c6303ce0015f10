"""Lists as JSON: MONAI's own, wrong ones, and those that are written and read back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from monai.data import load_decathlon_datalist

from monai_rd.datasets import DataListError, make_datalist, write_datalist
from tests.datasets.labelled_files import KEY, labelled, named, picture, table


@pytest.mark.parametrize("by", ["index", "name"])
def test_monai_data_list(by: str, images: Path, tmp_path: Path) -> None:
    content: dict = {"training": [], "validation": [], "test": []}
    for n in range(40):
        label = int(labelled(n // 4) == "covid") if by == "index" else labelled(n // 4)
        content[["training", "validation", "test", "training"][n % 4]].append({"image": f"{n:02d}.png", "label": label})
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))
    found = make_datalist(images, path)
    assert found.class_names == (("0", "1") if by == "index" else ("clear", "covid"))
    assert [item["label"] for item in found.validation] == [int(labelled(n // 4) == "covid") for n in range(1, 40, 4)]
    if by == "index":
        assert make_datalist(images, path, class_names=["clear", "covid"]).class_names == ("clear", "covid")


def test_a_wrong_json_is_refused(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": []}))
    with pytest.raises(DataListError, match="needs the lists training, validation, test"):
        make_datalist(images, path)
    wrong = [{"image": "00.png"}, {"image": "absent.png", "label": 0}]
    path.write_text(json.dumps({"training": wrong, "validation": [], "test": []}))
    with pytest.raises(DataListError, match=r"(?s)item 1: needs .*item 2: the image does not exist"):
        make_datalist(images, path)


def test_a_written_list_is_read_back_and_names_nobody(tmp_path: Path) -> None:
    data = tmp_path / "data"
    pairs = named(data, 10)
    for number in range(10):
        picture(data / "pictures" / f"PAT-{number:03d}_scan.png", number)
        picture(data / "pictures" / f"plain{number}.png", 100 + number)
    rows = [("image", "label", "patient", "site")]
    rows += [(f"export_{patient}", label, patient, "Jena") for patient, label in pairs]
    rows += [(f"pictures/PAT-{n:03d}_scan.png", pairs[n][1], pairs[n][0], "Ulm") for n in range(10)]
    rows += [(f"pictures/plain{n}.png", "ab"[n % 2], f"PAT-{n + 10:03d}", "Ulm") for n in range(10)]
    table(data / "labels.csv", rows)
    made = make_datalist(data, key=KEY)
    write_datalist(made, data, tmp_path / "list.json", KEY)
    text = (tmp_path / "list.json").read_text()
    assert "PAT" not in text
    assert str(tmp_path) not in text
    content = json.loads(text)
    kinds = Counter(next(iter(entry)) for split in ("training", "validation", "test") for entry in content[split])
    assert kinds == {"series": 10, "sha256": 10, "image": 10}
    assert make_datalist(data, tmp_path / "list.json", key=KEY) == made
    items = load_decathlon_datalist(str(tmp_path / "list.json"), True, "training")
    assert len(items) == len(made.training)
