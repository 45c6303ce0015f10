"""A predictor: loads a student once, and then scores the studies of any number of folders."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from monai.data import DataLoader

from monai_rd.datasets.studies import Studies, files_of_item
from monai_rd.errors import StudyError, original_error
from monai_rd.inference.classifier import StudyClassifier
from monai_rd.inference.prediction import Prediction, scores_content, write_scores

if TYPE_CHECKING:
    from monai_rd.inference.trained import Algorithm

__all__ = ["UNEXPECTED", "Predictor", "without_paths"]

UNEXPECTED = "UNEXPECTED"  # the problem's code if the program itself failed on a study


class Loaded(Protocol):
    """The interface of a student with its inference.json: a `TrainedBundle` or a `TorchScriptFile`."""

    @property
    def algorithm(self) -> Algorithm:
        """Name and version of the student, for reports."""

    def parsed(self, name: str) -> Any:
        """Return the object of an id of inference.json, with the student as the network."""


class Predictor:
    """Scores all studies in a folder with a student, as configured in its inference.json.

    Args:
        student: a `TrainedBundle`, or a `TorchScriptFile`. Its network is moved to the device in inference.json.

    Attributes:
        student: as given.
        classifier: the student with its preprocessing.
        algorithm: name and version of the student, for reports.
        modalities: DICOM modalities of the training data; empty if not known.
        batch_size: number of studies that are scored at a time.

    Example:
        A bundle with a student whose weights are random.

        >>> from pathlib import Path
        >>> import torch
        >>> from PIL import Image
        >>> from monai_rd.inference import Predictor, TrainedBundle
        >>> from monai_rd.networks import Student
        >>> _ = [Path(name).mkdir() for name in ("models", "studies")]
        >>> torch.save(Student("resnet18", num_classes=2).state_dict(), "models/model.pt")
        >>> Image.new("L", (64, 64)).save("studies/a.png")
        >>> (prediction,) = Predictor(TrainedBundle("rd_ct", bundle_root="."))("studies")
        >>> prediction.problem, list(prediction.probabilities)
        ('', ['clear', 'opacity'])
    """

    def __init__(self, student: Loaded) -> None:
        self.student, self.algorithm = student, student.algorithm
        self.classifier: StudyClassifier = student.parsed("classifier")
        self.modalities: list[str] = (student.parsed("trained")["scope"] or {"modality": []})["modality"]
        self._series_rule = student.parsed("series_rule")
        self.batch_size: int = student.parsed("batch_size")
        self._num_workers: int = student.parsed("num_workers")

    def __call__(self, folder: str | os.PathLike[str]) -> list[Prediction]:
        """Score all studies in a folder.

        Args:
            folder: with DICOM series, volume files and pictures, in any subfolders; or a DICOMDIR; or a list (a sheet
                or JSON), whose paths are relative to its folder.

        Returns:
            One prediction per study. First those that are left out by their headers, then all others, with scores or a
            problem. If the program fails on a study (code UNEXPECTED), the others are still scored.

        Raises:
            FileNotFoundError: no such folder or list.
            ValueError: a study has a problem that is an error by the policy, or a list cannot be used.
        """
        return self.answer(self.find(folder))

    def answer(self, studies: Studies) -> list[Prediction]:
        """Score studies that `find` found: one prediction for each, as of `__call__`."""
        left_out = [Prediction.of_problem(one, self.classifier.model_sha256) for one in studies.problems]
        return [*left_out, *self.score(studies.items)]

    def find(self, folder: str | os.PathLike[str]) -> Studies:
        """Find the studies in a folder or list, see `studies_to_score`; if there are none, that is not an error."""
        # Not at the top: it reads lists with packages that MONAI Label's environment lacks.
        from monai_rd.datasets.datalist import studies_to_score

        policy, rule = self.classifier.prepare.policy, self._series_rule
        return studies_to_score(os.path.abspath(folder), policy=policy, series_rule=rule, empty_is_error=False)

    def score(self, items: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Score items of `find_studies`; returns one prediction per item, in the same order.

        Raises:
            StudyError: a study has a problem that is an error by the policy.
        """
        known = self.classifier
        try:
            data = known.prepare.dataset(items)
            loader = DataLoader(data, batch_size=self.batch_size, num_workers=self._num_workers, collate_fn=list)
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
        """Write predictions to a CSV and a JSON file, and return their numbers as a sentence; see `write_scores`."""
        known = self.classifier
        return write_scores(
            path, predictions, known.class_names, self.algorithm.model, known.multi_label, known.decision
        )

    def content(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return what `write` writes as the JSON file; see `scores_content`."""
        known = self.classifier
        return scores_content(predictions, known.class_names, self.algorithm.model, known.multi_label, known.decision)


def without_paths(error: BaseException) -> str:
    """Describe an unexpected error by its type and line of code; its message may contain a path or a patient's name."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"a {type(error).__name__} ({Path(place.filename).name}, line {place.lineno})"
