"""A student in a TorchScript file, as used by MONAI Deploy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_rd.inference.trained import Algorithm, content_of

__all__ = ["TorchScriptFile"]


class TorchScriptFile:
    """A student in a TorchScript file, which also contains the student's inference.json.

    Args:
        path: a file that `monai-rd export` wrote.

    Attributes:
        algorithm: name and version of the student, for reports; its hash is that of the exported `model.pt`.

    Raises:
        ValueError: the file has no metadata, inference config or manifest, or was written by an older version.

    Example:
        A bundle with a student whose weights are random.

        >>> from pathlib import Path
        >>> import torch
        >>> from monai_rd.export import export_formats
        >>> from monai_rd.inference import TorchScriptFile, TrainedBundle
        >>> from monai_rd.networks import Student
        >>> Path("models").mkdir()
        >>> torch.save(Student("resnet18", num_classes=2).state_dict(), "models/model.pt")
        >>> files = export_formats(TrainedBundle("rd_ct", bundle_root="."), ["torchscript"], Path())
        >>> TorchScriptFile(files["torchscript"]).parsed("class_names")
        ['clear', 'opacity']
    """

    def __init__(self, path: Path) -> None:
        extra = {"metadata.json": "", "inference.json": "", "manifest.json": ""}
        network = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
        if not all(extra.values()):
            raise ValueError(f"{path.name} carries no {', '.join(extra)}: write it with monai-rd deploy-app")
        manifest = json.loads(extra["manifest.json"])
        made_of = manifest["model"]
        config = json.loads(extra["inference.json"])
        if "settings_sha256" not in made_of or "classifier" not in config:
            raise ValueError(f"{path.name} was written by an older version: write it anew with monai-rd deploy-app")
        self._config = ConfigParser({**config, "network_def": network})
        self.algorithm = Algorithm.of(
            json.loads(extra["metadata.json"]),
            made_of["student"],
            made_of["sha256"],
            network,
            made_of["settings_sha256"],
            self.parsed("trained"),
            manifest.get("licences", {"in_words": "not recorded"}),
        )

    def parsed(self, name: str) -> Any:
        """Return the object of an id of inference.json, with the student in this file as the network."""
        return content_of(self._config, name)
