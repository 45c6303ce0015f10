"""What programs that people have make of our DICOM objects: DCMTK, dicom3tools, GDCM, dcmjs.

Each test is skipped where its program is not installed; dcmjs is found by Node.js in the folders of NODE_PATH.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monai_rd.inference import Prediction, Predictor
from monai_rd.integrations.dicom_output import secondary_capture, structured_report, text_report
from tests.dicom_files import make_series

PACKAGES = {"dciodvfy": "dicom3tools", "dsrdump": "dcmtk", "dsr2html": "dcmtk", "gdcmdump": "libgdcm-tools"}
SAID = {"clear": 0.1547157, "opacity": 0.8452843}
READ_BY_DCMJS = """
const dcmjs = require("dcmjs"), fs = require("fs");
dcmjs.log.setLevel("silent");
const found = [];
for (const file of process.argv.slice(1)) {
  const read = dcmjs.data.DicomMessage.readFile(new Uint8Array(fs.readFileSync(file)).buffer);
  const { Modality, ContentSequence } = dcmjs.data.DicomMetaDictionary.naturalizeDataset(read.dict);
  found.push({ Modality, ContentSequence });
}
console.log(JSON.stringify(found));
"""


def run(program: str, *arguments: object) -> str:
    """Run a program and return what it printed; skips the test where it is not installed."""
    if not shutil.which(program):
        pytest.skip(f"needs {program} (Debian package {PACKAGES[program]})")
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def objects(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of every kind of object, with all that a report can hold."""
    folder = tmp_path_factory.mktemp("objects")
    make_series(folder / "in", shape=(40, 44))
    (scored,) = predictor(folder / "in")
    one = replace(scored, classes=("opacity",), probabilities=SAID, flags=("WRONG_BODY_PART",))
    one = replace(one, sets=(("clear", "opacity"),))
    several: Prediction = replace(one, multi_label=True, sets=(("absent",), ("absent", "present")))
    asked = "opacity from a probability of 0.61 on (sensitivity 0.95 on the validation set)"
    algorithm = replace(predictor.algorithm, thresholds=(asked,))
    made = {
        "one": structured_report(one, algorithm),
        "several": structured_report(several, algorithm),
        "text": text_report(one, algorithm),
        "picture": secondary_capture(one, algorithm, np.zeros((16, 16, 3), np.uint8)),
    }
    for name, each in made.items():
        each.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    return {name: folder / f"{name}.dcm" for name in made}


def test_dciodvfy_finds_no_error(objects: dict[str, Path]) -> None:
    for name, file in objects.items():
        said = run("dciodvfy", file)
        assert not [line for line in said.splitlines() if line.startswith("Error")], f"{name}: {said}"


def test_gdcm_reads_them(objects: dict[str, Path]) -> None:
    for file in objects.values():
        assert "Research use only" in run("gdcmdump", file)


@pytest.mark.parametrize("name", ["one", "several", "text"])
def test_dcmtk_dumps_reports(objects: dict[str, Path], name: str) -> None:
    said = run("dsrdump", objects[name])
    assert not re.search(r"^[EF]: ", said, re.MULTILINE), said
    assert 'CODE:(,,"Observer Type")=(121007,DCM,"Device")' in said


def test_dcmtk_shows_every_number_with_its_name(objects: dict[str, Path], tmp_path: Path) -> None:
    run("dsr2html", objects["one"], tmp_path / "one.html")
    page = (tmp_path / "one.html").read_text(encoding="utf-8")
    shown = html.unescape(re.sub(r"\s*<[^>]+>\s*", "\n", page))
    shown = re.sub(r"\n+", "\n", shown)
    for line in (
        "Finding:\nopacity",
        "Probability of clear:\n15.47157 %",
        "Probability of opacity:\n84.52843 %",
        "In the 90 % conformal set:\nclear",
        "Unlike the training data:\nWRONG_BODY_PART",
    ):
        assert f"\n{line}" in shown, shown
    assert shown.count("CT image") == 6


def test_dcmtk_shows_text(objects: dict[str, Path], tmp_path: Path) -> None:
    run("dsr2html", objects["text"], tmp_path / "text.html")
    page = html.unescape((tmp_path / "text.html").read_text(encoding="utf-8"))
    for sentence in (
        "Answer: opacity",
        "Probability of clear: 15.5 %",
        "Cannot be ruled out (90 % conformal set): any class",
        "Unlike the training data: WRONG_BODY_PART",
        "Operating point: opacity from a probability of 0.61 on (sensitivity 0.95 on the validation set)",
        "Research use only, not for clinical use. Made by a program, seen by nobody.",
    ):
        assert sentence in page


def test_dcmjs_reads_them(objects: dict[str, Path]) -> None:
    if not shutil.which("node"):
        pytest.skip("needs Node.js and its package dcmjs")
    if subprocess.run(["node", "-e", 'require("dcmjs")'], capture_output=True, check=False).returncode:
        pytest.skip("needs dcmjs (npm install dcmjs) in a folder that NODE_PATH names")
    command = ["node", "-e", READ_BY_DCMJS, *map(str, objects.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert [one["Modality"] for one in read] == ["SR", "SR", "SR", "OT"]
    names = [one["ConceptNameCodeSequence"][0]["CodeMeaning"] for one in read[0]["ContentSequence"]]
    assert names[-3:] == ["Image Library", "Imaging Measurements", "Comment"]
