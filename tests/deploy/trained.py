"""A bundle as a training leaves it, without the training."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from monai_rd.networks import Student
from tests.bundles.commands import config, copied

CLASS_NAMES = ["no finding", "COVID", "Other"]


def trained_bundle(to: Path, modality: str = "ct") -> Path:
    """A copy of a bundle with a student of random weights that says other things of other images."""
    root = copied(modality, to)
    torch.manual_seed(5)
    student = Student("resnet18", len(CLASS_NAMES))
    student.temperature.fill_(0.25)
    with torch.no_grad():
        student.classifier.weight.mul_(3)
    settings = config(modality, "inference.json", bundle_root=str(root)).get_parsed_content("trained")
    settings |= {"class_names": CLASS_NAMES, "image_size": 32, "slices": 3}
    (root / "models").mkdir()
    torch.save(student.state_dict(), root / "models" / "model.pt")
    (root / "models" / "settings.json").write_text(json.dumps(settings))
    return root
