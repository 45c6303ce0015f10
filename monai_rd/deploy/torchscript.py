"""What a student says of studies by its TorchScript file alone, as MONAI Deploy has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from monai_rd.data import TolerantDataset
from monai_rd.data.studies import files_of_item
from monai_rd.deploy.trained import Algorithm
from monai_rd.handlers.scores import Prediction
from monai_rd.losses import class_probabilities

__all__ = ["StudyClassifier"]

Item = dict[str, Any]


class StudyClassifier:
    """What a student says of studies, by its TorchScript file alone.

    Args:
        path: as `monai-rd export` writes it.

    Attributes:
        model: the SHA-256 of the `model.pt` that the file was made of ("sha256"), which is the student's identity
            wherever it runs, and the "temperature" of its probabilities.
        algorithm: what reports name.
        preprocessing: of an item, from file to what the network sees.
        policy: what follows from a study that cannot be read or is out of scope, by code.

    Raises:
        ValueError: the file carries no metadata, inference config or manifest.
    """

    def __init__(self, path: Path) -> None:
        extra = {"metadata.json": "", "inference.json": "", "manifest.json": ""}
        network = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
        if not all(extra.values()):
            raise ValueError(f"{path.name} carries no {', '.join(extra)}: write it with monai-rd deploy-app")
        parser = ConfigParser(json.loads(extra["inference.json"]))
        self._device = parser.get_parsed_content("device")
        self.network = network.to(self._device).eval()
        made_of = json.loads(extra["manifest.json"])["model"]
        if "settings_sha256" not in made_of:
            raise ValueError(f"{path.name} was written by an older version: write it anew with monai-rd deploy-app")
        self.model: dict[str, Any] = {"sha256": made_of["sha256"], "temperature": float(network.temperature)}
        self.class_names: list[str] = parser.get_parsed_content("class_names")
        self.multi_label: bool = parser.get_parsed_content("multi_label")
        self.policy: dict[str, str] = parser.get_parsed_content("policy")
        self._volumes = parser.get_parsed_content("spatial_dims") == 3
        self.preprocessing = parser.get_parsed_content("preprocessing")
        metadata = json.loads(extra["metadata.json"])
        self.algorithm = Algorithm.of(metadata, made_of["student"], self.model, made_of["settings_sha256"])
        self._shape = parser.get_parsed_content("dataset#shape")

    def prepare(self, item: Mapping[str, Any]) -> Item:
        """Load an item of `find_studies` and make of it what the network sees; its `problem` says why it could not."""
        prepared: Item = TolerantDataset([dict(item)], self.preprocessing, self._shape, self.policy)[0]
        return {**prepared, "files": files_of_item(item)}

    def infer(self, image: Tensor) -> tuple[list[float], list[list[float]]]:
        """Calibrated probabilities `[classes]` of a study, and of its slices alone `[S, classes]`; none of a volume.

        Args:
            image: bag of slices `[S, 3, H, W]`, or volume `[1, D, H, W]`.
        """
        values = torch.as_tensor(image).as_subclass(Tensor).to(self._device)
        with torch.inference_mode():
            study = class_probabilities(self.network(values[None]), self.multi_label)[0].tolist()
            if self._volumes:
                return study, []
            return study, class_probabilities(self.network(values), self.multi_label).tolist()

    def answer(self, item: Mapping[str, Any], study: list[float], slices: list[list[float]]) -> Prediction:
        """Say of a prepared item what `infer` gives."""
        named = Prediction(item["id"], item["series"], item["study"], model=self.model["sha256"], files=item["files"])
        return named.answered(study, self.class_names, self.multi_label, item["flags"], slices)
