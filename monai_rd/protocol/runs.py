"""A run of a benchmark: one training by a bundle's command, in its own folder, and its result."""

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
from monai_rd.versions import code_hash, versions
from monai_rd.walk import walk

__all__ = ["BEGUN", "Result", "Run", "data_fingerprint", "read_result"]

BEGUN = "begun.json"  # in an unfinished run's folder: which code trains
_RESULTS = ("metrics.json", "predictions.npz")
_LISTS = (".csv", ".xlsx", ".json", ".txt")


@dataclass(frozen=True)
class Run:
    """A training, described by everything that determines its result.

    Args:
        bundle: name of the bundle, such as "rd_ct".
        dataset_dir: folder of the data.
        data: fingerprint of the data, see `data_fingerprint`.
        student: the bundle's `student`.
        method: the bundle's `method`.
        seed: seed of the training.
        teacher: the bundle's `teacher`; None uses the bundle's default, or no teacher if the method needs none.
        method_options: options of the method.
        adapter: how the teacher is tuned; None: not at all.
        max_epochs: number of epochs; None uses the bundle's default.
        model_selection: "best" (on the validation set) or "last".
        words: further arguments for the bundle, such as ("--image_size", "128").
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

    @cached_property  # cached: a file that changes during a benchmark must not move its runs to another folder
    def description(self) -> dict[str, Any]:
        """Everything that determines the result, as JSON; files and data are given by content, not by path."""
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
        """The first 12 hex digits of the description's hash."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Method, student and seed as a readable name."""
        options = "".join(f" {key}={value}" for key, value in self.method_options.items())
        adapter = f" {self.adapter}" if self.adapter else ""
        return f"{self.method}{options}{adapter} {self.student} seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Return the run's folder below a benchmark's folder."""
        return out.resolve() / "runs" / f"{re.sub(r'[^A-Za-z0-9_=.-]+', '_', self.name)}_{self.key}"

    def command(self, out: Path) -> list[str]:
        """Return the bundle's command; it resumes a killed training if there is a checkpoint."""
        folder = self.folder(out)
        words: dict[str, Any] = {
            "bundle_root": folder,
            "output_dir": folder,
            "cache_dir": out.resolve() / "cache",  # shared by all runs, as the images are the same
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
        # Python literals: MONAI's command reads True and {'kd': False}, but takes JSON's false for a string.
        named = [text for name, value in words.items() for text in (f"--{name}", str(value))]
        return [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, *named, *self.words]

    def begin(self, out: Path) -> None:
        """Note which code trains; a training that other code left unfinished is begun anew, not gone on with."""
        folder = self.folder(out)
        noted = json.dumps({"code": code_hash(), "config": self._config_hash()})
        if not (folder / BEGUN).is_file() or (folder / BEGUN).read_text(encoding="utf-8") != noted:
            (folder / "last.pt").unlink(missing_ok=True)
            atomic_write(noted, folder / BEGUN)

    def _config_hash(self) -> str:
        return sha256(Path(bundle_root(self.bundle)) / "configs" / "train.json")

    def finish(self, out: Path, seconds: float) -> None:
        """Check the run's result and write `run.json`, which marks the run as finished.

        Raises:
            ValueError: the result is incomplete.
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
            "config": self._config_hash(),
        }
        atomic_write(json.dumps(content, indent=1) + "\n", folder / "run.json")

    def result(self, out: Path, on: str = "test") -> Result | None:
        """Return the result of the finished run; None if it is unfinished, damaged or of another run.

        Args:
            out: the benchmark's folder.
            on: the images to evaluate, "test" or "validation".

        Raises:
            ValueError: a training by an earlier version, which did not store validation predictions.
        """
        folder = self.folder(out)
        try:
            content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
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
    """The result of a finished run.

    Args:
        metrics: content of `metrics.json`; without the test metrics if other images are evaluated.
        probabilities: predictions on the evaluated images `[N, classes]`.
        labels: class indices `[N]`; multi-label: `[N, classes]`.
        seconds: duration; of a resumed run, of its last part.
        made: versions of the software.
        path: probabilities of the teacher path on the test images `[N, classes]`; None if there is none.
    """

    metrics: dict[str, Any]
    probabilities: np.ndarray
    labels: np.ndarray
    seconds: float
    made: dict[str, str]
    path: np.ndarray | None = None


def read_result(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read `metrics.json` and `predictions.npz` of a run, see `FinalReport`.

    Raises:
        OSError: a file is missing.
        ValueError: a file is damaged, or the two are not of the same run.
        KeyError: a file lacks a key.
    """
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with np.load(folder / "predictions.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    n = metrics["test"]["student"]["n"]
    if not len(arrays["probabilities"]) == len(arrays["labels"]) == n:
        raise ValueError(f"metrics.json tells of {n} test images, predictions.npz of {len(arrays['labels'])}")
    return metrics, arrays


def data_fingerprint(dataset_dir: str | os.PathLike[str]) -> str:
    """Return a hash that identifies a data set.

    It covers the relative path and size of every file that `walk` lists, and the content of sheets and lists (CSV,
    Excel, JSON, text). Moving the folder does not change it; changed pixels in a file of the same size are not noticed.

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
    """Return a word in which every path of a file or folder is replaced by a hash of its content."""
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
    if path.suffix == ".json":
        return f"sha256:{hashlib.sha256(_numbered(path.read_bytes())).hexdigest()}"
    return f"sha256:{sha256(path)}"


def _numbered(listed: bytes) -> bytes:
    """Number the patients of a data list, whose pseudonyms are others in another folder, with another key."""
    seen: dict[bytes, int] = {}
    return re.sub(
        rb'"patient": "([^"]+)"', lambda found: b'"patient": %d' % seen.setdefault(found[1], len(seen)), listed
    )
