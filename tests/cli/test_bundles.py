"""`monai-rd train`, `evaluate` and `score`, as a person types them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_rd.cli.app import main
from tests.bundles.commands import BUNDLES, ROOT


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["monai-rd", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Give the command that words would start, after what is printed was compared with it."""

    def start(*words: str, code: int = 0) -> list[str]:
        commands: list[list[str]] = []

        def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
            commands.append(command)
            return subprocess.CompletedProcess(command, code)

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(sys, "argv", ["monai-rd", *words])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == code
        (command,) = commands
        assert command[0] == sys.executable
        return command[1:]

    return start


def test_the_line_that_is_printed_is_the_one_that_runs(
    started: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    run = ["-m", "monai.bundle", "run", "--config_file"]
    for words, wanted in (
        (["train", "rd_ct"], ["bundles/rd_ct/configs/train.json"]),
        (["score", "rd_mr", "--dataset_dir", "NEW STUDIES"], ["bundles/rd_mr/configs/inference.json"]),
        (["evaluate", "rd_us"], ["['bundles/rd_us/configs/train.json', 'bundles/rd_us/configs/evaluate.json']"]),
        (["train", "rd_ct", "--method_options", "{'temperature': 4}", "--optimizer#weight_decay=0.1"], None),
    ):
        command = started(*words)
        assert command[:4] == run
        assert command[4:5] == (wanted or command[4:5])
        assert command[5:] == words[2:]
        assert shlex.split(capsys.readouterr().out.splitlines()[0]) == ["python", *command]


def test_a_bundle_elsewhere_keeps_its_results(started: Callable[..., list[str]], tmp_path: Path) -> None:
    for root in (tmp_path / "mine" / "rd_ct", tmp_path / "of_another_name"):
        shutil.copytree(BUNDLES / "rd_ct" / "configs", root / "configs")
        command = started("train", str(root), "--seed", "1")
        assert command[4:] == [str(root / "configs" / "train.json"), "--bundle_root", str(root), "--seed", "1"]


@pytest.mark.parametrize("place", ["site-packages/monai_rd", "checkout"])
def test_the_projects_bundle_is_copied_before_it_is_trained(
    place: str,
    started: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = tmp_path / place / "bundles" / "rd_ct"
    shutil.copytree(BUNDLES / "rd_ct", own, ignore=shutil.ignore_patterns("eval", "models"))
    (own / "models").mkdir()  # of a training in the checkout itself
    installed = tmp_path / place if place.endswith("monai_rd") else tmp_path / place / "monai_rd"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("monai_rd.bundle.__file__", str(installed / "bundle.py"))
    assert "nothing reads --studentt" in refused(["train", "rd_ct", "--studentt", "x"], monkeypatch, capsys)
    assert list(work.iterdir()) == []
    for again in (False, True):
        assert started("train", "rd_ct")[4:] == ["bundles/rd_ct/configs/train.json"]
        assert ("copied the bundle to bundles/rd_ct" in capsys.readouterr().out) is not again
    assert sorted(path.name for path in (work / "bundles" / "rd_ct").iterdir()) == ["LICENSE", "configs", "docs"]
    monkeypatch.chdir(tmp_path / place)
    assert started("train", "rd_ct")[4:] == ["bundles/rd_ct/configs/train.json"]
    assert "copied" not in capsys.readouterr().out


def test_what_the_run_ends_with_is_the_exit_code(started: Callable[..., list[str]]) -> None:
    started("score", "rd_ct", code=1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["train", "rdct"],
            "no bundle 'rdct' (did you mean 'rd_ct'?): there are rd_ct, rd_derm, rd_mr, ",
        ),
        (["train", "rd_ct", "--datset_dir", "D"], "nothing reads --datset_dir (did you mean 'dataset_dir'?)"),
        (["score", "rd_ct", "--max_epochs", "3"], "nothing reads --max_epochs"),
        (["train", "rd_ct", "DIR"], "'DIR': words for the bundle are ids and values, as --dataset_dir DIR"),
        (["train", "rd_ct", "--dataset_dir"], "'--dataset_dir': words for the bundle are ids and values"),
        (["evaluate", "rd_ct", "-dataset_dir", "D"], "'-dataset_dir': words for the bundle are ids and values"),
    ],
)
def test_wrong_words_are_told_before_anything_is_started(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(words, monkeypatch, capsys)
