"""Bundles as a training leaves them, without the training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monai_rd.files import sha256
from monai_rd.inference import ConformalSet, Decision
from monai_rd.networks import Student
from tests.bundles.commands import config, copied
from tests.dicom_files import NAME
from tests.small import SMALL

CLASS_NAMES = ["no finding", "COVID", "Other"]


# Settings of a student of images, and of volumes of 32 x 32 x 32 voxels.
NO_VOLUME: dict[str, Any] = {"spacing": None, "field": None, "view_spacing": None, "region": "body"}
VOLUMES: dict[str, Any] = {
    "student": "resnet10_3d",
    "windows": ["full"],
    "image_size": None,
    "slices": None,
    "spacing": [4.0, 4.0, 5.0],
    "field": [128.0, 128.0, 160.0],
}


def trained_bundle(
    to: Path,
    modality: str = "ct",
    limits: tuple[float, ...] = (),
    of_scanners: Mapping[str, tuple[float, ...]] | None = None,
    **settings: Any,
) -> Path:
    """A copy of a bundle with a student of random weights that says other things of other images.

    Args:
        to: where the copy is made.
        modality: of the bundle.
        limits: of the student's conformal set, by class; empty for a student without.
        of_scanners: limits of scanners that have their own.
        settings: where they are not the bundle's defaults with a small student, 32 pixels and 3 slices.
    """
    root = copied(modality, to)
    asked = config(modality, "inference.json", bundle_root=str(root)).get_parsed_content("trained")
    small = {"student": SMALL, "class_names": CLASS_NAMES, "image_size": 32, "slices": 3, "scope": None}
    settings = {**asked, **small, "teacher": f"/data/{NAME}/teacher.pt", **settings}
    torch.manual_seed(5)
    student = Student(settings["student"], len(settings["class_names"]))
    student.temperature.fill_(0.25)
    with torch.no_grad():
        student.classifier.weight.mul_(3)
    (root / "models").mkdir()
    torch.save(student.state_dict(), root / "models" / "model.pt")
    if limits:
        made = {name: (_set(own),) for name, own in (of_scanners or {}).items()}
        sets = Decision((_set(limits),), (), "scanner" if made else None, made)
        settings["decision"] = {"model_sha256": sha256(root / "models" / "model.pt"), **sets.stored()}
    (root / "models" / "settings.json").write_text(json.dumps(settings))
    return root


def _set(limits: tuple[float, ...]) -> ConformalSet:
    return ConformalSet("class-conditional", (20,) * len(limits), limits)


def trained_files(root: Path, **settings: Any) -> Path:
    """What CT inference reads, in a folder to be given as its bundle_root; the student's weights are random.

    Args:
        root: the folder, which is there and empty.
        settings: of the training, where they are not two classes, one window, a small student, 32 pixels and 2 slices.
    """
    names = settings.get("class_names", ["clear", "opacity"])
    own = {"student": SMALL, "class_names": names, "multi_label": False, "windows": ["lung"]}
    own |= {"image_size": 32, "slices": 2, "scope": None, "series_roles": None, **NO_VOLUME, **settings}
    (root / "models").mkdir()
    torch.manual_seed(0)
    torch.save(Student(own["student"], len(names)).state_dict(), root / "models" / "model.pt")
    (root / "models" / "settings.json").write_text(json.dumps(own))
    return root
