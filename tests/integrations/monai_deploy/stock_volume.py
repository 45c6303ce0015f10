"""Run by a Python that has MONAI Deploy's SDK: probabilities of a CT series by the SDK's own DICOM operators."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.deploy.core import Fragment
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator

from monai_rd.inference import Predictor, TorchScriptFile


def main(model: str, folder: str, to: str) -> None:
    fragment = Fragment()
    studies = DICOMDataLoaderOperator(fragment).load_data_to_studies(Path(folder))
    rules = {"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}
    selected = DICOMSeriesSelectorOperator(fragment).filter(rules, studies)
    image = DICOMSeriesToVolumeOperator(fragment).convert_to_image(selected)
    values = torch.as_tensor(np.ascontiguousarray(image.asnumpy().swapaxes(0, 2)[None], dtype=np.float32))
    data = {"image": MetaTensor(values, affine=torch.as_tensor(image.metadata()["affine"]), meta={"intensity": "HU"})}
    classifier = Predictor(TorchScriptFile(Path(model))).classifier
    for transform in classifier.prepare.preprocessing.transforms:
        if "Load" not in type(transform).__name__:
            data = transform(data)
    Path(to).write_text(json.dumps(classifier.infer([data])[0].study.tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
