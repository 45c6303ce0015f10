"""Names for content: equal where the content is, different where anything of it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad, RandFlipd, RandRotated, Resized, ScaleIntensityRanged

from monai_rd.cache.fingerprints import describe, fingerprint, item_key
from monai_rd.errors import UnreadableFileError
from monai_rd.transforms import CTAugmentation, HounsfieldWindowsd, LoadImageOrSeriesd

BUNDLES = ("rd_ct", "rd_mr", "rd_us", "rd_xray", "rd_derm")


def chain(**changed: Any) -> Compose:
    settings: dict[str, Any] = {"window": (0.0, 100.0), "size": 8, "degrees": 0.2, "flip": 0.5} | changed
    return Compose(
        [
            HounsfieldWindowsd("image", [settings["window"]]),
            Resized("image", spatial_size=[settings["size"]] * 2, mode="bilinear"),
            RandRotated("image", range_x=settings["degrees"], prob=0.5),
            RandFlipd("image", prob=settings["flip"], spatial_axis=1),
            ScaleIntensityRanged("image", 0, 1, 0, 1, clip=True),
        ]
    )


@pytest.mark.parametrize(
    "changed",
    [{"window": (0.0, 101.0)}, {"size": 9}, {"degrees": 0.21}, {"flip": 0.4}],
    ids=lambda one: next(iter(one)),
)
def test_another_argument_is_another_fingerprint(changed: dict[str, Any]) -> None:
    assert fingerprint(chain()) == fingerprint(chain())
    assert fingerprint(chain(**changed)) != fingerprint(chain())


def test_order_and_class_count_the_random_state_does_not() -> None:
    one, other = RandFlipd("image", prob=0.5), CTAugmentation("image")
    assert fingerprint(Compose([one, other])) != fingerprint(Compose([other, one]))
    assert fingerprint(RandFlipd("image", prob=0.5)) != fingerprint(RandRotated("image", prob=0.5))
    assert fingerprint(chain().set_random_state(seed=1)) == fingerprint(chain().set_random_state(seed=2))


def test_what_has_been_used_is_described_as_before() -> None:
    used = chain()
    used({"image": MetaTensor(torch.rand(1, 9, 9), meta={"intensity": "HU"})}, end=2)
    assert fingerprint(used) == fingerprint(chain())


def test_functions_are_told_apart_by_code_constants_and_what_they_close_over() -> None:
    def times(factor: float) -> Callable[[Any], Any]:
        return lambda x: x * factor

    def scaled(x: Any, by: float = 1.0) -> Any:
        return x * by

    made: list[Callable[..., Any]] = [
        times(2),
        times(3),
        lambda x: x + 1,
        lambda x: x + 2,
        lambda x: x - 1,
        scaled,
        partial(scaled, by=2.0),
        partial(scaled, by=3.0),
        np.sqrt,
        np.exp,
        torch.sqrt,
    ]
    assert len({fingerprint(Lambdad("image", one)) for one in made}) == len(made)
    assert fingerprint(times(2)) == fingerprint(times(2))


def test_arrays_count_by_content() -> None:
    a, b = np.arange(4.0), np.arange(4.0)
    assert fingerprint(a) == fingerprint(b)
    b[3] += 1e-9
    assert fingerprint(a) != fingerprint(b) != fingerprint(a.astype(np.float32))
    assert fingerprint(torch.zeros(2, 3)) != fingerprint(torch.zeros(3, 2))


def test_what_holds_itself_is_described_all_the_same() -> None:
    ring: dict[str, Any] = {"name": "ring"}
    ring["next"] = ring
    assert fingerprint(ring) == fingerprint(ring)


def test_what_says_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match="does not say what it is set to"):
        fingerprint([(one for one in ())])


@pytest.mark.slow
def test_the_bundles_transforms_have_one_name_in_every_process() -> None:
    root = Path(__file__).parents[2]
    here = {bundle: fingerprint_of(root, bundle) for bundle in BUNDLES}
    assert len(set(here.values())) == len(BUNDLES)
    script = (
        "from pathlib import Path\n"
        "from tests.cache.test_fingerprints import BUNDLES, fingerprint_of\n"
        "print(*(fingerprint_of(Path.cwd(), bundle) for bundle in BUNDLES))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split()[-len(BUNDLES) :] == list(here.values())


def fingerprint_of(root: Path, bundle: str) -> str:
    parser = ConfigParser()
    parser.read_config(root / "bundles" / bundle / "configs" / "train.json")
    parser.update({"phantom": False, "output_dir": "unused"})
    return fingerprint(parser.get_parsed_content("train#preprocessing"))


def test_an_item_is_the_bytes_of_its_files_wherever_they_lie(tmp_path: Path) -> None:
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    alone, both = item_key(first), item_key([str(first), str(second)])
    assert item_key(str(first)) == alone != both
    assert item_key([str(second), str(first)]) == both == item_key(tmp_path)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name, old in (("x", second), ("y", first)):
        old.rename(moved / name)
    assert item_key(moved) == both
    (moved / "x").write_bytes(b"twO")
    assert item_key(moved) != both
    with pytest.raises(UnreadableFileError):
        item_key(tmp_path / "gone")


def test_the_code_that_reads_and_prepares_images_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_rd.cache import fingerprints

    def code() -> Any:
        fingerprints._code_of.cache_clear()
        fingerprints._reading_code.cache_clear()
        return describe(LoadImageOrSeriesd)["code"]

    before, of = code(), fingerprints.sha256
    assert code() == before
    readers = ("dicom/pixels", "images/pictures", "images/nifti", "walk", "transforms/load", "transforms/ct")
    for module, counts in (*((name, True) for name in readers), ("losses/cka", False), ("methods/rd", False)):
        monkeypatch.setattr(
            fingerprints,
            "sha256",
            lambda path, module=module: "another" if str(path).endswith(f"{module}.py") else of(path),
        )
        assert (code() != before) == counts
    monkeypatch.undo()
    assert code() == before
