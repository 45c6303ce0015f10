"""Bundles as their users run them: by MONAI's own commands, in processes of their own."""

from __future__ import annotations

import csv
import shutil
import tempfile
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from tests.processes import run_module
from tests.small import SMALL

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "bundles"
MODALITIES = ("ct", "mr", "us", "xray", "derm")
# Small enough for seconds, the same road as the default run but for its unlabelled phantoms and its student.
QUICK = ["--max_epochs", "2", "--image_size", "32", "--slices", "2", "--seed", "3", "--report_page", "false"]
QUICK += ["--unlabelled", "None", "--student", SMALL]

# What no file that a bundle leaves may tell, in the header of every image that the tests train on.
PLANTED = {
    "PatientBirthDate": "19310417",
    "StudyDate": "19990823",
    "AccessionNumber": "ACC-90817",
    "InstitutionName": "Geheim Hospital",
    "ReferringPhysicianName": "Verborgen^Otto",
}


def monai(*words: str, processes: int = 1, code: int = 0, device: Path | None = None) -> str:
    """Do what `python -m monai.bundle WORDS` does, and give back what is printed.

    With the second device that is built in the folder `device`.
    """
    name = "monai.bundle"
    if device is not None:
        name, words = "tests.second_device", (str(device), name, *words)
    with tempfile.TemporaryDirectory() as folder:
        found = run_module(name, *words, cwd=ROOT, output=Path(folder) / "output.txt", processes=processes)
        printed = "".join(path.read_text() for path in sorted(Path(folder).iterdir()))
    assert found == [code] * processes, printed[-8000:]
    return printed


def torchrun(*words: str, processes: int) -> str:
    """The same by `torchrun -m monai.bundle WORDS`, whose processes import all that they need."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ("--standalone", f"--nproc_per_node={processes}", "-m", "monai.bundle")
        output = Path(folder) / "output.txt"
        found = run_module("torch.distributed.run", *launcher, *words, cwd=ROOT, output=output)
        printed = output.read_text()
    assert found == [0], printed[-8000:]
    return printed


def copied(modality: str, to: Path) -> Path:
    """A copy of a bundle without what runs left in it."""
    root = to / f"rd_{modality}"
    shutil.copytree(BUNDLES / root.name, root, ignore=shutil.ignore_patterns("models", "eval"))
    return root


def train(root: Path, cohort: str, *words: str, quick: bool = True, **how: Any) -> str:
    """Train the bundle in `root` on a cohort."""
    places = ["--bundle_root", str(root), "--output_dir", str(root / "eval"), "--dataset_dir", cohort]
    config = str(BUNDLES / root.name / "configs" / "train.json")
    return monai("run", "--config_file", config, *places, *(QUICK if quick else ()), *words, **how)


def infer(root: Path, folder: str, out: Path, *words: str, **how: Any) -> str:
    """Score a folder by what was trained in `root`."""
    places = ["--bundle_root", str(root), "--output_dir", str(out), "--dataset_dir", folder]
    return monai(
        "run", "--config_file", str(BUNDLES / root.name / "configs" / "inference.json"), *places, *words, **how
    )


def score(root: Path, folder: str, out: Path) -> list[dict[str, str]]:
    """What `infer` does, in this process; gives the rows of `scores.csv`."""
    places = {"bundle_root": str(root), "output_dir": str(out), "dataset_dir": folder}
    config(root.name.removeprefix("rd_"), "inference.json", **places).get_parsed_content("evaluator").run()
    with open(out / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def config(modality: str, name: str, **overrides: Any) -> ConfigParser:
    """A config of a bundle in this process."""
    file = BUNDLES / f"rd_{modality}" / "configs" / name
    return ConfigParser({**ConfigParser.load_config_file(str(file)), **overrides})
