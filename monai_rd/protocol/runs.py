"""A run of a benchmark: one training by a bundle's own command, in a folder of its own, and what it left there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from monai_rd.bundle import bundle_root
from monai_rd.files import atomic_write, sha256
from monai_rd.versions import versions
from monai_rd.walk import walk

__all__ = ["Result", "Run", "data_fingerprint", "read_result"]

_RESULTS = ("metrics.json", "predictions.npz")
_LISTS = (".csv", ".xlsx", ".json", ".txt")


@dataclass(frozen=True)
class Run:
    """One training: everything that decides its result.

    Args:
        bundle: name of the bundle, such as "rd_ct".
        dataset_dir: folder of the data.
        data: see `data_fingerprint`.
        student: as the bundle takes it.
        method: as the bundle takes it.
        seed: of the training.
        teacher: as the bundle takes it; None: the bundle's default, or none with a method that needs none.
        method_options: of the method.
        adapter: what the teacher is tuned by, None: nothing.
        max_epochs: None: the bundle's default.
        model_selection: "best" (on the validation set) or "last".
        words: further words for the bundle, such as ("--image_size", "128").
    """

    bundle: str
    dataset_dir: str
    data: str
    student: str
    method: str
    seed: int
    teacher: str | None = None
    method_options: Mapping[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    max_epochs: int | None = None
    model_selection: str = "best"
    words: tuple[str, ...] = ()

    @cached_property  # a file that changes while a benchmark runs must not give its runs another folder
    def description(self) -> dict[str, Any]:
        """What decides the result, as JSON: files and data stand there by their content, not by where they lie."""
        return {
            "bundle": self.bundle,
            "data": self.data,
            "teacher": _by_content(self.teacher),
            "student": self.student,
            "method": self.method,
            "method_options": dict(self.method_options),
            "adapter": self.adapter,
            "seed": self.seed,
            "max_epochs": self.max_epochs,
            "model_selection": self.model_selection,
            "words": [_by_content(word) for word in self.words],
        }

    @property
    def key(self) -> str:
        """12 hex digits for the description."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Method, student and seed, for people."""
        options = "".join(f" {key}={value}" for key, value in self.method_options.items())
        adapter = f" {self.adapter}" if self.adapter else ""
        return f"{self.method}{options}{adapter} {self.student} seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Where the run lies below a benchmark's folder."""
        return out.resolve() / "runs" / f"{re.sub(r'[^A-Za-z0-9_=.-]+', '_', self.name)}_{self.key}"

    def command(self, out: Path) -> list[str]:
        """The bundle's command; it goes on where a killed one left something to go on with."""
        folder = self.folder(out)
        words: dict[str, Any] = {
            "bundle_root": folder,
            "output_dir": folder,
            "cache_dir": out.resolve() / "cache",  # one for all, as the images are the same
            "features_dir": out.resolve() / "features",
            "adapters_dir": out.resolve() / "adapters",
            "dataset_dir": self.dataset_dir,
            "student": self.student,
            "method": self.method,
            "seed": self.seed,
            "model_selection": self.model_selection,
            "report_page": False,
        }
        if self.teacher is not None:
            words["teacher"] = self.teacher
        if self.method_options:
            words["method_options"] = dict(self.method_options)
        if self.adapter is not None:
            words["adapter"] = self.adapter
        if self.max_epochs is not None:
            words["max_epochs"] = self.max_epochs
        if (folder / "last.pt").is_file():
            words["resume"] = True
        config = f"{bundle_root(self.bundle)}/configs/train.json"
        # As Python writes them: MONAI's command reads True and {'kd': False}, and takes JSON's false for a word.
        named = [text for name, value in words.items() for text in (f"--{name}", str(value))]
        return [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, *named, *self.words]

    def finish(self, out: Path, seconds: float) -> None:
        """Write `run.json`, which makes the run a finished one, after a look at what the run left.

        Raises:
            ValueError: the run left no whole result.
        """
        folder = self.folder(out)
        try:
            read_result(folder)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"the run ended well but left no whole result: {error}") from error
        content = {
            "cell": self.description,  # of the table
            "files": {name: sha256(folder / name) for name in _RESULTS},
            "seconds": round(seconds, 1),
            "versions": versions(),
            "config": sha256(Path(bundle_root(self.bundle)) / "configs" / "train.json"),
        }
        atomic_write(json.dumps(content, indent=1) + "\n", folder / "run.json")

    def result(self, out: Path, on: str = "test") -> Result | None:
        """What the finished run left; None where it is not finished, or what lies there is damaged or another's.

        Args:
            out: the benchmark's folder.
            on: the images that are looked at, "test" or "validation".

        Raises:
            ValueError: a training from before those of validation were kept.
        """
        folder = self.folder(out)
        try:
            content = json.loads((folder / "run.json").read_text())
            same = content["cell"] == self.description
            if not same or any(sha256(folder / name) != content["files"][name] for name in _RESULTS):
                return None
            metrics, arrays = read_result(folder)
            made = {"config": content["config"], **content["versions"]}
        except (OSError, ValueError, KeyError):
            return None
        if on == "test":
            path = arrays.get("path_probabilities")
            return Result(metrics, arrays["probabilities"], arrays["labels"], content["seconds"], made, path)
        if "validation_labels" not in arrays:
            raise ValueError(f"{self.name} was trained before answers on the validation set were kept")
        answered = arrays["validation_probabilities"], arrays["validation_labels"]
        return Result({**metrics, "test": {}}, *answered, content["seconds"], made)


@dataclass(frozen=True)
class Result:
    """What a finished run left.

    Args:
        metrics: content of `metrics.json`; without what is of the test images where others are looked at.
        probabilities: of the images that are looked at `[N, classes]`.
        labels: class indices `[N]`, of a multi-label list `[N, classes]`.
        seconds: how long it ran; of a resumed run its last part.
        made: versions that it was made with.
        path: probabilities of the teacher path, of test images `[N, classes]`; None where there is none.
    """

    metrics: dict[str, Any]
    probabilities: np.ndarray
    labels: np.ndarray
    seconds: float
    made: dict[str, str]
    path: np.ndarray | None = None


def read_result(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Content of `metrics.json` and of `predictions.npz`, as a run leaves them, see `FinalReport`.

    Raises:
        OSError: a file is not there.
        ValueError: a file is damaged, or the two are not of one run.
        KeyError: a file lacks something.
    """
    metrics = json.loads((folder / "metrics.json").read_text())
    with np.load(folder / "predictions.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    n = metrics["test"]["student"]["n"]
    if not len(arrays["probabilities"]) == len(arrays["labels"]) == n:
        raise ValueError(f"metrics.json tells of {n} test images, predictions.npz of {len(arrays['labels'])}")
    return metrics, arrays


def data_fingerprint(dataset_dir: str | os.PathLike[str]) -> str:
    """A hash that tells one data set from another.

    Of every file that `walk` lists its relative path and size, of sheets and lists (CSV, Excel, JSON, text) the content
    too. Moving the folder changes nothing; other pixels in a file of the same size are not seen.

    Raises:
        FileNotFoundError: no such folder.
    """
    root = Path(dataset_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"--dataset '{root}' is not a folder")
    digest = hashlib.sha256()
    found = walk(root)
    for path in found.files:
        content = _hash_of(path) if path.suffix.lower() in _LISTS else ""
        digest.update(os.fsencode(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0{content}\n"))
    for path in found.unreadable:
        digest.update(os.fsencode(f"{path.relative_to(root).as_posix()}\0closed\n"))
    return digest.hexdigest()


def _by_content(word: str | None) -> str | None:
    """A word, but a hash of the content where it, or a part of the list that it is, is the path of a file or folder."""
    if word is None or not word.strip():
        return word
    if Path(word).is_file():
        return _hash_of(Path(word))
    if Path(word).is_dir():
        return _hash_of_folder(Path(word).resolve())
    if "," in word or word.startswith("["):
        return re.sub(r"[^,\[\]'\"\s][^,\[\]'\"]*", lambda part: str(_by_content(part[0])), word)
    return word


@cache
def _hash_of_folder(path: Path) -> str:
    return f"folder:{data_fingerprint(path)}"


def _hash_of(path: Path) -> str:
    status = path.stat()
    return _hash_of_state(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _hash_of_state(path: Path, size: int, changed: int) -> str:
    return f"sha256:{sha256(path)}"
