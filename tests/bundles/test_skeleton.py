"""Five bundles, one skeleton: they differ only where the modality differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools import tool

sync = tool("sync_bundles")


@pytest.mark.parametrize("file", sync.OWN)
@pytest.mark.parametrize("modality", sync.OTHERS)
def test_a_bundle_is_the_skeleton_and_its_own_blocks(file: str, modality: str) -> None:
    text = (sync.BUNDLES / f"rd_{modality}" / file).read_text()
    assert text == sync.synced(file, modality), "run tools/sync_bundles.py"


@pytest.mark.parametrize("modality", [sync.SKELETON, *sync.OTHERS])
def test_no_bundle_has_other_files(modality: str) -> None:
    root = sync.BUNDLES / f"rd_{modality}"
    files = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    assert {file.as_posix() for file in files if file.parts[0] not in ("models", "eval")} == set(sync.OWN)


def test_what_is_shared_is_most_of_it() -> None:
    """A guard on the guard: the own blocks of train.json are a handful of lines."""
    text = (sync.BUNDLES / "rd_ct" / "configs" / "train.json").read_text()
    own = [block for key, block in sync.blocks(text, ".json").items() if key in sync.OWN["configs/train.json"]]
    assert sum(block.count("\n") + 1 for block in own) < 0.2 * text.count("\n")


def test_a_change_of_the_shared_part_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = (sync.BUNDLES / "rd_mr" / "configs" / "train.json").read_text().replace("0.001", "0.002")
    for modality, text in (("ct", None), ("mr", changed)):
        target = tmp_path / f"rd_{modality}" / "configs" / "train.json"
        target.parent.mkdir(parents=True)
        target.write_text(text or (sync.BUNDLES / "rd_ct" / "configs" / "train.json").read_text())
    monkeypatch.setattr(sync, "BUNDLES", tmp_path)
    assert sync.synced("configs/train.json", "mr") != changed
    assert sync.synced("configs/train.json", "mr") == changed.replace("0.002", "0.001")
