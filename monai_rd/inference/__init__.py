"""Inference: from a study to a `Prediction`, the same for all callers and all file formats of the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.inference.classifier import Inferred, Preparation, StudyClassifier, infer
    from monai_rd.inference.conformal import ConformalSet
    from monai_rd.inference.decision import Decision
    from monai_rd.inference.prediction import Prediction, read_scores, write_scores
    from monai_rd.inference.predictor import Predictor
    from monai_rd.inference.torchscript import TorchScriptFile
    from monai_rd.inference.trained import TrainedBundle

__getattr__ = lazy_names(
    __name__,
    {
        "classifier": ("Inferred", "Preparation", "StudyClassifier", "infer"),
        "conformal": ("ConformalSet",),
        "decision": ("Decision",),
        "prediction": ("Prediction", "read_scores", "write_scores"),
        "predictor": ("Predictor",),
        "torchscript": ("TorchScriptFile",),
        "trained": ("TrainedBundle",),
    },
)

__all__ = [
    "ConformalSet",
    "Decision",
    "Inferred",
    "Prediction",
    "Predictor",
    "Preparation",
    "StudyClassifier",
    "TorchScriptFile",
    "TrainedBundle",
    "infer",
    "read_scores",
    "write_scores",
]
