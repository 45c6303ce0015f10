"""A MONAI Label app that answers about studies with trained students: class, calibrated probabilities, flags.

It serves every bundle in its folder `model`. MONAI Label's own bundle app goes by the name of a bundle's folder, loads
what fits of a model and lets the rest be random, and turns class names to lower case; this one does none of it.

Not for clinical use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device

from monai_rd import __version__
from monai_rd.datasets.studies import item_of_image
from monai_rd.dicom import is_dicom
from monai_rd.errors import StudyError
from monai_rd.inference import Predictor, TrainedBundle
from monai_rd.inference.predictor import UNEXPECTED


class ClassifierTask(InferTask):
    """A trained bundle as a task of MONAI Label.

    Args:
        path: the bundle's folder.

    Raises:
        FileNotFoundError: the bundle has no trained model.
        ValueError: the model is not the student that the bundle's settings name.
    """

    def __init__(self, path: str) -> None:
        self.bundle, self._predictors = path, dict[str, tuple[Predictor, int]]()
        trained = TrainedBundle(path)  # a model that does not fit stops the server, not the first answer
        self.version, self.model_path = trained.metadata["version"], trained.model_path
        labels = {name: number for number, name in enumerate(trained.class_names)}
        about = trained.network.spatial_dims, trained.metadata["description"]
        super().__init__(InferType.CLASSIFICATION, labels, *about, {"device": device_list()})

    def is_valid(self) -> bool:
        """Whether it can answer."""
        return True

    def info(self) -> dict[str, Any]:
        """What the server tells of it."""
        return {**super().info(), "version": self.version}

    def get_path(self, validate: bool = True) -> str:
        """The student's file."""
        return str(self.model_path)

    def _predictor(self, device: str) -> Predictor:
        """The student on a device; read anew when its file has changed."""
        changed = self.model_path.stat().st_mtime_ns
        if device not in self._predictors or self._predictors[device][1] != changed:
            self._predictors[device] = Predictor(TrainedBundle(self.bundle, device=device)), changed
        return self._predictors[device][0]

    def __call__(self, request: Mapping[str, Any]) -> tuple[None, dict[str, Any]]:
        """Answer about one study; one that cannot be judged gets HTTP status 422 with the code of its problem.

        Returns:
            No file, and what the client gets: the probability of every class, what speaks against them, who says so.
        """
        image = Path(request["image"])
        if not image.is_file() or is_dicom(image):  # of an unknown name MONAI Label makes the studies' folder
            raise HTTPException(422, {"problem": "NO_IMAGE", "message": "no NIfTI volume or image of that name"})
        predictor = self._predictor(name_to_device({**self.config(), **request}["device"]))
        try:
            (found,) = predictor.score([item_of_image(image)])
        except StudyError as error:  # that the policy calls one
            raise HTTPException(422, {"problem": error.code, "message": str(error)}) from error
        if found.problem:
            status = 500 if found.problem == UNEXPECTED else 422
            raise HTTPException(status, {"problem": found.problem, "message": found.message})
        scores = enumerate(found.probabilities.items())
        prediction = [{"idx": number, "label": name, "score": score} for number, (name, score) in scores]
        told = {"prediction": prediction, "flags": list(found.flags), "model": {"sha256": found.model}}
        return None, {**told, "label_names": self.labels}


class ClassificationApp(MONAILabelApp):
    """All bundles of the folder `model`, each as a task by the name of its folder.

    Args:
        app_dir: the folder of this file.
        studies: a folder of NIfTI volumes and images, or the address of a DICOMweb server.
        conf: what the server was started with (`--conf`).
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        about = "Students distilled from foundation models. Not for clinical use."
        super().__init__(app_dir, studies, conf, "Reprogramming Distillation", about, __version__)

    def init_infers(self) -> dict[str, InferTask]:
        """One task a bundle."""
        folders = sorted(folder for folder in (Path(self.app_dir) / "model").iterdir() if folder.is_dir())
        return {folder.name: ClassifierTask(str(folder)) for folder in folders}

    def infer(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """Answer about one study; one that cannot be had gets HTTP status 404, 422 or 502 and our words."""
        image = request.get("image")
        if isinstance(image, str) and not Path(image).is_file():  # a name or UID; what was uploaded is a file
            _fetch(datastore or self.datastore(), image)
        return super().infer(request, datastore)

    def _download_dcmqi_tools(self) -> None:
        """Nothing: MONAI Label would fetch here what writes segmentations, and there are none."""


def _fetch(datastore: Any, image: str) -> None:
    """Have MONAI Label fetch an image, which it then has.

    Raises:
        HTTPException: there is none, its archive does not give it, or it cannot be converted.
    """
    missing = {"problem": "NO_IMAGE", "message": "no NIfTI volume, image or DICOM series of that name or UID"}
    if not re.fullmatch(r"[^/\\]+", image) or image in (".", ".."):  # it would be taken for a path
        raise HTTPException(404, missing)
    try:
        found = datastore.get_image_uri(image)
    except (IndexError, KeyError, ValueError) as error:  # what MONAI Label makes of an empty answer, and of no UID
        raise HTTPException(404, missing) from error
    except OSError as error:  # as are the errors of requests
        message = "the archive did not give the series: does it run, and does it have it? Ask again later"
        raise HTTPException(502, {"problem": "NO_ANSWER", "message": message}) from error
    except Exception as error:
        message = "MONAI Label could not make a volume of this series: is it one of images?"
        raise HTTPException(422, {"problem": "NO_IMAGE", "message": message}) from error
    if not found:
        raise HTTPException(404, missing)
