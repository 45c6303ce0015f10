"""Radiographs of two views: each study a PA and a lateral image, drawn as two phantoms, in one series or in two."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

from monai_rd.phantoms import xray

ROLES = {"roles": {"pa": {"view": "PA|AP"}, "lateral": {"view": "LL|RL"}}}


def write_two_views(
    folder: Path, label: str, number: int, views: tuple[str, ...] = ("PA", "LL"), series: int = 2
) -> tuple[str, dict[str, Path]]:
    """Write a study of one patient; return its StudyInstanceUID and the file of each view.

    Args:
        folder: the folder of the files; it may hold other studies.
        label: class of the phantoms.
        number: of the study and its patient.
        views: ViewPosition of each image; its side comes first, after a blank, where there is one ("R MLO").
        series: number of series; the images are dealt to them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, uids, files = f"1.2.{number + 1}", [generate_uid() for _ in range(series)], {}
    for place, view in enumerate(views):
        path = folder / f"{number}_{place}.dcm"
        xray.write_study(path, label, seed=7, number=10 * number + place)
        image = pydicom.dcmread(path)
        image.StudyInstanceUID, image.SeriesInstanceUID = study, uids[place % series]
        image.PatientID, image.InstanceNumber = f"PHANTOM-{number}", place + 1
        image.ImageLaterality, image.ViewPosition = view.split() if " " in view else ("U", view)
        image.save_as(path)
        files[view] = path
    return study, files
