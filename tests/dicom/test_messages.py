"""What a refusal says is true of the file, and can be followed on the console as in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless, generate_uid

from monai_rd.dicom import index_dicom, load_series
from monai_rd.dicom.syntaxes import syntax_name
from monai_rd.errors import DicomSeriesError, Policy
from tests.dicom_files import CORONAL, make_series


def refused(source: Path | list[Path], policy: Policy | None = None) -> DicomSeriesError:
    with pytest.raises(DicomSeriesError) as caught:
        load_series(source, policy=policy)
    return caught.value


# ------------------------------------------------------------------------------------------------------ syntaxes


@pytest.mark.parametrize(
    ("syntax", "said"),
    [
        ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression"),
        ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
        ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL"),
        ("1.2.840.10008.1.2.4.94", "names a server that has the pixels"),
        ("1.2.840.10008.1.2.4.205", "names a server that has the pixels"),
        ("1.2.840.10008.1.2.4.102", "holds video"),
        ("1.2.840.10008.1.2.4.108", "holds video"),
        ("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed Explicit VR Little Endian"),
        ("1.2.840.10008.1.2.4.999", "a syntax of the standard under an unknown number"),
        ("1.2.826.0.1.3680043.10.7", "private syntax"),
    ],
)
def test_a_syntax_is_called_by_its_name(tmp_path: Path, syntax: str, said: str) -> None:
    known = "1.2.840.10008.1.2.5"

    def other(k: int, ds: Dataset) -> None:
        ds.PixelData = encapsulate([bytes(100)])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = known

    make_series(tmp_path, slices=1, change=other)
    file = next(tmp_path.iterdir())
    content = bytearray(file.read_bytes())
    place = content.index(known.encode() + b"\0") - 8
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    end = place + 8 + len(known) + 1
    content[place:end] = b"\x02\x00\x10\x00UI" + len(value).to_bytes(2, "little") + value
    group = content.index(b"\x02\x00\x00\x00UL") + 8
    length = int.from_bytes(content[group : group + 4], "little") + len(value) - len(known) - 1
    content[group : group + 4] = length.to_bytes(4, "little")
    file.write_bytes(content)

    problem = refused(file)
    assert problem.code == "UNSUPPORTED_SYNTAX"
    assert said in str(problem)
    assert "damaged" not in str(problem)
    assert ("private" in str(problem)) == (said == "private syntax")
    assert index_dicom(tmp_path)[0].syntaxes == (syntax_name(syntax),)


@pytest.mark.parametrize(("bits", "samples"), [(1, 1), (64, 1), (12, 1), (8, 2), (8, 4)])
def test_pixels_of_a_kind_that_is_not_read_are_not_called_damaged(tmp_path: Path, bits: int, samples: int) -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.compress(RLELossless)
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.SamplesPerPixel = bits, bits, bits - 1, samples

    make_series(tmp_path, slices=1, change=change, modality="US")
    problem = refused(next(tmp_path.iterdir()))
    assert problem.code == "UNSUPPORTED_IMAGE"
    assert f"{samples} value(s) of {bits} bit(s) in a pixel are not read in transfer syntax RLE Lossless" in str(
        problem
    )


# -------------------------------------------------------------------------------------------- uneven or incomplete


def stack(
    folder: Path, distances: Sequence[float], thickness: Sequence[float] | None = None, numbered: bool = False
) -> Path:
    """Write slices at these distances; their InstanceNumbers say how many 2.5 mm steps lie before, if asked for."""
    depth = np.concatenate([[0.0], np.cumsum(distances)])

    def change(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = [-31.5, 12.25, float(depth[k])]
        if thickness is not None:
            ds.SliceThickness = thickness[k]
        if numbered:
            ds.InstanceNumber = 1 + round(depth[k] / 2.5)

    make_series(folder, slices=len(depth), change=change)
    return folder


PLANNED: dict[str, tuple[list[float], list[float] | None]] = {
    "thin, then thick": ([2.5] * 8 + [5] * 5, None),
    "thick, then thin": ([5] * 5 + [2.5] * 8, None),
    "with a distance between at the border": ([2.5] * 9 + [3.75] + [5] * 2, None),
    "three runs": ([2.5] * 8 + [5] * 4 + [10] * 3, None),
    "of no multiple": ([3] * 8 + [8] * 3, None),
    "few thick slices": ([2.5] * 8 + [5] * 2, [2.5] * 9 + [5] * 2),
    "thin in the middle": ([5] * 3 + [2.5] * 9 + [5] * 3, None),
}


@pytest.mark.parametrize("kind", PLANNED)
def test_a_stack_of_thin_and_thick_slices_is_irregular(tmp_path: Path, kind: str) -> None:
    distances, thickness = PLANNED[kind]
    problem = refused(stack(tmp_path, distances, thickness))
    assert problem.code == "IRREGULAR_SPACING"
    assert "empty" not in str(problem)
    volume = load_series(tmp_path, policy=Policy({"IRREGULAR_SPACING": "warn"}))
    assert volume.array.shape[-1] == len(distances) + 1


INCOMPLETE: dict[str, tuple[list[float], bool, int]] = {
    "one": ([2.5] * 5 + [5] + [2.5] * 5, False, 1),
    "three in one place": ([2.5] * 5 + [10] + [2.5] * 5, False, 3),
    "in two places": ([2.5] * 3 + [5] + [2.5] * 3 + [7.5] + [2.5] * 2, False, 3),
    "two neighbours of one that is there": ([2.5] * 5 + [5, 5] + [2.5] * 5, False, 2),
    "every third": ([2.5, 5] * 4, False, 4),
    "every second, as numbers tell": ([2.5] * 6 + [5] * 4, True, 4),
}


@pytest.mark.parametrize("kind", INCOMPLETE)
def test_a_stack_that_lost_slices_is_incomplete(tmp_path: Path, kind: str) -> None:
    distances, numbered, lost = INCOMPLETE[kind]
    problem = refused(stack(tmp_path, distances, numbered=numbered))
    assert problem.code == "MISSING_SLICES"
    assert f"about {lost} slice position(s) empty" in str(problem)


# ------------------------------------------------------------------------------------------------------- remedies


def wanting(*changes: Callable[[int, Dataset], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        series = str(generate_uid())

        def change(k: int, ds: Dataset) -> None:
            ds.SeriesInstanceUID = series
            for one in changes:
                one(k, ds)

        make_series(folder, change=change)

    return make


def two_series(folder: Path) -> None:
    make_series(folder)
    for file in folder.iterdir():
        ds = pydicom.dcmread(file)
        ds.SeriesInstanceUID = "1.2.3"
        ds.save_as(file.with_name(f"other_{file.name}"))


def last(**values: object) -> Callable[[int, Dataset], None]:
    def change(k: int, ds: Dataset) -> None:
        for keyword, value in values.items() if k == 5 else ():
            setattr(ds, keyword, value)

    return change


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "MIXED_SERIES": (two_series, "monai-rd index lists them"),
    "MIXED_SERIES of frames": (wanting(last(FrameOfReferenceUID="1.2")), "as a series of their own"),
    "MIXED_SHAPE": (wanting(last(PixelSpacing=[2, 2])), "MIXED_SHAPE=warn reads the largest group"),
    "MIXED_ORIENTATION": (wanting(last(ImageOrientationPatient=list(CORONAL))), "MIXED_ORIENTATION=warn reads"),
    "DUPLICATE_SLICES": (wanting(last(ImagePositionPatient=[-31.5, 12.25, 40])), "as a series of its own"),
    "UNSUPPORTED_IMAGE": (
        wanting(lambda k, ds: delattr(ds, "ImagePositionPatient"), lambda k, ds: setattr(ds, "Modality", "DX")),
        "Read each by itself",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_remedy_can_be_followed_on_the_console(tmp_path: Path, kind: str) -> None:
    make, said = REFUSED[kind]
    make(tmp_path)
    problem = refused(tmp_path)
    assert problem.code == kind.split(" ")[0]
    assert said in str(problem)
    assert "load_series" not in str(problem)
