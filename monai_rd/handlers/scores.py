"""Bundle inference: writes a student's predictions from MONAI's evaluator to a CSV and a JSON file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_rd.errors import StudyError
from monai_rd.inference.classifier import StudyClassifier
from monai_rd.inference.prediction import Prediction, write_scores

__all__ = ["ScoreWriter"]


class ScoreWriter:
    """Collects the predictions of an evaluator and writes them at the end of its run, see `write_scores`.

    Attach it to an evaluator whose `iteration_update` is `StudyClassifier.step`.

    Args:
        path: the CSV file, written as a whole at the end of the run.
        classifier: the classifier that makes the predictions.
        problems: DICOM series that were excluded because of their headers; each gets a row with its code and no score.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai.transforms import Compose
        >>> from monai_rd.handlers import ScoreWriter
        >>> from monai_rd.inference import Preparation, StudyClassifier
        >>> from monai_rd.networks import Student
        >>> prepare = Preparation(Compose([]), shape=[1, 3, 64, 64])
        >>> classifier = StudyClassifier(Student("resnet18", num_classes=2).eval(), prepare, ["healthy", "ill"])
        >>> evaluator = Engine(classifier.step)
        >>> ScoreWriter("scores.csv", classifier).attach(evaluator)
        >>> study = {"id": "study_1", "image": torch.rand(4, 3, 64, 64), "files": (), "flags": "", "problem": ""}
        >>> _ = evaluator.run([[study]])
        1 studies scored, 0 left out: scores.csv
    """

    def __init__(
        self, path: str | os.PathLike[str], classifier: StudyClassifier, problems: Sequence[StudyError] = ()
    ) -> None:
        self.path, self.classifier = Path(path), classifier
        self._left_out = [Prediction.of_problem(one) for one in problems]
        self._predictions: list[Prediction] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, lambda _: self._predictions.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        self._predictions += [output["prediction"] for output in engine.state.output]

    def _write(self, engine: Engine) -> None:
        known, found = self.classifier, [*self._left_out, *self._predictions]
        student: Any = known.network
        model = {"sha256": known.model_sha256, "temperature": float(student.temperature)}
        print(write_scores(self.path, found, known.class_names, model, known.multi_label, known.decision))
