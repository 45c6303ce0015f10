"""A bundle that was trained: its student, its inference.json, and images to try it on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from monai_rd import __version__
from monai_rd.bundle import bundle_root, is_bundle, require_model
from monai_rd.errors import count_codes, original_error
from monai_rd.finite import NotFiniteError
from monai_rd.overrides import ids_read, refuse_unread, settled, written

if TYPE_CHECKING:
    from monai_rd.networks import DeployedStudent

__all__ = ["Algorithm", "TrainedBundle", "content_of"]


@dataclass(frozen=True)
class Algorithm:
    """What gave an answer, as a report names it.

    Attributes:
        name: of the bundle.
        version: of the bundle and of the package.
        student: its name.
        sha256: of its file `model.pt`.
        settings: SHA-256 of what decides an answer beside `model.pt`, see `TrainedBundle.trained`.
        temperature: of its probabilities.
    """

    name: str
    version: str
    student: str
    sha256: str
    settings: str
    temperature: float

    @classmethod
    def of(cls, metadata: Mapping[str, Any], student: str, sha256: str, network: Any, settings: str) -> Algorithm:
        """Name a student of a bundle, whose metadata.json and network are given."""
        version = f"{metadata['version']} (monai_rd {__version__})"
        return cls(str(metadata["name"]), version, student, sha256, settings, float(network.temperature))

    @property
    def parameters(self) -> tuple[str, ...]:
        """The student, the hash of its file, that of its settings and its temperature, as words."""
        return (
            f"student={self.student}",
            f"model sha256={self.sha256}",
            f"settings sha256={self.settings}",
            f"temperature={self.temperature:.4g}",
        )

    @property
    def model(self) -> dict[str, Any]:
        """The student as `scores.json` names it."""
        return {"sha256": self.sha256, "temperature": self.temperature}

    @property
    def identity(self) -> str:
        """What all answers of this student have in common, and those of no other."""
        return f"{self.sha256} {self.settings}"


class TrainedBundle:
    """A bundle whose `models/model.pt` is there.

    Args:
        bundle: its name, such as "rd_ct", or its folder, with `configs` and `models`.
        overrides: of ids of its configs, such as `dataset_dir`; `bundle_root` where a bundle by name was trained in
            another folder.

    Attributes:
        config: its inference.json with the overrides, as MONAI's `ConfigParser`.
        root: the folder of `models`.
        model_path: `models/model.pt`.
        network: the student in eval mode, on the CPU.
        trained: what inference.json asks of the training: the student's name, class names, image size, ..., each by
            its override where there is one.

    Raises:
        FileNotFoundError: no such bundle, or nothing was trained in it.
        ValueError: a damaged model, or one that is not the student which `models/settings.json` tells; an override that
            neither inference.json nor train.json reads, or one that does not fit its id.
    """

    def __init__(self, bundle: str | os.PathLike[str], **overrides: Any) -> None:
        folder = Path(bundle)
        by_path = is_bundle(folder) or len(folder.parts) > 1
        root = folder.resolve() if by_path else Path(bundle_root(str(bundle)))
        if not (root / "configs" / "inference.json").is_file():
            raise FileNotFoundError(f"no bundle '{bundle}': a folder with configs/inference.json is needed")
        training = root / "configs" / "train.json"
        self._inference, self._train, self.metadata = (
            json.loads(file.read_text(encoding="utf-8")) if file != training or file.is_file() else {}
            for file in (root / "configs" / "inference.json", training, root / "configs" / "metadata.json")
        )  # a copy that only serves, as MONAI Label's, has no training
        read = ids_read([self._inference, self._train])
        refuse_unread(sorted(_heads(overrides) - _heads(read)), read)
        self._overrides = {"bundle_root": str(root), **overrides, **settled(overrides, {})}
        self.config = _overridden(self._inference, self._overrides)
        self.root = Path(self.parsed("bundle_root"))
        self.model_path = self.root / "models" / "model.pt"
        require_model(self.model_path)
        self.trained: dict[str, Any] = {
            name: self.parsed(name) if name in self.config else value for name, value in self.parsed("trained").items()
        }
        self.network = self._filled()

    def parsed(self, name: str) -> Any:
        """What an id of inference.json stands for, see `content_of`."""
        return content_of(self.config, name)

    def _filled(self) -> DeployedStudent:
        network: DeployedStudent = self.parsed("network_def")
        try:
            network.load_state_dict(torch.load(self.model_path, map_location="cpu", weights_only=True))
        except OSError:
            raise
        except NotFiniteError as error:
            raise NotFiniteError(f"{self.model_path}: {error}") from None
        except Exception as error:  # a damaged file fails in any way
            raise ValueError(
                f"{self.model_path} is damaged, or not the weights of the student '{network.name}' with "
                f"{network.classifier.out_features} classes that settings.json beside it tells: train again"
            ) from error
        return network.eval()

    @property
    def multi_label(self) -> bool:
        """Whether an image may have any number of the classes."""
        return bool(self.trained["multi_label"])

    @property
    def class_names(self) -> list[str]:
        """By class index."""
        return list(self.trained["class_names"])

    @cached_property
    def algorithm(self) -> Algorithm:
        """What reports name."""
        settings = hashlib.sha256(json.dumps(self.trained, sort_keys=True).encode()).hexdigest()
        return Algorithm.of(self.metadata, self.network.name, self.parsed("model_sha256"), self.network, settings)

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """What the network takes of a study: slices `[S, 3, H, W]`, or a volume `[1, D, H, W]`."""
        size, slices = [self.trained["image_size"]] * 2, self.trained["slices"]
        return (slices, 3, *size) if self.network.spatial_dims == 2 else (1, slices, *size)

    def inference_json(self) -> dict[str, Any]:
        """inference.json that needs no files of a training: what they told stands in the config itself."""
        return {**self._inference, "trained": _literal(self.trained), "model_sha256": self.algorithm.sha256}

    @cached_property
    def _training(self) -> Any:
        """The bundle's train.json with the overrides and the seed that its split depends on; no unlabelled images."""
        seed = {"seed": self._settings["seed"]} if "seed" in self._settings else {}
        return _overridden(self._train, {**seed, **self._overrides, "unlabelled": None})

    @cached_property
    def _settings(self) -> dict[str, Any]:
        path = self.model_path.with_name("settings.json")
        return json.loads(path.read_text()) if path.is_file() else {}

    @cached_property
    def data(self) -> Any:
        """The data list of `dataset_dir`, else of the bundle's phantoms, with the training's splits.

        Raises:
            ValueError: no labelled data, see `make_datalist`.
        """
        return content_of(self._training, "data")

    @property
    def phantom(self) -> bool:
        """Whether `data` are phantoms."""
        return bool(content_of(self._training, "phantom"))

    @property
    def of_other_data(self) -> bool:
        """Whether `data` are phantoms and the student learnt from something else."""
        return self.phantom and not self._settings.get("phantom", True)

    def images(self, split: str, most: int) -> Iterator[Tensor]:
        """Give the images of a split of `data`, spread evenly, as inference would give them to the network.

        Args:
            split: "training", "validation" or "test".
            most: how many at most.

        Yields:
            Bags `[1, S, 3, H, W]` or volumes `[1, 1, D, H, W]` in [0, 1], float32; none of a study that cannot be read.

        Raises:
            ValueError: none can be read.
        """
        items = self.data[split]
        chosen = items[:: -(-len(items) // most)] if items else []
        unread: list[str] = []
        for item in self.parsed("prepare").dataset(chosen):
            if item["problem"]:
                unread.append(item["problem"])
            else:
                yield item["image"].as_subclass(Tensor)[None].contiguous()
        if len(unread) == len(chosen):
            raise ValueError(f"no image of the {split} split of the data can be read: {count_codes(unread)}")
        if unread:
            print(f"{split} images left out because they cannot be read: {count_codes(unread)}")


def _literal(value: Any) -> str:
    """Write data into a config as an expression that is nothing but data.

    MONAI runs every string of a config that begins with $, and looks up those that begin with @ or %: a class, or a
    body part of a header, may be called so.
    """
    return "$" + repr(value).replace("@", r"\x40")  # looked for inside of expressions too


def content_of(config: ConfigParser, name: str) -> Any:
    """What an id of a config stands for.

    Raises:
        Exception: what was wrong with it, without MONAI's "Failed to evaluate" around it.
    """
    try:
        return config.get_parsed_content(name)
    except RuntimeError as error:
        raise original_error(error) from None


def _heads(names: Iterable[str]) -> set[str]:
    return {name.partition("#")[0] for name in names}


def _overridden(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> ConfigParser:
    """A config with those of the overrides that it reads: some are inference.json's, some train.json's."""
    config, read = ConfigParser(deepcopy(dict(content))), _heads(ids_read(content))  # which it changes
    config.update({name: written(value) for name, value in overrides.items() if name.partition("#")[0] in read})
    return config
