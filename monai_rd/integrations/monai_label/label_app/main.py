"""A MONAI Label app that scores studies with trained students: class, calibrated probabilities, flags.

It serves every bundle in its folder `model`. MONAI Label's own bundle app derives the task from the name of a bundle's
folder, loads only matching weights and leaves the others random, and converts class names to lower case; this app does
none of that.

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
        """Whether the task is usable: always."""
        return True

    def info(self) -> dict[str, Any]:
        """Return the server's description of the task."""
        return {**super().info(), "version": self.version}

    def get_path(self, validate: bool = True) -> str:
        """Return the path of the student's file."""
        return str(self.model_path)

    def _predictor(self, device: str) -> Predictor:
        """Return the student on a device; loaded again when its file has changed."""
        changed = self.model_path.stat().st_mtime_ns
        if device not in self._predictors or self._predictors[device][1] != changed:
            self._predictors[device] = Predictor(TrainedBundle(self.bundle, device=device)), changed
        return self._predictors[device][0]

    def __call__(self, request: Mapping[str, Any]) -> tuple[None, dict[str, Any]]:
        """Score one study; a study that cannot be scored gets HTTP status 422 with the code of its problem.

        Returns:
            No file, and the result for the client: class, the probability of every class, the conformal set,
            warning flags, and the model.
        """
        image = Path(request["image"])
        if not image.is_file() or is_dicom(image):  # for an unknown name MONAI Label gives the studies' folder
            raise HTTPException(422, {"problem": "NO_IMAGE", "message": "no NIfTI volume or image of that name"})
        predictor = self._predictor(name_to_device({**self.config(), **request}["device"]))
        try:
            (found,) = predictor.score([item_of_image(image)])
        except StudyError as error:  # an error by the policy
            raise HTTPException(422, {"problem": error.code, "message": str(error)}) from error
        if found.problem:
            status = 500 if found.problem == UNEXPECTED else 422
            raise HTTPException(status, {"problem": found.problem, "message": found.message})
        scores = enumerate(found.probabilities.items())
        prediction = [{"idx": number, "label": name, "score": score} for number, (name, score) in scores]
        said = {key: value for key, value in found.row().items() if key in ("class", "set")}
        told = {"prediction": prediction, **said, "flags": list(found.flags), "model": {"sha256": found.model}}
        return None, {**told, "label_names": self.labels}


class ClassificationApp(MONAILabelApp):
    """The app: serves all bundles of the folder `model`, each as a task named after its folder.

    Args:
        app_dir: the folder of this file.
        studies: a folder of NIfTI volumes and images, or the address of a DICOMweb server.
        conf: settings that the server was started with (`--conf`).
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        about = "Students distilled from foundation models. Not for clinical use."
        super().__init__(app_dir, studies, conf, "Reprogramming Distillation", about, __version__)

    def init_infers(self) -> dict[str, InferTask]:
        """Create one task for each bundle."""
        folders = sorted(folder for folder in (Path(self.app_dir) / "model").iterdir() if folder.is_dir())
        return {folder.name: ClassifierTask(str(folder)) for folder in folders}

    def infer(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """Score one study; a study that is not available gets HTTP status 404, 422 or 502 with our own message."""
        image = request.get("image")
        if isinstance(image, str) and not Path(image).is_file():  # a name or UID; uploads are files
            _fetch(datastore or self.datastore(), image)
        return super().infer(request, datastore)

    def _download_dcmqi_tools(self) -> None:
        """Do nothing: MONAI Label would download tools for segmentations here, which are not needed."""


def _fetch(datastore: Any, image: str) -> None:
    """Let MONAI Label fetch an image into its cache.

    Raises:
        HTTPException: the image does not exist, its archive does not deliver it, or it cannot be converted.
    """
    missing = {"problem": "NO_IMAGE", "message": "no NIfTI volume, image or DICOM series of that name or UID"}
    if not re.fullmatch(r"[^/\\]+", image) or image in (".", ".."):  # would be interpreted as a path
        raise HTTPException(404, missing)
    try:
        found = datastore.get_image_uri(image)
    except (IndexError, KeyError, ValueError) as error:  # raised by MONAI Label for an empty answer or an invalid UID
        raise HTTPException(404, missing) from error
    except OSError as error:  # includes the errors of requests
        message = "the archive did not give the series: does it run, and does it have it? Ask again later"
        raise HTTPException(502, {"problem": "NO_ANSWER", "message": message}) from error
    except Exception as error:
        message = "MONAI Label could not make a volume of this series: is it one of images?"
        raise HTTPException(422, {"problem": "NO_IMAGE", "message": message}) from error
    if not found:
        raise HTTPException(404, missing)
