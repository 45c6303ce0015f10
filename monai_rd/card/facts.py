"""The facts of a model card, from what a training leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_rd.bundle import is_bundle
from monai_rd.card.chain import licence_chain
from monai_rd.card.data_facts import data_facts, subgroups
from monai_rd.card.limits import limits
from monai_rd.datasets.lists import DataList
from monai_rd.export.manifest import manifest
from monai_rd.handlers.history import read_history
from monai_rd.inference import Decision, TrainedBundle
from monai_rd.licences import Origin
from monai_rd.versions import versions

__all__ = ["Training", "facts"]

# Settings of a training that the card tells elsewhere.
_TOLD_ELSEWHERE = {"class_names", "multi_label", "teacher", "phantom", "scope", "student", "decision", "amp"}


@dataclass(frozen=True)
class Training:
    """A training that has ended.

    Args:
        bundle: name of the bundle, for its configs.
        bundle_root: folder that holds `models`.
        output_dir: folder of `metrics.json`, `predictions.npz` and `history.json`.
        data: the data list.
        settings: of the training, see `run_settings`.
        origins: of the student, see `find_origins`.
        device: the training's device.
        amp: whether it used mixed precision.
        cache_dir: folder with hashes of files; None if there is none.
    """

    bundle: str
    bundle_root: str
    output_dir: str
    data: DataList
    settings: Mapping[str, Any]
    origins: Sequence[Origin]
    device: torch.device | str
    amp: bool
    cache_dir: str | None = None

    @property
    def trained(self) -> TrainedBundle:
        """The bundle with its student, with the configs of `bundle_root` if it has some."""
        if is_bundle(Path(self.bundle_root)):
            return TrainedBundle(Path(self.bundle_root).resolve(), device="cpu")
        return TrainedBundle(self.bundle, bundle_root=self.bundle_root, device="cpu")


def facts(training: Training) -> dict[str, Any]:
    """Return the facts as a JSON object.

    Raises:
        OSError: the student or the results of the training cannot be read.
        ValueError: they do not fit each other.
    """
    trained, output = training.trained, Path(training.output_dir)
    measured = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    with np.load(output / "predictions.npz") as answered:
        test = {name: answered[name] for name in ("probabilities", "labels", "places")}
        fitted_on = len(answered["validation_labels"]) if "validation_labels" in answered else 0
    described, sha256 = manifest(trained), trained.algorithm.sha256
    decision = Decision.of(trained.trained["decision"], sha256)
    said = decision.chosen(test["probabilities"], trained.multi_label)
    data = data_facts(training.data, bool(training.settings["phantom"]), training.cache_dir)
    groups = subgroups(training.data, test["places"], test["probabilities"], test["labels"], said)
    found = {
        "model": {
            "name": trained.metadata["name"],
            "student": trained.network.name,
            "sha256": sha256,
            "settings_sha256": trained.algorithm.settings,
            "parameters": sum(one.numel() for one in trained.network.parameters()),
            "spatial_dims": trained.network.spatial_dims,
        },
        "written": datetime.now(timezone.utc).date().isoformat(),
        "task": trained.metadata["task"],
        "description": trained.metadata["description"],
        "intended_use": trained.metadata["intended_use"],
        "data": data,
        "input": described["input"],
        "preprocessing": described["preprocessing"],
        "output": described["output"],
        "scope": described["scope"],
        "licences": licence_chain(training.origins, trained.network.name),
        "recipe": _recipe(training),
        "results": {row: _counted(found) for row, found in measured["test"].items()},
        "unread": measured["unread"],
        "groups": groups,
        "calibration": {**measured["calibration"], "n": len(test["labels"]), "fitted_on": fitted_on},
        "sets": measured["sets"],
        "decision": {
            **measured["decision"],
            "in_words": [_point(one, name) for one, name in zip(decision.points, _names(trained), strict=False)],
        },
        "versions": versions(),
    }
    return {**found, "limits": limits(found)}


def _counted(row: dict[str, Any]) -> dict[str, Any]:
    """Add to each metric the number of studies `n` that it was computed from."""
    n = dict.fromkeys(row, row["n"])
    if "sensitivity" in row:  # of two classes
        n |= {"sensitivity": row["classes"][1]["items"], "specificity": row["classes"][0]["items"]}
    return {name: {**one, "n": n[name]} if isinstance(one, dict) else one for name, one in row.items()}


def _names(trained: TrainedBundle) -> list[str]:
    return trained.class_names if trained.multi_label else trained.class_names[1:]


def _point(point: Any, name: str) -> str:
    if point is None:
        return f"{name}: from a probability of 0.5 on, as no validation study could tell another threshold"
    return f"{name}: {point.asked}"


def _recipe(training: Training) -> dict[str, Any]:
    unused = {*_TOLD_ELSEWHERE}
    unused |= set() if training.settings["adapter"] else {"adapter_options", "adapter_epochs", "cross_fit"}
    unused |= set() if training.settings["field"] else {"region"}
    unused |= set() if training.data.unlabelled else {"unlabelled_share"}
    history = read_history(Path(training.output_dir) / "history.json")
    last = training.settings.get("model_selection") == "last"
    kept = [row["epoch"] for row in history if last or row["best"]]
    kind = torch.device(training.device).type
    low = "mixed with bfloat16" if kind == "cpu" or torch.cuda.is_bf16_supported() else "mixed with float16"
    return {
        "student": training.settings["student"],
        "teacher": training.settings["teacher"],
        **{key: value for key, value in training.settings.items() if key not in unused},
        "epochs_done": len(history),
        "epoch_kept": kept[-1] if kept else None,
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "precision": low if training.amp else "float32",
        "device": kind,
    }
