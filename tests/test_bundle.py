"""What bundle configs ask for, and how files are written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_rd.bundle import bundle_root, default_workers, require_model, switch, trained_settings
from monai_rd.files import atomic_path, atomic_write, link_or_copy

BUNDLE = Path(__file__).parents[1] / "bundles" / "rd_ct"


@pytest.mark.parametrize("place", [BUNDLE.parents[1], BUNDLE, BUNDLE / "configs", Path("/")], ids=str)
def test_bundle_is_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert Path(bundle_root("rd_ct")) == BUNDLE


def test_the_copy_one_stands_in_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "rd_ct"
    (copy / "configs").mkdir(parents=True)
    (copy / "configs" / "metadata.json").write_text("{}")
    monkeypatch.chdir(copy / "configs")
    assert Path(bundle_root("rd_ct")) == copy.resolve()


def test_unknown_bundle_names_every_place() -> None:
    with pytest.raises(FileNotFoundError, match=r"no bundle 'rd_xx'.*--bundle_root DIR"):
        bundle_root("rd_xx")


def test_settings_of_the_training_or_the_defaults(tmp_path: Path) -> None:
    assert trained_settings(str(tmp_path), student="resnet18") == {"student": "resnet18"}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "settings.json").write_text(json.dumps({"student": "mobilenet_v2", "slices": 3}))
    assert trained_settings(str(tmp_path), student="resnet18") == {"student": "mobilenet_v2"}
    older = trained_settings(str(tmp_path), student="resnet18", decision=None)
    assert older == {"student": "mobilenet_v2", "decision": None}
    with pytest.raises(ValueError, match="lacks image_size: train again"):
        trained_settings(str(tmp_path), student="resnet18", image_size=64)


def test_a_missing_model_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run the bundle's train\.json first"):
        require_model(tmp_path / "model.pt")
    (tmp_path / "model.pt").touch()
    require_model(tmp_path / "model.pt")


def test_the_cause_below_monais_wrappers_stands_last() -> None:
    script = (
        "from monai_rd.bundle import explain_errors; explain_errors()\n"
        "try:\n try:\n  raise KeyError('deep')\n except KeyError as e:\n  raise ValueError('middle') from e\n"
        "except ValueError as e:\n try:\n  raise RuntimeError('Failed to instantiate') from e\n "
        "except RuntimeError as r:\n  raise RuntimeError('Failed to evaluate') from r\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "RuntimeError: Failed to evaluate" in done.stderr
    assert done.stderr.rstrip().endswith("The cause: middle")


def test_importing_the_package_is_light() -> None:
    script = "import sys, monai_rd, monai_rd.bundle; print('torch' in sys.modules or 'monai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file.txt"
    atomic_write("old\r\nlines\n", file)

    def write_half() -> None:
        with atomic_path(file) as beside:
            beside.write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        write_half()
    assert file.read_bytes() == b"old\r\nlines\n"
    assert list(file.parent.iterdir()) == [file]


def test_several_may_write_one_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    with atomic_path(file, others=True) as first:
        first.write_text("first")
        atomic_write("second", file, others=True)
        assert file.read_text() == "second"
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]
    link_or_copy(file, tmp_path / "other.txt")
    assert (tmp_path / "other.txt").samefile(file)


@pytest.mark.parametrize(("given", "read"), [("false", False), ("True", True), (False, False), (1, True)])
def test_a_switch_of_the_command_line(given: object, read: bool) -> None:
    assert switch(given) is read


def test_a_word_that_is_no_switch_is_refused() -> None:
    with pytest.raises(ValueError, match="true or false is needed, got 'no'"):
        switch("no")


@pytest.mark.parametrize(
    ("cores", "ranks", "cuda", "cpu"), [(2, 1, 1, 0), (4, 1, 3, 0), (16, 1, 8, 2), (16, 8, 1, 2), (8, 8, 0, 2)]
)
def test_loading_processes_suit_the_machine(
    monkeypatch: pytest.MonkeyPatch, cores: int, ranks: int, cuda: int, cpu: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert (default_workers("cuda:0"), default_workers("cpu")) == (cuda, cpu)
