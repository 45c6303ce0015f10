"""A student, loaded once, that answers about folder after folder."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from monai.data import DataLoader

from monai_rd.datasets.studies import Studies, files_of_item, find_studies
from monai_rd.errors import StudyError, original_error
from monai_rd.inference.classifier import StudyClassifier
from monai_rd.inference.prediction import Prediction, write_scores

if TYPE_CHECKING:
    from monai_rd.inference.trained import Algorithm

__all__ = ["UNEXPECTED", "Predictor", "without_paths"]

UNEXPECTED = "UNEXPECTED"  # the code of a study on which the program itself failed


class Loaded(Protocol):
    """A student with its inference.json: a `TrainedBundle` or a `TorchScriptFile`."""

    @property
    def algorithm(self) -> Algorithm:
        """What reports name."""

    def parsed(self, name: str) -> Any:
        """What an id of inference.json stands for, with the student in its place."""


class Predictor:
    """Finds what is in a folder and asks a student about it, as its inference.json says.

    Args:
        student: a `TrainedBundle`, or a `TorchScriptFile`. Its network moves to the device that inference.json tells.

    Attributes:
        student: the same.
        classifier: the student with its preprocessing, from one item to one answer.
        algorithm: what reports name.
        modalities: of the training's DICOM.
    """

    def __init__(self, student: Loaded) -> None:
        self.student, self.algorithm = student, student.algorithm
        self.classifier: StudyClassifier = student.parsed("classifier")
        self.modalities: list[str] = (student.parsed("trained")["scope"] or {"modality": []})["modality"]
        self._series_rule = student.parsed("series_rule")
        self._batches = {name: student.parsed(name) for name in ("batch_size", "num_workers")}

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
        studies = self.find(folder)
        left_out = [Prediction.of_problem(one, self.classifier.model_sha256) for one in studies.problems]
        return [*left_out, *self.score(studies.items)]

    def find(self, folder: str | os.PathLike[str]) -> Studies:
        """Find what is in a folder, see `find_studies`; none is an answer too."""
        policy, rule = self.classifier.prepare.policy, self._series_rule
        return find_studies(os.path.abspath(folder), empty_is_error=False, policy=policy, series_rule=rule)

    def score(self, items: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Score items of `find_studies`; one for each, in their order.

        Raises:
            StudyError: a study that the policy calls an error.
        """
        known = self.classifier
        try:
            loader = DataLoader(known.prepare.dataset(items), collate_fn=list, **self._batches)
            return [
                known.answer(item, found)
                for batch in loader
                for item, found in zip(batch, known.infer(batch), strict=True)
            ]
        except Exception as error:
            cause = original_error(error)
            if isinstance(cause, StudyError):
                raise cause from None
            if len(items) > 1:
                return [one for item in items for one in self.score([item])]
            message = f"the program failed on it with {without_paths(cause)}; please report it"
            failed = {**items[0], "files": files_of_item(items[0]), "problem": UNEXPECTED, "message": message}
            return [known.answer(failed, None)]

    def write(self, predictions: Sequence[Prediction], path: str | os.PathLike[str]) -> str:
        """Write scores.csv and scores.json, see `write_scores`; returns how many were scored, as a sentence."""
        known = self.classifier
        return write_scores(path, predictions, known.class_names, self.algorithm.model, known.multi_label)

    def could_have_made(self, prediction: Prediction) -> bool:
        """Whether an answer may be one of this student, by its file and its classes."""
        named = bool(prediction.problem) or list(prediction.probabilities) == list(self.classifier.class_names)
        return named and prediction.model == self.classifier.model_sha256


def without_paths(error: BaseException) -> str:
    """Name an unexpected error and its place in the code; its own text may hold a path or a patient."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"a {type(error).__name__} ({Path(place.filename).name}, line {place.lineno})"
