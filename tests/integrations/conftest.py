"""A bundle with a student that knows nothing, as if it were trained; a real image archive, where one is installed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_rd.inference import Predictor, TrainedBundle
from monai_rd.networks import Student
from tests.integrations.servers import Orthanc, running_orthanc

Bundle = Callable[..., Path]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Orthanc on this machine alone, empty at first."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as one:
        yield one


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Give the bundle_root of a bundle whose student has random weights and these settings."""

    def of(**settings: Any) -> Path:
        names = settings.get("class_names", ["clear", "opacity"])
        own = {"student": "resnet18", "class_names": names, "multi_label": False, "windows": ["lung"]}
        own |= {"image_size": 32, "slices": 2, "scope": None, **settings}
        root = tmp_path_factory.mktemp("bundle")
        (root / "models").mkdir()
        torch.manual_seed(0)
        torch.save(Student(own["student"], len(names)).state_dict(), root / "models" / "model.pt")
        (root / "models" / "settings.json").write_text(json.dumps(own))
        return root

    return of


@pytest.fixture(scope="session")
def predictor(bundle_of: Bundle) -> Predictor:
    """CT, two classes that exclude each other."""
    return Predictor(TrainedBundle("rd_ct", bundle_root=str(bundle_of()), device="cpu"))
