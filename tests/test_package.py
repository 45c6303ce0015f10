"""What is released: the files of the sdist and the wheel, the wheel in a folder of its own, what pip installs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from tests.bundles.commands import QUICK, ROOT

SINGLE = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
PLACES = {"monai_rd": "monai_rd", "transforms": "monai_rd/transforms", "bundles": "monai_rd/bundles"}
TEACHERS = {f"phantom_{name}.safetensors" for name in ("ct", "ct_3d", "mr", "us", "xray", "derm")}
# What runs, tests and tools leave in a checkout, and what stays in it.
LEFT = (
    "bundles/rd_ct/models/model.pt",
    "bundles/rd_ct/models/model_card.md",
    "bundles/rd_ct/eval/report.html",
    "bundles/rd_ct/eval/cache/image.npy",
    "bundles/rd_ct/configs/__pycache__/one.pyc",
    "monai_rd/__pycache__/files.cpython-311.pyc",
    "monai_rd/networks/teacher/weights/astra.pt",
    "monai_rd_state/answered.json",
    "monai_rd.key",
    "tests/test_files.py",
    "tests/conftest.py",
    "tools/sync_bundles.py",
    "benchmarks/results/covid_ct/runs/one/predictions.npz",
    "benchmark/runs/one/run.json",
    "docs/index.md",
)
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])('dist')"


class Built(NamedTuple):
    sdist: Path
    wheel: Path
    files: set[str]  # of the package, where they lie in the checkout


def listed(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def build(what: str, source: Path) -> Path:
    done = subprocess.run([sys.executable, "-c", BUILD, what], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "would be ignored" not in done.stderr
    (made,) = (source / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """As `python -m build` makes them, the wheel from the sdist, in a checkout in which people have worked."""
    source = tmp_path_factory.mktemp("checkout")
    for name in SINGLE:
        shutil.copy(ROOT / name, source)
    for place in PLACES:
        shutil.copytree(ROOT / place, source / place, ignore=shutil.ignore_patterns("__pycache__", "models", "eval"))
    files = listed(source) - set(SINGLE)
    for name in LEFT:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("left")
    sdist = build("build_sdist", source)
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (inside,) = unpacked.iterdir()
    return Built(sdist, build("build_wheel", inside), files)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(built.wheel) as archive:
        archive.extractall(place)
    return place


def elsewhere(installed: Path, folder: Path, code: str, *words: str) -> str:
    """What the wheel's package prints, in another folder than the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_sdist_has_the_package_and_what_describes_it(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    made = {"PKG-INFO", "setup.cfg"} | {name for name in names if name.startswith("monai_rd.egg-info/")}
    assert names == built.files | set(SINGLE) | made


def test_wheel_has_each_file_of_the_package_and_no_other(built: Built) -> None:
    places = [(re.compile(f"^{here}/"), f"{there}/") for here, there in PLACES.items()]
    expected = {place.sub(there, name) for name in built.files for place, there in places if place.match(name)}
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {name.rpartition("/")[2] for name in names if name.endswith(".safetensors")} == TEACHERS
    assert {name.split("/")[2] for name in names if name.startswith("monai_rd/bundles/")} == {
        f"rd_{name}" for name in ("ct", "mr", "us", "xray", "derm")
    }


def test_wheel_and_sdist_stay_small(built: Built) -> None:
    assert max(path.stat().st_size for path in (built.sdist, built.wheel)) < 10e6


def test_wheel_finds_its_own_bundles_and_teachers(installed: Path, tmp_path: Path) -> None:
    code = (
        "import monai_rd.bundle as bundle; from monai_rd.networks.teacher.zoo import loading; "
        "print(bundle.__file__, bundle.bundle_root('rd_derm'), loading._SHIPPED, sep='\\n')"
    )
    found = elsewhere(installed, tmp_path, code).splitlines()[-3:]
    assert all(Path(path).is_relative_to(installed) and Path(path).exists() for path in found), found


@pytest.mark.slow
def test_wheel_trains_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    few = "{'training': 8, 'validation': 4, 'test': 4}"
    elsewhere(installed, tmp_path, f"import monai_rd.phantoms.cohort as c; c.SPLIT = {few}; c.phantom_cohort('.')")
    code = "from monai_rd.cli.app import main; main()"
    words = ["--dataset_dir", "phantoms_ct_0", *QUICK[2:], "--max_epochs", "1"]
    elsewhere(installed, tmp_path, code, "train", "rd_ct", *words)
    assert (tmp_path / "bundles/rd_ct/models/model.pt").is_file()
    assert not (installed / "monai_rd/bundles/rd_ct/models").exists()


def test_cuda_comes_with_torch_alone() -> None:
    """So that an installation of torch for the CPU stays without CUDA, and no second CUDA comes beside torch's."""
    seen: set[str] = set()
    waiting = ["monai_rd"]
    brings: dict[str, set[str]] = {}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:  # an extra's package on another system
            continue
        for needed in map(Requirement, lines):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                brings.setdefault(needed.name.lower(), set()).add(name)
                waiting.append(needed.name.lower())
    cuda = {name for name in brings if re.match(r"nvidia-|cuda|cupy|tensorrt|pycuda|onnxruntime-gpu|triton", name)}
    from_outside = {name: brings[name] - cuda - {"torch"} for name in cuda}
    assert not any(from_outside.values()), from_outside
    assert "torch" in brings
