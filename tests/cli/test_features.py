"""`monai-rd features` by the CT bundle on a few small images."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import run
from PIL import Image

from monai_rd.cache import FeatureExtractor
from monai_rd.cli.app import main

Command = Callable[..., tuple[int, str]]

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "feature_views": 2,
    "max_epochs": 2,
    "image_size": 32,
    "batch_size": 4,
    "method_options": {"width": 8},
    "student": "shufflenet_v2_x1_0",
    "report_page": False,
}
WORDS = tuple(text for name, value in SETTINGS.items() for text in (f"--{name}", str(value)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 grey images of two classes, in class folders."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(40):
        path = root / ("sick" if number % 2 else "well") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(path)
    return root


@pytest.fixture
def monai_rd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: Any) -> tuple[int, str]:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["monai-rd", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out + printed.err

    return run


def test_shards_fill_a_store_together(monai_rd: Command, images: Path, tmp_path: Path) -> None:
    words = ("--", "--dataset_dir", images, "--output_dir", tmp_path, *WORDS)
    code, said = monai_rd("features", "fill", "--shard", "2/2", *words)
    assert (code, "12 of 25 training items, 2 views each" in said) == (0, True), said
    code, said = monai_rd("features", "verify", *words)
    assert (code, "13 of 25 training items are not there" in said) == (1, True), said
    assert monai_rd("features", "fill", "--shard", "1/2", *words)[0] == 0
    assert monai_rd("features", "verify", *words)[0] == 0


def test_fill_verify_list_clear(monai_rd: Command, images: Path, tmp_path: Path) -> None:
    words = ("--", "--dataset_dir", images, "--output_dir", tmp_path, *WORDS)
    code, said = monai_rd("features", "fill", *words)
    assert (code, "25 of 25 training items, 2 views each" in said) == (0, True)
    code, said = monai_rd("features", "verify", "--sample", 3, *words)
    assert code == 0, said
    assert "0 of 25 training items are not there" in said
    assert "3 views computed again" in said
    shards = sorted((tmp_path / "features").rglob("*.safetensors"))
    content = bytearray(shards[0].read_bytes())
    content[-1] ^= 1
    shards[0].write_bytes(content)
    code, said = monai_rd("features", "verify", *words)
    assert (code, "1 damaged" in said, "0 of 25 training items are not there" in said) == (1, True, False)
    code, said = monai_rd("features", "info", tmp_path / "features")
    assert (code, "teacher phantom_ct" in said) == (0, True)
    assert monai_rd("features", "clear", tmp_path / "features")[0] == 0
    assert list((tmp_path / "features").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fill",), "give the number of views"),
        (("fill", "--", "--feature_views", "2", "--method", "ce"), "nothing to compute"),
        (("fill", "--shard", "3/2"), "--shard 3/2: give the number of the shard and how many there are"),
        (("fill", "--shard", "0/2"), "--shard 0/2: give the number"),
        (("fill", "--shard", "a/b"), "--shard a/b: give the number"),
        (("fill", "--bundle", "rd_none", "--", "--feature_views", "2"), "no bundle 'rd_none'"),
        (("verify", "--", "feature_views"), "words for the bundle are ids and values"),
        (("info", "nowhere"), "give the features_dir of a training"),
    ],
)
def test_wrong_words_end_with_one_line(
    monai_rd: Command, images: Path, words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    more = ("--dataset_dir", str(images), "--output_dir", str(tmp_path)) if "--feature_views" in words else ()
    code, printed = monai_rd("features", *words, *more)
    assert code == 2
    assert said in printed.splitlines()[-1]


def test_a_training_takes_what_fill_left_and_says_so(
    monai_rd: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"dataset_dir": str(images), "output_dir": str(tmp_path), "bundle_root": str(tmp_path)}
    words = [text for name, value in places.items() for text in (f"--{name}", value)]
    assert monai_rd("features", "fill", "--", *words, *WORDS)[0] == 0
    asked: list[Any] = []
    monkeypatch.setattr(FeatureExtractor, "_features_of", lambda self, *_: asked.append(self))
    run(config_file="bundles/rd_ct/configs/train.json", **places, **SETTINGS)
    assert asked == []
    speed = json.loads((tmp_path / "speed.json").read_text())
    assert speed["stored_features"] == 0.5  # the second epoch shows new views
    assert speed["items_per_second"] > 0
    assert 0 < speed["data_wait"] < 1
    assert speed["peak_memory"] > 10**8
