"""Several volumes of one series, and what is no image, from `monai-rd predict` to the reports."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread
from typer.testing import CliRunner

from monai_rd.cli.app import app
from tests.dicom.test_classes import ROOT, write
from tests.dicom_files import attributes, group, image_library, multi_frame, several

SHAPE = (40, 44)


def test_each_volume_has_a_row_and_a_report(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    kernels = [attributes(ConvolutionKernel=word) for word in ("B30f", "B70f")]
    plain, _ = several(data / "plain", kernels, shape=SHAPE)
    third = next(file for file in (data / "plain" / "1").iterdir() if dcmread(file).InstanceNumber == 3)
    third.unlink()  # a gap in one of them
    macros = [group("CTReconstructionSequence", ConvolutionKernel=word) for word in ("B30f", "B70f")]
    whole = multi_frame(tmp_path / "parts", data / "multi.dcm", [attributes()] * 2, macros, shape=SHAPE)
    dose, _ = write(data / "dose.dcm", f"{ROOT}481.2", "RTDOSE")

    words = ["predict", "rd_ct", "--from", data, "--to", tmp_path / "out", "--sc"]
    done = CliRunner().invoke(app, [*map(str, words), "--", "--bundle_root", str(bundle_of()), "--device", "cpu"])
    assert done.exit_code == 3, done.output
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert {name: (row["series"], row["problem"]) for name, row in rows.items()} == {
        f"{plain}_kernel_B30f": (plain, ""),
        f"{plain}_kernel_B70f": (plain, "MISSING_SLICES"),
        f"{whole}_kernel_B30f": (whole, ""),
        f"{whole}_kernel_B70f": (whole, ""),
        dose: (dose, "NOT_AN_IMAGE"),
    }
    scored = [row for row in rows.values() if not row["problem"]]
    # Both files hold the same slices.
    said = {name.removeprefix(f"{whole}_"): row["probability"] for name, row in rows.items() if whole in name}
    assert said["kernel_B30f"] == rows[f"{plain}_kernel_B30f"]["probability"] != said["kernel_B70f"]
    reports = {row["id"]: dcmread(tmp_path / "out" / "dicom" / f"{row['id']}_sr.dcm") for row in scored}
    pictures = [dcmread(tmp_path / "out" / "dicom" / f"{row['id']}_sc.dcm") for row in scored]
    assert len({one.SOPInstanceUID for one in (*reports.values(), *pictures)}) == 6
    assert len({one.pixel_array.tobytes() for one in pictures}) == 3  # each names its own image or frame

    frames = []
    for word in ("B30f", "B70f"):
        (image,) = image_library(reports[f"{whole}_kernel_{word}"])
        frames += image.ReferencedFrameNumber
    assert sorted(frames) == list(range(1, 11))
