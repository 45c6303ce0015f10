"""DICOM series per second: load_series against MONAI's PydicomReader and ITKReader, SimpleITK and dcm2niix.

    python benchmarks/dicom.py                       # needs itk-io, which the extra "test" brings
    python benchmarks/dicom.py --rounds 15 --files 100000

The same series, written anew with random content, is read by all readers in turn, so that the machine's moods meet all
of them alike; the ratio of each round is taken, and the median printed. A reader counts only where its values and its
order of slices are right. dcm2niix (a Debian package) has a column where it is installed: it is a program, so its time
is that of the whole process and of the uncompressed NIfTI file it writes, in memory where the system has /dev/shm. Then
headers per second of `index_dicom`, and how much memory it takes.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from monai.transforms import LoadImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, RLELossless, generate_uid
from rich.console import Console
from rich.table import Table

from monai_rd.dicom import load_series

ENCODERS: dict[str, Callable[[np.ndarray], bytes | bytearray] | None] = {
    "1.2.840.10008.1.2.1": None,
    str(RLELossless): None,
    "1.2.840.10008.1.2.4.70": lambda image: imagecodecs.jpeg8_encode(image, lossless=True, predictor=1),
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
    "1.2.840.10008.1.2.4.90": lambda image: imagecodecs.jpeg2k_encode(image, level=0, codecformat="j2k"),
}


def write_series(folder: Path, syntax: str, slices: int, size: int, modality: str = "CT") -> np.ndarray:
    """Write an axial CT or MR series, its InstanceNumbers in geometric order as MONAI's reader needs.

    An MR has as many elements as a scanner writes, and 80 kB of private ones; no window, so that its values are stored.

    Returns:
        Its values `[slices, rows, columns]`, HU for CT.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    y, x = np.mgrid[:size, :size]
    volume = []
    for k in range(slices):
        image = 1000 + 600 * np.sin(x / 40 + k / 9) * np.cos(y / 31) + random.normal(0, 20, (size, size))
        stored = image.clip(0, 4095).astype("<u2")
        volume.append(stored.astype(np.float32) - (1024 if modality == "CT" else 0))
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.Modality, ds.Manufacturer = "BENCHMARK", "BENCHMARK", modality, "none"
        ds.PatientBirthDate = ds.PatientSex = ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ""
        ds.ReferringPhysicianName = ds.PositionReferenceIndicator = ""
        ds.ImageType, ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = ["ORIGINAL", "PRIMARY"], 1, k + 1, 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-180, -180, 1.5 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.KVP = [0.7, 0.7], 1.5, 120
        ds.Rows = ds.Columns = size
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        if modality == "CT":
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        else:
            block = ds.private_block(0x0051, "BENCHMARK", create=True)
            for number in range(90):
                block.add_new(number, "LO", f"value {number}")
            block.add_new(0xF0, "OB", bytes(80_000))
        ds.PixelData = stored.tobytes()
        encode = ENCODERS[syntax]
        if encode is not None:
            ds.file_meta.TransferSyntaxUID = UID(syntax)
            ds.PixelData = encapsulate([bytes(encode(stored))])
            ds["PixelData"].is_undefined_length = True
        elif syntax != ExplicitVRLittleEndian:
            ds.compress(UID(syntax))
        ds.save_as(folder / f"IM{k:04d}.dcm", enforce_file_format=True)
    return np.stack(volume)


def write_enhanced(folder: Path, slices: int, size: int) -> np.ndarray:
    """Write the same series as one enhanced multi-frame CT; returns its HU."""
    plain = folder.with_name("plain_of_enhanced")
    truth = write_series(plain, str(ExplicitVRLittleEndian), slices, size)
    folder.mkdir()
    files = [pydicom.dcmread(path) for path in sorted(plain.iterdir())]
    made = LegacyConvertedEnhancedCTImage(files, generate_uid(), 2, generate_uid(), 1)
    made.save_as(folder / "enhanced.dcm")
    shutil.rmtree(plain)
    return truth


def with_sitk(folder: str) -> np.ndarray:
    """Read a folder as SimpleITK's documentation does."""
    files = os.listdir(folder)
    if len(files) == 1:
        return sitk.GetArrayFromImage(sitk.ReadImage(os.path.join(folder, files[0])))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
    return sitk.GetArrayFromImage(reader.Execute())


class Converted:
    """What dcm2niix made of a folder, read back only when somebody looks at it."""

    def __init__(self, folder: str) -> None:
        memory = Path("/dev/shm")
        self.place = tempfile.mkdtemp(dir=memory if memory.is_dir() else None)
        command = ["dcm2niix", "-z", "n", "-b", "n", "-o", self.place, "-f", "made", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        (file,) = Path(self.place).iterdir()
        values = nibabel.load(file).get_fdata(dtype=np.float32)
        shutil.rmtree(self.place)
        return values.transpose(2, 1, 0)[:, ::-1]  # its rows ascend


def readers() -> dict[str, Callable[[str], np.typing.ArrayLike]]:
    """All readers, each from a folder to [slices, rows, columns]."""

    def monai(name: str) -> Callable[[str], np.ndarray]:
        load = LoadImage(reader=name)

        def read(folder: str) -> np.ndarray:
            files = sorted(str(path) for path in Path(folder).iterdir())
            return load(folder if len(files) > 1 else files[0]).numpy().transpose(2, 1, 0)

        return read

    dcm2niix = {"dcm2niix": Converted} if shutil.which("dcm2niix") else {}
    return {
        "monai_rd": lambda folder: load_series(folder).array[0].transpose(2, 1, 0),
        "MONAI PydicomReader": monai("PydicomReader"),
        "MONAI ITKReader": monai("ITKReader"),
        "SimpleITK": with_sitk,
        **dcm2niix,
    }


def compare(folder: Path, truth: np.ndarray, rounds: int) -> tuple[dict[str, str], float | None]:
    """Time all readers on one series, in turn; returns a cell for each, and ours against the fastest right one."""
    times: dict[str, list[float]] = {}
    right: dict[str, bool] = {}
    for number in range(rounds + 1):
        for name, read in _READERS.items():
            try:
                began = time.perf_counter()
                made = read(str(folder))
                took = time.perf_counter() - began
                found = np.asarray(made)
                right[name] = found.shape == truth.shape and bool(
                    # From top to bottom is right too where the affine says so, as ITK's does for multi-frame files.
                    min(np.abs(found - truth).max(), np.abs(found[::-1] - truth).max()) < 0.01
                )
            except Exception:  # each refuses in its own way
                right[name], took = False, float("nan")
            if number:  # the first round warms up
                times.setdefault(name, []).append(took)
    cells = {
        name: f"{1 / np.median(taken):.1f}" + ("" if right[name] else " (wrong)")
        if np.isfinite(taken).all()
        else "fails"
        for name, taken in times.items()
    }
    others = {name: taken for name, taken in times.items() if right[name] and name != "monai_rd"}
    if not others or not right["monai_rd"]:
        return cells, None
    fastest = min(others.values(), key=np.median)
    return cells, float(np.median(np.array(fastest) / np.array(times["monai_rd"])))


_READERS: dict[str, Callable[[str], np.typing.ArrayLike]] = {}


def headers_per_second(place: Path, files: int) -> None:
    """Index a tree of many small files, by one process and by all."""
    write_series(place / "one", str(ExplicitVRLittleEndian), 100, 16)
    originals = [path.read_bytes() for path in sorted((place / "one").iterdir())]
    old = str(pydicom.dcmread(place / "one" / "IM0000.dcm").SeriesInstanceUID)
    for number in range(files // len(originals)):
        folder = place / "many" / f"{number // 100}" / f"{number}"
        folder.mkdir(parents=True)
        uid = f"1.2.{number + 1}." + "3" * 64
        for name, content in enumerate(originals):
            (folder / f"{name}.dcm").write_bytes(content.replace(old.encode(), uid[: len(old)].encode(), 1))
    for workers in sorted({1, os.cpu_count() or 1}):
        # A process of its own, whose memory is that of the index alone.
        subprocess.run([sys.executable, "-c", INDEX, str(place / "many"), str(workers)], check=True)


INDEX = """
import logging, re, sys, time
from pathlib import Path
from monai_rd.dicom import index_dicom

if __name__ == "__main__":
    logging.disable(logging.WARNING)
    workers = int(sys.argv[2])
    began = time.perf_counter()
    series = index_dicom(sys.argv[1], workers=workers)
    took = time.perf_counter() - began
    files = sum(len(one.files) for one in series)
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\\s+(\\d+)", status.read_text()) if status.is_file() else None
    memory = f", peak memory {int(peak[1]) / 2**20:.2f} GiB" if peak else ""
    print(f"index_dicom, {workers} process(es): {files} files, {len(series)} series, {took:.1f} s, "
          f"{files / took:.0f} files per second{memory}")
"""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--files", type=int, default=10_000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    _READERS.update(readers())
    table = Table(
        title=f"series of {options.slices} slices of {options.size} x {options.size}, per second, {os.cpu_count()}"
        f" cores, {platform.machine()}, n = {options.rounds} rounds"
    )
    for name in ("series", *_READERS, "ours against the fastest right one"):
        table.add_column(name)
    place = Path(tempfile.mkdtemp())
    try:
        for number, syntax in enumerate([*ENCODERS, "enhanced", "MR"]):
            folder = place / str(number)
            if syntax == "enhanced":
                name, truth = "enhanced multi-frame", write_enhanced(folder, options.slices, options.size)
            elif syntax == "MR":
                name = "MR, 384 slices of 320 x 320"
                truth = write_series(folder, str(ExplicitVRLittleEndian), 384, 320, "MR")
            else:
                name, truth = UID(syntax).name.split(",")[0], write_series(folder, syntax, options.slices, options.size)
            cells, ratio = compare(folder, truth, options.rounds)
            table.add_row(name, *(cells[reader] for reader in _READERS), "-" if ratio is None else f"{ratio:.2f}x")
            shutil.rmtree(folder)
        Console(width=150).print(table)
        headers_per_second(place, options.files)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
