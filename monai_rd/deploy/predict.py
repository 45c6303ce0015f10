"""A trained bundle, loaded once, that answers about folder after folder exactly as its inference.json does."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from monai_rd.data.errors import StudyError, original_error
from monai_rd.data.studies import Studies, files_of_item
from monai_rd.handlers.scores import Prediction, ScoreCollector, write_scores

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

    from monai_rd.deploy.trained import TrainedBundle

__all__ = ["UNEXPECTED", "Prediction", "Predictor", "without_paths"]

UNEXPECTED = "UNEXPECTED"  # the code of a study on which the program itself failed


class Predictor:
    """Scores everything in a folder by a bundle's own preprocessing, network, postprocessing and policy.

    Its inference.json says how; only its handlers are left out, so that nothing is written.

    Args:
        trained: the bundle. Its network moves to the device that inference.json tells.

    Attributes:
        trained: the bundle.
        network: the student, on its device, in eval mode.
        preprocessing: MONAI's `Compose` from an item to what the network takes.
        modalities: of the training's DICOM.
        device: where the network runs.
    """

    def __init__(self, trained: TrainedBundle) -> None:
        self.trained = trained
        self.device = torch.device(trained.parsed("device"))
        self.network = trained.network.to(self.device)
        self.preprocessing = trained.parsed("preprocessing")
        self.modalities: list[str] = (trained.trained["scope"] or {"modality": []})["modality"]
        self._collector = ScoreCollector(trained.class_names, self.network, trained.multi_label)

    def __call__(self, folder: str | os.PathLike[str]) -> list[Prediction]:
        """Score what is in a folder.

        Args:
            folder: nested and mixed as it may be: DICOM series, volume files, pictures. Or a DICOMDIR.

        Returns:
            One for every study. What is left out by its header comes first; then all others, scored or with the reason
            why not. A study on which the program fails (code UNEXPECTED) does not stop the others.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: a study that the policy calls an error.
        """
        try:
            studies: Studies = self._config({"dataset_dir": os.path.abspath(folder)}).get_parsed_content("studies")
        except RuntimeError as error:  # MONAI wraps what goes wrong in a config
            raise original_error(error) from None
        refused = [replace(Prediction.of_problem(one), model=self.trained.model["sha256"]) for one in studies.problems]
        return [*refused, *self._score(studies.items)]

    def write(self, predictions: Sequence[Prediction], path: str | os.PathLike[str]) -> str:
        """Write scores.csv and scores.json, see `write_scores`; returns how many were scored, as a sentence."""
        trained = self.trained
        return write_scores(path, predictions, trained.class_names, trained.model, trained.multi_label)

    def could_say(self, prediction: Prediction) -> bool:
        """Whether an answer may be one of this student, by its file and its classes."""
        named = bool(prediction.problem) or list(prediction.probabilities) == self.trained.class_names
        return named and prediction.model == self.trained.model["sha256"]

    def _config(self, content: Mapping[str, Any]) -> ConfigParser:
        # A folder of bad studies has answers too.
        own = {"device": str(self.device), "labelled": False, "found_studies#empty_is_error": False}
        return self.trained.with_overrides({**own, **content})

    def _score(self, items: Sequence[dict[str, Any]]) -> list[Prediction]:
        if not items:
            return []
        content = {"studies": Studies(list(items), []), "network": self.network, "handlers": [self._collector]}
        evaluator = self._config(content).get_parsed_content("evaluator")
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
        return replace(prediction, model=self.trained.model["sha256"], files=files_of_item(item))


def _failed(item: Mapping[str, Any], error: BaseException) -> Prediction:
    """What stands for a study on which the program failed."""
    message = f"the program failed on it with {without_paths(error)}; please report it"
    return Prediction(item["id"], item["series"], item["study"], problem=UNEXPECTED, message=message)


def without_paths(error: BaseException) -> str:
    """Name an unexpected error and its place in the code; its own text may hold a path or a patient."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"a {type(error).__name__} ({Path(place.filename).name}, line {place.lineno})"
