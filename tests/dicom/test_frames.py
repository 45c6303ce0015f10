"""Multi-frame objects are read as series are: one volume of their frames, or several."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_rd import errors as dicom
from monai_rd.cache.fingerprints import item_key
from monai_rd.dicom import index_dicom, load_series
from monai_rd.dicom.frames import SeriesFiles
from monai_rd.errors import DicomSeriesError
from tests.dicom.refusals import refusal
from tests.dicom.test_volumes import WARN
from tests.dicom_files import (
    AXIAL,
    attributes,
    enhanced,
    enhanced_of,
    group,
    make_series,
    multi_frame,
    oblique,
    several,
)


@pytest.mark.parametrize("orientation", [AXIAL, oblique()])
def test_enhanced_ct_gives_the_same_volume(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    make_series(tmp_path / "plain", orientation=orientation)
    uid = enhanced(tmp_path / "plain", tmp_path / "enhanced.dcm")
    plain, volume = load_series(tmp_path / "plain"), load_series(tmp_path / "enhanced.dcm")
    assert (volume.series_uid, volume.modality, volume.intensity) == (uid, "CT", "HU")
    np.testing.assert_array_equal(volume.array[0], plain.array[0])
    np.testing.assert_allclose(volume.affine, plain.affine, atol=1e-6)
    found = {s.series_uid: s for s in index_dicom(tmp_path)}
    assert found[uid].problem() is None


def test_enhanced_ct_refusals(tmp_path: Path) -> None:
    make_series(tmp_path / "gap", slices=6, skip=(2,))
    uid = enhanced(tmp_path / "gap", tmp_path / "enhanced.dcm")
    refusal(tmp_path / "enhanced.dcm", dicom.MissingSlicesError, "MISSING_SLICES", uid)
    make_series(tmp_path / "plain")
    uid = enhanced(tmp_path / "plain", tmp_path / "short.dcm", PixelData=bytes(100))
    refusal(tmp_path / "short.dcm", dicom.TruncatedPixelsError, "TRUNCATED_PIXELS", uid)


def test_enhanced_ct_of_one_frame(tmp_path: Path) -> None:
    make_series(tmp_path / "plain", slices=1)
    enhanced(tmp_path / "plain", tmp_path / "enhanced.dcm")
    plain, volume = load_series(tmp_path / "plain"), load_series(tmp_path / "enhanced.dcm")
    np.testing.assert_array_equal(volume.array[0], plain.array[0])
    np.testing.assert_allclose(volume.affine, plain.affine, atol=1e-6)


def diffusion(b_value: float, *direction: float) -> Callable[[], Dataset]:
    def made() -> Dataset:
        whole = group("MRDiffusionSequence", DiffusionBValue=b_value)()
        if direction:
            item = Dataset()
            item.DiffusionGradientOrientation = list(direction)
            whole.MRDiffusionSequence[0].DiffusionGradientDirectionSequence = [item]
        return whole

    return made


MACROS: dict[str, tuple[list[Callable[[], Dataset]], list[str]]] = {
    "echoes": (
        [group("MREchoSequence", EffectiveEchoTime=te) for te in (4.6, 9.2)],
        ["echo time 4.6 ms", "echo time 9.2 ms"],
    ),
    "b-values": (
        [diffusion(0.0), diffusion(800.0, 1.0, 0.0, 0.0), diffusion(800.0, 0.0, 1.0, 0.0)],
        ["gradient 0 1 0", "gradient 1 0 0", "no gradient"],
    ),
    "phases": (
        [group("FrameContentSequence", TemporalPositionIndex=n) for n in (1, 2)],
        ["temporal position 1", "temporal position 2"],
    ),
    "dimensions": (
        [group("FrameContentSequence", DimensionIndexValues=[1, n]) for n in (1, 2)],
        ["dimension 1", "dimension 2"],
    ),
    "stacks": ([group("FrameContentSequence", StackID=n) for n in "12"], ["stack 1", "stack 2"]),
    "components": (
        [group("MRImageFrameTypeSequence", ComplexImageComponent=word) for word in ("MAGNITUDE", "PHASE")],
        ["image component MAGNITUDE", "image component PHASE"],
    ),
}


@pytest.mark.parametrize("kind", MACROS)
def test_volumes_of_a_multi_frame_object(tmp_path: Path, kind: str) -> None:
    macros, names = MACROS[kind]
    target = tmp_path / "data" / "multi.dcm"
    target.parent.mkdir()
    uid = multi_frame(tmp_path / "parts", target, [attributes()] * len(macros), macros, modality="MR", rescale=None)
    found = index_dicom(target.parent)
    assert [one.volume for one in found] == names
    assert [one.slices for one in found] == [5] * len(names)
    whole = pydicom.dcmread(target).pixel_array
    used = []
    for one in found:
        assert one.files == (target,)
        assert isinstance(one.files, SeriesFiles)
        (numbers,) = one.files.frames
        used += numbers
        made = load_series(one.files, window=False).array[0]
        by_position = {frame.tobytes() for frame in made.transpose(2, 1, 0).astype(whole.dtype)}
        assert by_position == {whole[number].tobytes() for number in numbers}
    assert sorted(used) == list(range(len(whole)))
    with pytest.raises(DicomSeriesError, match=names[0]) as caught:
        load_series(target)
    assert (caught.value.code, caught.value.series_uid) == ("DUPLICATE_SLICES", uid)
    np.testing.assert_array_equal(load_series(target, policy=WARN).array, load_series(found[0].files).array)
    # The frames belong to what is cached of an item, and go to other processes with it.
    assert len({item_key(one.files) for one in found} | {item_key([str(target)])}) == len(found) + 1
    again = pickle.loads(pickle.dumps(found[0].files))
    assert (again, again.frames) == (found[0].files, found[0].files.frames)


def test_several_multi_frame_files_of_a_series(tmp_path: Path) -> None:
    """Each holds a volume, and nothing but the file tells them apart."""
    folder = tmp_path / "data"
    folder.mkdir()
    several(tmp_path / "parts", [attributes()], modality="MR", rescale=None)
    uid = enhanced_of(tmp_path / "parts", folder / "1.dcm")
    made = pydicom.dcmread(folder / "1.dcm")
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.PixelData = bytes(len(made.PixelData))
    made.save_as(folder / "2.dcm")
    found = index_dicom(folder)
    assert [(one.series_uid, one.volume) for one in found] == [
        (uid, "multi-frame object 1 of 2"),
        (uid, "multi-frame object 2 of 2"),
    ]
    assert {load_series(one.files, window=False).array.any() for one in found} == {True, False}
