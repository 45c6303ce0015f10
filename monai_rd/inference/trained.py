"""A trained bundle: its student, its inference.json, and the images of its data."""

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
from monai_rd.bundle import bundle_folder, check_roles, require_model
from monai_rd.errors import count_codes, original_error
from monai_rd.finite import NotFiniteError
from monai_rd.inference.decision import Decision
from monai_rd.inference.papers import not_recorded, read_card
from monai_rd.overrides import ids_read, refuse_unread, settled, written

if TYPE_CHECKING:
    from monai_rd.networks import DeployedStudent

__all__ = ["Algorithm", "TrainedBundle", "content_of"]


@dataclass(frozen=True)
class Algorithm:
    """The student and the versions that a prediction was made with, as named in reports.

    Attributes:
        name: name of the bundle.
        version: versions of the bundle and of the package.
        student: name of the student.
        sha256: SHA-256 of the student's `model.pt`.
        settings: SHA-256 of the training's settings that predictions depend on, see `TrainedBundle.trained`.
        temperature: temperature of the calibrated probabilities.
        thresholds: from which probability on a class is said, in words; empty without operating points.
        licences: what the licences of the student's teacher and initial weights say of its use, in words.
    """

    name: str
    version: str
    student: str
    sha256: str
    settings: str
    temperature: float
    thresholds: tuple[str, ...] = ()
    licences: str = "not recorded"

    @classmethod
    def of(
        cls,
        metadata: Mapping[str, Any],
        student: str,
        sha256: str,
        network: Any,
        settings: str,
        trained: Mapping[str, Any],
        licences: Mapping[str, Any],
    ) -> Algorithm:
        """Make an instance.

        Args:
            metadata: content of the bundle's metadata.json.
            student: name of the student.
            sha256: SHA-256 of its `model.pt`.
            network: the student.
            settings: SHA-256 of `trained`.
            trained: see `TrainedBundle.trained`.
            licences: see `TrainedBundle.licences`.
        """
        version = f"{metadata['version']} (monai_rd {__version__})"
        said = Decision.of(trained.get("decision"), sha256).points_in_words(trained["class_names"])
        temperature, words = float(network.temperature), str(licences["in_words"])
        return cls(str(metadata["name"]), version, student, sha256, settings, temperature, said, words)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The student's name, hashes of its file and settings, temperature, thresholds and licences, "key=value"."""
        return (
            f"student={self.student}",
            f"model sha256={self.sha256}",
            f"settings sha256={self.settings}",
            f"temperature={self.temperature:.4g}",
            *(f"threshold={one}" for one in self.thresholds),
            f"licences={self.licences}",
        )

    @property
    def model(self) -> dict[str, Any]:
        """The student's hash and temperature, as in `scores.json`."""
        return {"sha256": self.sha256, "temperature": self.temperature}

    @property
    def identity(self) -> str:
        """A text that identifies the student and its settings."""
        return f"{self.sha256} {self.settings}"


class TrainedBundle:
    """A bundle with a trained student (`models/model.pt`).

    Args:
        bundle: name of the bundle, such as "rd_ct", or its folder, with `configs` and `models`.
        overrides: new values for ids of its configs, such as `dataset_dir`. Use `bundle_root` if a bundle given by name
            was trained in another folder.

    Attributes:
        config: inference.json with the overrides, as MONAI's `ConfigParser`.
        root: the folder that contains `models`.
        model_path: path of `models/model.pt`.
        network: the student in eval mode, on the CPU.
        trained: the training's settings that inference needs (student, class names, image size, ...), with the
            overrides.

    Raises:
        FileNotFoundError: no such bundle, or it is not trained.
        ValueError: the model is damaged or not the student in `models/settings.json`; or an override is used by neither
            inference.json nor train.json, or does not fit its id or the student.

    Example:
        A student with random weights and the settings of an untrained bundle.

        >>> from pathlib import Path
        >>> import torch
        >>> from monai_rd.inference import TrainedBundle
        >>> from monai_rd.networks import Student
        >>> Path("models").mkdir()
        >>> torch.save(Student("resnet18", num_classes=2).state_dict(), "models/model.pt")
        >>> trained = TrainedBundle("rd_ct", bundle_root=".")
        >>> trained.class_names, trained.image_shape
        (['clear', 'opacity'], (4, 3, 64, 64))
    """

    def __init__(self, bundle: str | os.PathLike[str], **overrides: Any) -> None:
        root = bundle_folder(bundle).resolve()
        if not (root / "configs" / "inference.json").is_file():
            raise FileNotFoundError(f"no bundle '{bundle}': a folder with configs/inference.json is needed")
        training = root / "configs" / "train.json"
        self._inference, self._train, self.metadata = (
            json.loads(file.read_text(encoding="utf-8")) if file != training or file.is_file() else {}
            for file in (root / "configs" / "inference.json", training, root / "configs" / "metadata.json")
        )  # a copy for inference only, such as MONAI Label's, has no train.json
        read = ids_read([self._inference, self._train])
        refuse_unread(sorted(_top_level_ids(overrides) - _top_level_ids(read)), read)
        self._overrides = {"bundle_root": str(root), **overrides, **settled(overrides, {})}
        self.config = _with_overrides(self._inference, self._overrides)
        self.root = Path(self.parsed("bundle_root"))
        self.model_path = self.root / "models" / "model.pt"
        require_model(self.model_path)
        self.trained: dict[str, Any] = {
            name: self.parsed(name) if name in self.config else value for name, value in self.parsed("trained").items()
        }
        check_roles(self.parsed("series_rule"), self.series_roles)
        self.network = self._load_network()

    def parsed(self, name: str) -> Any:
        """Return the object of an id of inference.json, see `content_of`."""
        return content_of(self.config, name)

    def _load_network(self) -> DeployedStudent:
        network: DeployedStudent = self.parsed("network_def")
        try:
            network.load_state_dict(torch.load(self.model_path, map_location="cpu", weights_only=True))
        except OSError:
            raise
        except NotFiniteError as error:
            raise NotFiniteError(f"{self.model_path}: {error}") from None
        except Exception as error:  # a damaged file may raise any error
            raise ValueError(
                f"{self.model_path} is damaged, or not the weights of the student '{network.name}' with "
                f"{network.classifier.out_features} classes that settings.json beside it tells: train again"
            ) from error
        return network.eval()

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes or none."""
        return bool(self.trained["multi_label"])

    @property
    def class_names(self) -> list[str]:
        """Class names, by class index."""
        return list(self.trained["class_names"])

    @cached_property
    def algorithm(self) -> Algorithm:
        """Name and version of the student, for reports."""
        settings = hashlib.sha256(json.dumps(self.trained, sort_keys=True).encode()).hexdigest()
        sha256 = self.parsed("model_sha256")
        given = self.metadata, self.network.name, sha256, self.network, settings, self.trained
        return Algorithm.of(*given, self.licences)

    @cached_property
    def card(self) -> dict[str, Any]:
        """The facts of the student's model card, `models/model_card.json`.

        Raises:
            ValueError: there is none of this `model.pt`, see `read_card`.
        """
        return read_card(self.model_path)

    @cached_property
    def licences(self) -> Mapping[str, Any]:
        """What the licences of the student's teacher and initial weights say; without a card that they are unknown."""
        try:
            return dict(self.card["licences"])
        except ValueError as error:
            return not_recorded(error)

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the network's input for one study: slices `[S, 3, H, W]`, or a volume `[1, D, H, W]`."""
        return tuple(self.parsed("sizes").bag)

    def inference_json(self) -> dict[str, Any]:
        """Return inference.json with the training's settings and the model's hash written into it."""
        return {**self._inference, "trained": _literal(self.trained), "model_sha256": self.algorithm.sha256}

    @property
    def series_roles(self) -> dict[str, Any] | None:
        """The series rule of the training if it has roles (see `SeriesRule`), else None."""
        return self.trained["series_roles"]

    @cached_property
    def _training(self) -> Any:
        """train.json with the overrides, the training's seed (for the same split) and roles, no unlabelled images."""
        kept = {"seed": self._settings["seed"]} if "seed" in self._settings else {}
        kept |= {} if self.series_roles is None else {"series_rule": self.series_roles}
        return _with_overrides(self._train, {**kept, **self._overrides, "unlabelled": None})

    @cached_property
    def _settings(self) -> dict[str, Any]:
        path = self.model_path.with_name("settings.json")
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @cached_property
    def data(self) -> Any:
        """The data list of `dataset_dir` (default: the bundle's phantoms), with the splits of the training.

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
        """Whether `data` are phantoms although the student was trained on other data."""
        return self.phantom and not self._settings.get("phantom", True)

    def images(self, split: str, most: int) -> Iterator[Tensor]:
        """Yield images of a split of `data`, spread evenly over it and preprocessed as in inference.

        Args:
            split: "training", "validation" or "test".
            most: maximum number of images.

        Yields:
            Bags `[1, S, 3, H, W]` or volumes `[1, 1, D, H, W]` in [0, 1], float32. Studies that cannot be read are left
            out.

        Raises:
            ValueError: no image can be read.
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
    """Return a config expression for plain data.

    MONAI evaluates strings of a config that begin with $ and resolves those that begin with @ or %, but the name of a
    class or a body part in a header may begin with these characters.
    """
    return "$" + repr(value).replace("@", r"\x40")  # MONAI resolves @ also inside expressions


def content_of(config: ConfigParser, name: str) -> Any:
    """Return the object of an id of a config.

    Raises:
        Exception: the original error, without MONAI's "Failed to evaluate" around it.
    """
    try:
        return config.get_parsed_content(name)
    except RuntimeError as error:
        raise original_error(error) from None


def _top_level_ids(names: Iterable[str]) -> set[str]:
    return {name.partition("#")[0] for name in names}


def _with_overrides(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> ConfigParser:
    """Return a config with those overrides that it uses; others belong to the other config of the bundle."""
    config, read = ConfigParser(deepcopy(dict(content))), _top_level_ids(ids_read(content))  # ConfigParser changes it
    config.update({name: written(value) for name, value in overrides.items() if name.partition("#")[0] in read})
    return config
