"""Carry what the five bundles have in common from `rd_ct`, the skeleton, to the four others.

    python tools/sync_bundles.py

The bundles differ only where their modality differs: in the blocks of `OWN` (top-level ids of a JSON, headings of a
Markdown file) and in the name of the modality. Everything else is written once, in `rd_ct`; a test fails until this
has been run after a change there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from monai_rd.files import atomic_write

BUNDLES = Path(__file__).parents[1] / "bundles"
SKELETON, OTHERS = "ct", ("mr", "us", "xray", "derm")
# What each bundle says for itself. The first id of a file that the skeleton has for its modality alone stands for
# whatever options the other's modality has: HU windows here, N4 there.
OWN = {
    "configs/train.json": (
        *("teacher", "windows", "spacing", "field", "region", "settings"),
        *("load_transforms", "random_transforms", "bag_transforms"),
    ),
    "configs/inference.json": ("windows", "trained", "preprocessing"),
    "configs/evaluate.json": (),
    "configs/mlflow.json": (),
    "configs/multi_gpu_train.json": (),
    "configs/paper.json": (),
    "configs/metadata.json": (
        "name",
        "task",
        "data_source",
        "data_type",
        "image_classes",
        "network_data_format",
    ),
    "configs/logging.conf": (),
    "docs/README.md": ("", "Data and preprocessing"),
    "LICENSE": (),
}


def blocks(text: str, suffix: str) -> dict[str, str]:
    """Split a file into its top-level blocks, by JSON id or Markdown heading; other files are one block."""
    if suffix == ".json":
        body = text.removeprefix("{\n").removesuffix("\n}\n")
        parts = re.split(r"^(?=    \"[\w#]+\":)", body, flags=re.MULTILINE)[1:]
        return {part.split('"', 2)[1]: part.rstrip().removesuffix(",") for part in parts}
    if suffix == ".md":
        parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
        return {part.partition("\n")[0].removeprefix("## ") if part.startswith("## ") else "": part for part in parts}
    return {"all": text}


def joined(parts: dict[str, str], suffix: str) -> str:
    """Write blocks as a file again."""
    return "{\n" + ",\n".join(parts.values()) + "\n}\n" if suffix == ".json" else "".join(parts.values())


def synced(file: str, modality: str) -> str:
    """The text that a bundle's file must have: its own blocks, and the skeleton's in the skeleton's order."""
    suffix = Path(file).suffix
    skeleton = blocks((BUNDLES / f"rd_{SKELETON}" / file).read_text(), suffix)
    target = BUNDLES / f"rd_{modality}" / file
    present = blocks(target.read_text(), suffix) if target.is_file() else {}
    options = {key: text for key, text in present.items() if key not in skeleton}
    result: dict[str, str] = {}
    for key, text in skeleton.items():
        if key in present and key in OWN[file]:
            result[key] = present[key]
        elif key in OWN[file]:  # the skeleton's alone
            result |= options
        else:
            result[key] = re.sub(rf"\b(rd_|phantom_)?{SKELETON}\b", rf"\g<1>{modality}", text)
    return joined(result, suffix)


def main() -> None:
    """Write every file that differs."""
    for modality in OTHERS:
        for file in OWN:
            target, text = BUNDLES / f"rd_{modality}" / file, synced(file, modality)
            if not target.is_file() or target.read_text() != text:
                atomic_write(text, target)
                print(target.relative_to(BUNDLES), file=sys.stderr)


if __name__ == "__main__":
    main()
