"""A student by its TorchScript file alone, as MONAI Deploy has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_rd.inference.trained import Algorithm, content_of

__all__ = ["TorchScriptFile"]


class TorchScriptFile:
    """A student in TorchScript, with the inference.json that the file carries.

    Args:
        path: as `monai-rd export` writes it.

    Attributes:
        algorithm: what reports name: the student by the `model.pt` that the file was made of.

    Raises:
        ValueError: the file carries no metadata, inference config or manifest, or is of an older version.
    """

    def __init__(self, path: Path) -> None:
        extra = {"metadata.json": "", "inference.json": "", "manifest.json": ""}
        network = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
        if not all(extra.values()):
            raise ValueError(f"{path.name} carries no {', '.join(extra)}: write it with monai-rd deploy-app")
        made_of = json.loads(extra["manifest.json"])["model"]
        config = json.loads(extra["inference.json"])
        if "settings_sha256" not in made_of or "classifier" not in config:
            raise ValueError(f"{path.name} was written by an older version: write it anew with monai-rd deploy-app")
        self.algorithm = Algorithm.of(
            json.loads(extra["metadata.json"]),
            made_of["student"],
            made_of["sha256"],
            network,
            made_of["settings_sha256"],
        )
        self._config = ConfigParser({**config, "network_def": network})

    def parsed(self, name: str) -> Any:
        """What an id of inference.json stands for; `network` is the student in this file."""
        return content_of(self._config, name)
