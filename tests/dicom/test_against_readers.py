"""What is read is what other readers read: dcm2niix, SimpleITK (GDCM) and DCMTK as truth, on files of the tests' own.

Volumes are compared voxel by voxel in the patient's space, so that order, values and affine are one question: a reader
may turn the axes of its array as it likes.
"""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from monai_rd.dicom import index_dicom, load_series
from monai_rd.dicom.frames import SeriesFiles
from monai_rd.errors import Policy
from tests.dicom.test_classes import nuclear
from tests.dicom.test_mosaic import mosaic
from tests.dicom_files import AXIAL, CORONAL, SAGITTAL, Change, attributes, enhanced, make_series, oblique, several

Volume = tuple[np.ndarray, np.ndarray]  # voxels [X, Y, Z], affine to mm in RAS+
Reader = Callable[[Path], list[Volume]]
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


# --------------------------------------------------------------------------------------------------- the readers


def with_dcm2niix(folder: Path) -> list[Volume]:
    """Every volume that dcm2niix makes of a folder; time series come apart."""
    out = folder.parent / f"{folder.name}_nifti"
    out.mkdir()
    command = ["dcm2niix", "-z", "n", "-b", "n", "-m", "n", "-f", "%s_%r", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    found: list[Volume] = []
    for file in sorted(out.iterdir()):
        image = nibabel.load(file)
        voxels = image.get_fdata(dtype=np.float32)
        found += [(one, image.affine) for one in ([voxels] if voxels.ndim == 3 else np.moveaxis(voxels, -1, 0))]
    return found


def with_sitk(folder: Path) -> list[Volume]:
    """The volume that SimpleITK makes of a folder of one series."""
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(files if len(files) > 1 else files[0])
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return [(sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32), _RAS @ affine)]


def assert_same(ours: Volume, theirs: Volume, tolerance: float = 1e-3) -> None:
    """Each voxel of one lies on a voxel of the other, within a hundredth of it, and has its value."""
    assert sorted(ours[0].shape) == sorted(theirs[0].shape)
    voxels = np.stack([*np.indices(ours[0].shape).reshape(3, -1), np.ones(ours[0].size)])
    places = (np.linalg.inv(theirs[1]) @ ours[1] @ voxels)[:3]
    nearest = np.rint(places).astype(int)
    assert np.abs(places - nearest).max() < 0.01
    assert (nearest >= 0).all()
    assert (nearest < np.array(theirs[0].shape)[:, None]).all()
    np.testing.assert_allclose(ours[0].reshape(-1), theirs[0][tuple(nearest)], atol=tolerance)


def read(source: Path | SeriesFiles, warn: str | None = None) -> Volume:
    """One series, or one volume of it, as this project reads it."""
    volume = load_series(source, window=False, policy=Policy({warn: "warn"} if warn else None))
    return volume.array[0], volume.affine


READERS: dict[str, Reader] = {"dcm2niix": with_dcm2niix, "SimpleITK": with_sitk}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Reader:
    if request.param == "dcm2niix" and shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    return READERS[request.param]


def tool(name: str) -> str:
    """A program of DCMTK's; the test is skipped where it is not installed."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} of DCMTK is not installed")
    return name


# ------------------------------------------------------------------------------------------------------- volumes


def _plain(orientation: tuple[float, ...], modality: str = "CT", **more: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        make_series(folder, orientation=orientation, modality=modality, change=_instances, **more)

    return write


def _instances(k: int, ds: Dataset) -> None:
    ds.InstanceNumber, ds.ProtocolName, ds.Manufacturer = k + 1, "protocol", "Philips"
    ds.WindowCenter = ds.WindowWidth = None


def _syntax(syntax: UID) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        make_series(folder, change=_instances)
        for file in folder.iterdir():
            ds = pydicom.dcmread(file)
            if syntax == ExplicitVRBigEndian:
                ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
            ds.file_meta.TransferSyntaxUID = syntax
            implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
            pydicom.dcmwrite(file, ds, implicit_vr=implicit, little_endian=little, enforce_file_format=True)

    return write


def _compressed(syntax: str, encode: Callable[[np.ndarray], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        def change(k: int, ds: Dataset) -> None:
            _instances(k, ds)
            pixels = np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns)
            ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 0, 12, 11
            ds.PixelData = encapsulate([bytes(encode(pixels.astype(np.uint16)))])
            ds["PixelData"].is_undefined_length = True
            ds.file_meta.TransferSyntaxUID = UID(syntax)

        make_series(folder, change=change)

    return write


def _enhanced(modality: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        make_series(folder.parent / "plain", modality=modality, change=_instances)
        folder.mkdir()
        enhanced(folder.parent / "plain", folder / "enhanced.dcm")

    return write


def _named(uid: str) -> Callable[[Path], None]:
    def change(k: int, ds: Dataset) -> None:
        _instances(k, ds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds.SeriesInstanceUID = uid

    return lambda folder: make_series(folder, change=change) and None


def _tomography(folder: Path, spacing: float) -> None:
    folder.mkdir()
    nuclear(folder / "nm.dcm", "RECON TOMO", 5, spacing, SliceVector=[1, 2, 3, 4, 5])


def _mosaic(folder: Path, orientation: tuple[float, ...], upwards: bool) -> None:
    folder.mkdir()
    mosaic(folder, orientation=orientation, upwards=upwards)


VOLUMES: dict[str, Callable[[Path], None]] = {
    "axial": _plain(AXIAL),
    "coronal": _plain(CORONAL),
    "sagittal": _plain(SAGITTAL),
    "oblique": _plain(oblique()),
    "slices downwards": _plain(AXIAL, distance=-2.5),
    "MR": _plain(oblique(), "MR", rescale=(0.5, 10.0)),
    "MR without a rescale": _plain(SAGITTAL, "MR", rescale=None),
    "implicit VR": _syntax(ImplicitVRLittleEndian),
    "big endian": _syntax(ExplicitVRBigEndian),
    "JPEG lossless": _compressed(
        "1.2.840.10008.1.2.4.70", lambda image: imagecodecs.jpeg8_encode(image, lossless=True, predictor=1)
    ),
    "enhanced CT": _enhanced("CT"),
    "enhanced MR": _enhanced("MR"),
    "SeriesInstanceUID that is none": _named("ID_eba422961c"),
    "SeriesInstanceUID with zeros before its numbers": _named("1.2.03.004"),
    "tomography of nuclear medicine": lambda folder: _tomography(folder, 4.0),
    "Siemens mosaic": lambda folder: _mosaic(folder, oblique(), True),
    "Siemens mosaic downwards": lambda folder: _mosaic(folder, SAGITTAL, False),
}
# What each reader does not do: GDCM takes a mosaic apart only where it is asked to.
NOT_BY = {"SimpleITK": ("Siemens mosaic", "Siemens mosaic downwards")}


@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume(tmp_path: Path, name: str, reader: Reader) -> None:
    if any(reader is READERS[one] and name in names for one, names in NOT_BY.items()):
        pytest.skip("this reader makes no volume of it")
    VOLUMES[name](tmp_path / "series")
    (theirs,) = reader(tmp_path / "series")
    assert_same(read(tmp_path / "series"), theirs)


def test_a_tilted_gantry(tmp_path: Path) -> None:
    """SimpleITK rights such a stack, dcm2niix keeps its shear in no affine: places are compared slice by slice."""
    tilt = np.radians(12)

    def change(k: int, ds: Dataset) -> None:
        _instances(k, ds)
        ds.ImagePositionPatient = [0, k * 3 * np.tan(tilt), 3.0 * k]

    make_series(tmp_path / "series", change=change)
    voxels, affine = read(tmp_path / "series", warn="TILTED_STACK")
    for k in range(voxels.shape[2]):
        file = next(f for f in (tmp_path / "series").iterdir() if pydicom.dcmread(f).InstanceNumber == k + 1)
        (tmp_path / str(k)).mkdir()
        shutil.copy(file, tmp_path / str(k))
        ((theirs, place),) = with_sitk(tmp_path / str(k))
        np.testing.assert_array_equal(voxels[:, :, k], theirs[:, :, 0])
        np.testing.assert_allclose((affine @ [0, 0, k, 1]), place @ [0, 0, 0, 1], atol=1e-4)


SEVERAL: dict[str, list[Change]] = {
    "echoes": [attributes(EchoTime=t, EchoNumbers=n) for n, t in enumerate((3.5, 7), start=1)],
    "three times": [attributes(TemporalPositionIdentifier=n) for n in (1, 2, 3)],
    "heart phases": [attributes(TriggerTime=t) for t in (0, 350)],
    "magnitude and phase": [attributes(ImageType=["ORIGINAL", "PRIMARY", word, "ND"]) for word in "MP"],
}


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("name", SEVERAL)
def test_several_volumes_of_one_series(tmp_path: Path, name: str) -> None:
    changes = SEVERAL[name]

    def numbered(number: int, change: Change) -> Change:
        def whole(k: int, ds: Dataset) -> None:
            _instances(k, ds)
            change(k, ds)
            ds.InstanceNumber = 1 + len(changes) * k + number  # as dcm2niix wants them

        return whole

    several(tmp_path / "series", [numbered(n, one) for n, one in enumerate(changes)], modality="MR", rescale=None)
    ours = [read(one.files) for one in index_dicom(tmp_path / "series")]
    theirs = with_dcm2niix(tmp_path / "series")
    assert len(ours) == len(theirs) == len(changes)
    for volume in ours:  # each is one of theirs, whose order is their own
        (same,) = [one for one in theirs if np.array_equal(np.sort(one[0], None), np.sort(volume[0], None))]
        assert_same(volume, same)


# ------------------------------------------------------------------------------------------------------ pictures


def _picture(file: Path, pixels: np.ndarray, **more: object) -> None:
    """Write a secondary capture of 8 bits, `[rows, columns]` or `[rows, columns, 3]`."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (generate_uid() for _ in range(3))
    ds.Modality, ds.PatientID, ds.PatientName, ds.SeriesNumber, ds.InstanceNumber = "OT", "P", "P", 1, 1
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, pixels.tobytes() + bytes(pixels.size % 2)
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    ds.save_as(file, enforce_file_format=True)


def _of_dcmtk(file: Path) -> np.ndarray:
    """A picture as DCMTK shows it, `[C, X, Y]`."""
    shown = file.with_suffix(".png")
    window = ["+Wi", "1"] if "WindowCenter" in pydicom.dcmread(file) else []
    subprocess.run([tool("dcmj2pnm"), *window, "+on", str(file), str(shown)], check=True, capture_output=True)
    array = np.asarray(Image.open(shown))
    return array.T[None] if array.ndim == 2 else array.transpose(2, 1, 0)


def _ours(file: Path) -> np.ndarray:
    return load_series(file).array[..., 0]


GREY = np.random.default_rng(0).integers(0, 256, (9, 13), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (8, 12, 3), dtype=np.uint8)
WORDS = np.arange(256, dtype="<u2") * 257
PICTURES: dict[str, tuple[np.ndarray, dict[str, object]]] = {
    "grey": (GREY, {}),
    "white is low": (GREY, {"PhotometricInterpretation": "MONOCHROME1"}),
    "window": (GREY, {"WindowCenter": 100, "WindowWidth": 50}),
    "colours": (COLOURS, {}),
    "colours by plane": (
        COLOURS,
        {"PlanarConfiguration": 1, "PixelData": np.moveaxis(COLOURS, -1, 0).tobytes()},
    ),
    "palette": (
        GREY,
        {
            "PhotometricInterpretation": "PALETTE COLOR",
            **{f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in ("Red", "Green", "Blue")},
            "RedPaletteColorLookupTableData": WORDS.tobytes(),
            "GreenPaletteColorLookupTableData": WORDS[::-1].tobytes(),
            "BluePaletteColorLookupTableData": np.roll(WORDS, 77).tobytes(),
        },
    ),
}


@pytest.mark.parametrize("syntax", ["", "+te", "+ti", "+tb", "+td"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_in_every_uncompressed_syntax(tmp_path: Path, name: str, syntax: str) -> None:
    pixels, more = PICTURES[name]
    file = tmp_path / "picture.dcm"
    _picture(file, pixels, **more)
    if syntax:
        subprocess.run([tool("dcmconv"), syntax, str(file), str(file)], check=True, capture_output=True)
    np.testing.assert_allclose(_ours(file), _of_dcmtk(file), atol=1)


@pytest.mark.parametrize("way", ["+eb", "+e1", "+el", "+cy"])
@pytest.mark.parametrize("end", [True, False])
def test_jpeg_with_and_without_its_end(tmp_path: Path, way: str, end: bool) -> None:
    smooth = np.add.outer(np.arange(16) * 5, np.arange(24) * 4).astype(np.uint8)
    pixels = np.stack([smooth, smooth[::-1], smooth[:, ::-1]], axis=-1) if way == "+cy" else smooth
    file = tmp_path / "picture.dcm"
    _picture(file, pixels)
    subprocess.run([tool("dcmcjpeg"), *(("+eb", way) if way == "+cy" else (way,)), str(file), str(file)], check=True)
    truth = _of_dcmtk(file)
    if not end:
        ds = pydicom.dcmread(file)
        (frame,) = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
        assert frame.rstrip(b"\0").endswith(b"\xff\xd9")
        ds.PixelData = encapsulate([frame.rstrip(b"\0")[:-2]])
        ds["PixelData"].is_undefined_length = True
        ds.save_as(file)
    np.testing.assert_allclose(_ours(file), truth, atol=3)
