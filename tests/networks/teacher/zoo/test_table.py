"""What `monai-rd teachers` prints, and docs/guide/teachers.md beside it."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from monai_rd.cli.app import main
from monai_rd.networks.reprogramming import Reprogrammer
from monai_rd.networks.teacher.zoo import TEACHERS
from monai_rd.networks.teacher.zoo.table import check_file, looks_untrained, teachers_table
from tests.networks.teacher.test_blackbox import tiny_tflite
from tests.networks.teacher.zoo import published

PAGE = Path(__file__).parents[4] / "docs" / "guide" / "teachers.md"


def _command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["monai-rd", "teachers", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.parametrize("width", [100, 120, 140])
def test_the_table_is_whole_at_usual_widths(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(teachers_table())
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    for entry in TEACHERS.values():
        features = "x".join(map(str, (entry.channels, *entry.grid)))
        assert any(line.startswith(f"{entry.name} ") and features in line for line in lines), entry.name


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert _command(monkeypatch) == 0
    printed = capsys.readouterr().out
    for name, entry in TEACHERS.items():
        assert name in printed
        by_hand = entry.hub is None and not name.startswith("phantom_")
        assert (f"{name}: {entry.file} of {entry.source}" in printed.replace("\n", " ")) == by_hand


def test_no_word_is_broken_in_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert _command(monkeypatch) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for entry in TEACHERS.values() for word in (entry.licence, entry.modality))


def test_check_says_what_was_loaded_and_how_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = published.write(tmp_path, "pmc_clip", "checkpoint.pt")
    assert _command(monkeypatch, "check", "pmc_clip", path) == 0
    printed = capsys.readouterr().out
    assert "339 of 339 tensors; left out by rule: 6 of the text encoder, 2 of the fusion module" in printed
    assert re.search(
        r"features of a fixed image: \[2048, 7, 7\], mean \S+, std \S+, \d+\.\d% zeros, all finite", printed
    )
    assert check_file("pmc_clip", path) == check_file("pmc_clip", path)
    assert _command(monkeypatch, "check", "radimagenet_resnet50", path) == 2
    assert "does not fit radimagenet_resnet50" in capsys.readouterr().err


def test_check_finds_what_was_never_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet50", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "fresh.torch")
    assert _command(monkeypatch, "check", "lvm_med_resnet50", tmp_path / "fresh.torch") == 1
    assert "looks UNTRAINED" in capsys.readouterr().out
    weights = published.values(published.RECORDED["lvmmed/lvmmed_resnet.torch"])
    weights["layer4.2.bn3.bias"][0] = float("nan")
    torch.save(weights, tmp_path / "nan.torch")
    found = check_file("lvm_med_resnet50", tmp_path / "nan.torch")
    assert not found.finite
    assert not found.usable
    assert "NOT ALL FINITE" in str(found)
    assert "tensors hold values that are infinite or not a number" in str(found)


def test_untrained_transformers_too() -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    assert looks_untrained(network)
    with torch.no_grad():
        network.blocks[3].norm1.bias[5] = 0.1
    assert not looks_untrained(network)
    assert not looks_untrained(torch.nn.Conv2d(3, 3, 3, bias=False))


def test_check_of_a_teacher_of_volumes(tmp_path: Path) -> None:
    path, _ = published.write(tmp_path, "brainiac")
    found = check_file("brainiac", path)
    assert found.shape == (768, 6, 6, 6)
    assert found.usable
    assert "2 of the heads of the pretraining" in found.coverage


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pt", "mine.onnx", "mine.tflite"])
def test_check_of_two_files_at_once_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is a file of its own: leave out the checkpoint"):
        check_file(name, tmp_path / "other.pt")


def test_check_of_several_one_of_them_a_black_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_tflite(tmp_path / "tiny.tflite", (-1, -1, -1, 3))
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "fresh.pt")
    names, options = f"{tmp_path / 'tiny.tflite'},timm:resnet10t", "[{'size': 16}, {'tap': 'layer3', 'size': null}]"
    assert _command(monkeypatch, "check", names, f",{tmp_path / 'fresh.pt'}", "--options", options) == 1  # untrained
    first, second = capsys.readouterr().out.split("timm:resnet10t\n")
    assert first.startswith("tiny.tflite\nloaded: a whole network\nfeatures of a fixed image: [4, 16, 16]")
    assert "features of a fixed image: [256, 6, 6]" in second
    assert _command(monkeypatch, "check", names.split(",")[0]) == 0
    assert _command(monkeypatch, "check", names, "x.pt") == 2
    assert "teacher_checkpoint names 1 files for 2 teachers" in capsys.readouterr().err


def test_the_page_holds_every_entry() -> None:
    """The table of docs/guide/teachers.md against the entries: sizes, licence, how to get it, what was verified."""
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        cells[0].strip("`"): cells
        for line in text.splitlines()
        if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 7
    }
    assert list(rows) == list(TEACHERS)
    for name, entry in TEACHERS.items():
        _, modality, size, licence, file, verified, unverified = rows[name]
        features = " x ".join(map(str, (entry.channels, *entry.grid)))
        assert modality == entry.modality
        assert size == f"{entry.params:.1f} M, {entry.gmacs:.1f} G, {features}"
        assert licence == entry.conditions
        shipped = name.startswith("phantom_")
        assert entry.file in file
        assert ("shipped" if shipped else "by hand" if entry.hub is None else entry.hub.repo) in file
        assert verified == (entry.numerics or "-")
        assert unverified == (entry.unverified or "-")


def test_the_pages_lists_are_the_entries() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, entry in TEACHERS.items():
        if entry.window is not None:
            centre, width = sum(entry.window) / 2, entry.window[1] - entry.window[0]
            spacing = " x ".join(f"{mm:g}" for mm in entry.spacing) if entry.spacing else "as scanned"
            low, high = entry.window
            assert f"| `{name}` | {low:g} to {high:g} HU | {centre:g} | {width:g} | {spacing} |" in text
        if entry.citation:
            assert entry.citation in text, name


def test_what_phi_costs() -> None:
    rows = re.findall(
        r"^\| (\d+) x (\d+) x (\d+) \| (\S+) M \| (\S+) \| (\S+) M \|$", PAGE.read_text(encoding="utf-8"), re.M
    )
    assert len(rows) == 6
    for row in rows:
        shape, stated = [int(cell) for cell in row[:3]], [float(cell) for cell in row[3:]]
        phi, of_vectors = (Reprogrammer(shape[0], 512, kind).eval().to("meta") for kind in ("map", "vector"))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            phi(torch.empty(1, *shape, device="meta"))
        params = [sum(p.numel() for p in one.parameters()) / 1e6 for one in (phi, of_vectors)]
        counted = [params[0], counter.get_total_flops() / 2e9, params[1]]
        assert [round(number, 2) for number in counted] == stated
