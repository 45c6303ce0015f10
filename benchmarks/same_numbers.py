"""The numbers of all five bundles, of `predict` and of the feature store, to compare two states of the code.

    python benchmarks/same_numbers.py record OUT [--max_epochs 2] [--bundles ct,mr]
    python benchmarks/same_numbers.py compare BEFORE/numbers.json AFTER/numbers.json

It runs the documented commands alone, so that it runs on both states whatever was moved between them. Both runs want
the same machine, versions and number of threads. The second command ends with 1 if a number differs, in any digit.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

MODALITIES = ("ct", "mr", "us", "xray", "derm")
_IMAGES = (".dcm", ".png", ".jpg")
_TIMES = ("seconds",)
_NOT_COMPARED = ("id", "series", "study", "message")


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--max_epochs", type=int, help="the bundles' own without it")
    recording.add_argument("--bundles", default=",".join(MODALITIES))
    recording.set_defaults(run=lambda given: record(given.out, given.bundles.split(","), given.max_epochs))
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.set_defaults(run=lambda given: show_differences(given.before, given.after))
    given = parser.parse_args()
    given.run(given)


def record(out: Path, modalities: list[str], max_epochs: int | None) -> None:
    """Train, fill a store and score for each bundle; write `numbers.json` into `out`."""
    out.mkdir(parents=True)
    numbers: dict[str, Any] = {}
    for modality in modalities:
        root = out / modality
        words = [] if max_epochs is None else ["--max_epochs", str(max_epochs)]
        print(f"rd_{modality}: training", flush=True)
        _bundle(modality, root, *words)
        print(f"rd_{modality}: feature store", flush=True)
        _bundle(modality, out / f"{modality}_store", "--max_epochs", "2", "--feature_views", "2")
        print(f"rd_{modality}: predict", flush=True)
        mixed = _mixed_folder(out, root, modality)
        command = [sys.executable, "-m", "monai_rd", "predict", f"rd_{modality}", "--from", str(mixed)]
        command += ["--to", str(root / "scores"), "--", "--bundle_root", str(root)]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # 3: some could not be scored
        numbers[modality] = {
            "training": _trained(root),
            "with stored features": _trained(out / f"{modality}_store"),
            "stored features": _stored(out / f"{modality}_store" / "eval" / "features"),
            "predict": _scores(root / "scores"),
        }
    (out / "numbers.json").write_text(json.dumps(numbers, indent=1, sort_keys=True))
    print(f"{out / 'numbers.json'}: {sum(1 for _ in _leaves(numbers))} numbers and words")


def _bundle(modality: str, root: Path, *words: str) -> None:
    config = f"bundles/rd_{modality}/configs/train.json"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, "--bundle_root", str(root)]
    subprocess.run([*command, "--report_page", "False", *words], check=True, stdout=subprocess.DEVNULL)


def _mixed_folder(out: Path, root: Path, modality: str) -> Path:
    """Studies of the phantoms, two of another modality, a picture, a text, and a file that is cut off."""
    mixed = out / f"{modality}_mixed"
    other = out / ("mr_mixed" if modality == "ct" else "ct_mixed")
    mixed.mkdir()
    cohort = next(path for path in (root / "eval").iterdir() if path.name.startswith("phantoms_"))
    files = sorted(path for path in cohort.rglob("*") if path.suffix in _IMAGES)
    studies = sorted({path.parent for path in files})[:8]
    files = [path for path in files if path.parent in studies][:100]
    for number, path in enumerate(files):  # all in one folder; of a series of slices the second one is missing
        if number != 1:
            shutil.copy(path, mixed / f"{number:04d}{path.suffix}")
    for path in sorted(other.rglob("*.dcm"))[:2] if other.is_dir() else []:
        shutil.copy(path, mixed / f"other_{path.name}")
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (96, 80, 3), dtype=np.uint8)).save(mixed / "picture.png")
    (mixed / "notes.txt").write_text("no image")
    (mixed / f"cut{files[0].suffix}").write_bytes(files[0].read_bytes()[:600])
    return mixed


def _trained(root: Path) -> dict[str, Any]:
    metrics = json.loads((root / "eval" / "metrics.json").read_text())
    history = json.loads((root / "eval" / "history.json").read_text())
    with np.load(root / "eval" / "predictions.npz") as arrays:
        predictions = {name: array.tolist() for name, array in arrays.items()}
    return {"metrics": _without_times(metrics), "history": _without_times(history), "predictions": predictions}


def _stored(folder: Path) -> list[str]:
    """A hash of each stored file's values; the files' names hold the identity of the code and are left out."""
    return sorted(_values_hash(path) for path in folder.rglob("*.safetensors"))


def _values_hash(path: Path) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(load_file(path).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _scores(folder: Path) -> list[dict[str, str]]:
    with open(next(folder.rglob("scores.csv")), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # The UIDs of phantoms hold the folder they lie in, and a message may be said in better words.
    return sorted(
        ({name: value for name, value in row.items() if name not in _NOT_COMPARED} for row in rows),
        key=lambda row: tuple(row.values()),
    )


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(one) for key, one in value.items() if key not in _TIMES}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _leaves(one, f"{where}/{key}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _leaves(one, f"{where}/{number}")
    else:
        yield where, value


def show_differences(before: Path, after: Path) -> None:
    """Print the places where the two differ; exit with 1 if there is one."""
    old, new = (dict(_leaves(json.loads(path.read_text()))) for path in (before, after))
    gone = object()
    wrong = [place for place in sorted(old.keys() | new.keys()) if old.get(place, gone) != new.get(place, gone)]
    for place in wrong[:40]:
        print(f"{place}: {old.get(place, 'not there')} before, {new.get(place, 'not there')} after")
    print(f"{len(old)} numbers and words before, {len(new)} after, {len(wrong)} differ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
