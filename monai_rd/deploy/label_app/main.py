"""A MONAI Label app that answers about studies with trained students: class, calibrated probabilities, flags.

It serves every bundle in its folder `model`. MONAI Label's own bundle app goes by the name of a bundle's folder, loads
what fits of a model and lets the rest be random, and turns class names to lower case; this one does none of it.

Not for clinical use.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.tasks.infer.bundle import BundleInferTask
from torch import nn

from monai_rd import __version__
from monai_rd.bundle import require_model, trained_settings
from monai_rd.data.dicom import is_dicom
from monai_rd.data.errors import StudyError, original_error
from monai_rd.files import sha256
from monai_rd.networks.weights_file import read_weights


class ClassifierTask(BundleInferTask):
    """A trained bundle as a task of MONAI Label.

    Args:
        path: the bundle's folder.
        conf: what the server was started with (`--conf`).

    Raises:
        FileNotFoundError: the bundle has no trained model.
        ValueError: the model is not the student that the bundle's settings name.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        self.model_path = Path(path) / "models" / "model.pt"
        require_model(self.model_path)
        super().__init__(path, conf, type=InferType.CLASSIFICATION, add_post_restore=False)
        settings = trained_settings(path, class_names=None)
        self.class_names: list[str] = settings["class_names"]
        self.labels = {name: number for number, name in enumerate(self.class_names)}
        self._get_network("cpu", None)  # a model that does not fit stops the server, not the first answer

    def _get_network(self, device: str, data: Mapping[str, Any] | None) -> nn.Module:
        """The student with all of its weights; read anew when the file has changed."""
        changed = self.model_path.stat().st_mtime_ns
        if device not in self._networks or self._networks[device][1] != changed:
            student = copy.deepcopy(self.network)
            try:
                student.load_state_dict(read_weights(self.model_path))
                self.sha256 = sha256(self.model_path)
            except RuntimeError as error:
                raise ValueError(f"{self.model_path} is another network than the settings beside it: {error}") from None
            self._networks[device] = student.to(device).eval(), changed
        return self._networks[device][0]

    def __call__(self, request: dict[str, Any], callbacks: Mapping[Any, Any] | None = None) -> Any:
        """Answer about one study; one that cannot be judged gets HTTP status 422 with the code of its problem."""
        image = Path(request["image"])
        if not image.is_file() or is_dicom(image):  # of an unknown name MONAI Label makes the studies' folder
            raise HTTPException(422, {"problem": "NO_IMAGE", "message": "no NIfTI volume or image of that name"})
        try:
            return super().__call__(request, callbacks)
        except Exception as error:
            reason = original_error(error)
            if not isinstance(reason, StudyError):
                raise
            raise HTTPException(422, {"problem": reason.code, "message": str(reason)}) from error

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[None, dict[str, Any]]:
        """What the client gets: no file, the probability of every class, what speaks against them, and who says so."""
        scores = enumerate(zip(self.class_names, data[self.output_label_key].tolist(), strict=True))
        prediction = [{"idx": number, "label": name, "score": score} for number, (name, score) in scores]
        flags = [code for code in data["flags"].split("|") if code]
        return None, {"prediction": prediction, "flags": flags, "model": {"sha256": self.sha256}}


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
        return {folder.name: ClassifierTask(str(folder), self.conf) for folder in folders}

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
