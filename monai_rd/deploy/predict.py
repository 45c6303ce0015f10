"""A trained bundle, loaded once, that answers about folder after folder exactly as its inference.json does."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.bundle import ConfigParser

from monai_rd import __version__
from monai_rd.bundle import bundle_root, require_model
from monai_rd.data.errors import StudyError, original_error
from monai_rd.data.studies import Studies
from monai_rd.files import sha256
from monai_rd.handlers.scores import Prediction, ScoreCollector, write_scores

if TYPE_CHECKING:
    from monai_rd.networks import Student

__all__ = ["UNEXPECTED", "Algorithm", "Prediction", "Predictor", "without_paths"]

UNEXPECTED = "UNEXPECTED"  # the code of a study on which the program itself failed


@dataclass(frozen=True)
class Algorithm:
    """What gave an answer, as a report names it.

    Attributes:
        name: of the bundle.
        version: of the bundle and of the package.
        parameters: the student, the hash of its file, the temperature of its probabilities.
    """

    name: str
    version: str
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, metadata: Mapping[str, Any], student: str, model: Mapping[str, Any]) -> Algorithm:
        """Name a student.

        Args:
            metadata: of the bundle.
            student: its name.
            model: the hash of its file ("sha256") and the "temperature" of its probabilities.
        """
        parameters = (
            f"student={student}",
            f"model sha256={model['sha256']}",
            f"temperature={model['temperature']:.4g}",
        )
        return cls(str(metadata["name"]), f"{metadata['version']} (monai_rd {__version__})", parameters)


class Predictor:
    """Scores everything in a folder by a bundle's own preprocessing, network, postprocessing and policy.

    Its inference.json says how; only its handlers are left out, so that nothing is written. The student is loaded once.

    Args:
        bundle: name of a bundle, such as "rd_ct", or the folder of one with its `configs`.
        overrides: of ids of inference.json; `bundle_root` where a bundle by name was trained in another folder.

    Attributes:
        root: the bundle's folder.
        network: the student, on its device, in eval mode.
        class_names: by class index.
        multi_label: an image may have any number of the classes.
        preprocessing: MONAI's `Compose` from an item to what the network takes.
        modalities: of the training's DICOM.
        device: where the network runs.
        model: SHA-256 of the student's file and the temperature of its probabilities.
        algorithm: what reports name.

    Raises:
        FileNotFoundError: no such bundle, or nothing was trained in it.
        RuntimeError: the file is another network's.
    """

    def __init__(self, bundle: str | os.PathLike[str], **overrides: Any) -> None:
        folder = Path(bundle)
        if not (folder / "configs" / "inference.json").is_file():
            folder = Path(bundle_root(str(bundle)))
        self._config = ConfigParser.load_config_file(str(folder / "configs" / "inference.json"))
        own = {"labelled": False, "found_studies#empty_is_error": False}  # a folder of bad studies has answers too
        self._overrides = {"bundle_root": str(folder.resolve()), **overrides, **own}
        parser = self._parser({})
        self.root = Path(parser.get_parsed_content("bundle_root"))
        file = self.root / "models" / "model.pt"
        require_model(file)
        self.network: Student = parser.get_parsed_content("network")
        self.network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.network.eval()
        self.class_names: list[str] = list(parser.get_parsed_content("class_names"))
        self.multi_label = bool(parser.get_parsed_content("multi_label"))
        self.device = torch.device(parser.get_parsed_content("device"))
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.modalities: list[str] = (parser.get_parsed_content("trained")["scope"] or {"modality": []})["modality"]
        self.model: dict[str, Any] = {"sha256": sha256(file), "temperature": float(self.network.temperature)}
        metadata = json.loads((folder / "configs" / "metadata.json").read_text())
        self.algorithm = Algorithm.of(metadata, self.network.name, self.model)
        self._collector = ScoreCollector(self.class_names, self.network, self.multi_label)

    def __call__(self, folder: str | os.PathLike[str]) -> list[Prediction]:
        """Score what is in a folder.

        Args:
            folder: nested and mixed as it may be: DICOM series, NIfTI volumes, 8-bit images. Or a DICOMDIR.

        Returns:
            One for every study. What is left out by its header comes first; then all others, scored or with the reason
            why not. A study on which the program fails (code UNEXPECTED) does not stop the others.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: a study that the policy calls an error.
        """
        try:
            studies: Studies = self._parser({"dataset_dir": str(folder)}).get_parsed_content("studies")
        except RuntimeError as error:  # MONAI wraps what goes wrong in a config
            raise original_error(error) from None
        refused = [replace(Prediction.of_problem(one), model=self.model["sha256"]) for one in studies.problems]
        return [*refused, *self._score(studies.items)]

    def write(self, predictions: Sequence[Prediction], path: str | os.PathLike[str]) -> str:
        """Write scores.csv and scores.json, see `write_scores`; returns how many were scored, as a sentence."""
        return write_scores(path, predictions, self.class_names, self.model, self.multi_label)

    def _parser(self, content: Mapping[str, Any]) -> ConfigParser:
        parser = ConfigParser(deepcopy(self._config))  # which it changes
        parser.update({**self._overrides, **content})
        return parser

    def _score(self, items: Sequence[dict[str, Any]]) -> list[Prediction]:
        if not items:
            return []
        content = {"studies": Studies(list(items), []), "network": self.network, "handlers": [self._collector]}
        evaluator = self._parser(content).get_parsed_content("evaluator")
        evaluator.logger.setLevel(logging.CRITICAL)  # it logs an error's text, in which a path may stand
        try:
            evaluator.run()
        except Exception as error:
            cause = original_error(error)
            if isinstance(cause, StudyError):
                raise cause from None
            if len(items) > 1:
                return [one for item in items for one in self._score([item])]
            return [self._finish(items[0], _failed(items[0], cause))]
        return [self._finish(item, one) for item, one in zip(items, self._collector.predictions, strict=True)]

    def _finish(self, item: Mapping[str, Any], prediction: Prediction) -> Prediction:
        files = item["image"] if isinstance(item["image"], list) else [item["image"]]
        return replace(prediction, model=self.model["sha256"], files=tuple(Path(file) for file in files))


def _failed(item: Mapping[str, Any], error: BaseException) -> Prediction:
    """What stands for a study on which the program failed."""
    message = f"the program failed on it with {without_paths(error)}; please report it"
    return Prediction(item["id"], item["series"], item["study"], problem=UNEXPECTED, message=message)


def without_paths(error: BaseException) -> str:
    """Name an unexpected error and its place in the code; its own text may hold a path or a patient."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"a {type(error).__name__} ({Path(place.filename).name}, line {place.lineno})"
