"""Table 6 of the paper, from the true networks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from torch import nn

from monai_rd.cli.app import main
from monai_rd.protocol import cost
from monai_rd.protocol.paper import TABLE_6


def small() -> nn.Module:
    parts = (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4))
    return nn.Sequential(*parts)


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "printed"),
    [
        ("lvm_med_vit_b", 86_528_260, 17.5215, ("41.26", "65.34")),
        ("resnet18", 11_178_564, 1.8136, ("5.33", "6.77")),
        ("shufflenet_v2_x1_0", 1_257_704, 0.1439, ("0.60", "0.55")),
        ("mobilenet_v2", 2_228_996, 0.2995, ("1.06", "1.17")),
    ],
)
def test_all_eight_published_cells(name: str, parameters: int, macs: float, printed: tuple[str, str]) -> None:
    found = cost.count(name)
    assert found.parameters == parameters
    assert found.macs / 1e9 == pytest.approx(macs, abs=6e-5)
    assert tuple(f"{number:.2f}" for number in found.as_in_paper) == printed
    assert tuple(f"{number:.2f}" for number in TABLE_6[name]) == printed


def test_further_operations_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cost.MODELS, "small", small)
    found = cost.count("small")
    pixels = 224 * 224
    assert (found.macs, found.further) == (12 * pixels, 4 * pixels * (2 + 1) + 4 * 5)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With networks small enough for a moment; the times of the true ones are measured by hand."""
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr(cost, "MODELS", dict.fromkeys(cost.MODELS, small))
    monkeypatch.setattr(sys, "argv", ["monai-rd", "benchmark", "table6", "--seconds", "0", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    assert "times faster" in capsys.readouterr().out
    content = json.loads((tmp_path / "table6.json").read_text())
    assert content["rounds"] == 3
    assert [one["paper_flops"] for one in content["networks"]] == [65.34, 6.77, 0.55, 1.17]
    assert all(one["milliseconds"] > 0 for one in content["networks"])
    assert content["networks"][0]["times_faster"] == 1
    assert "| resnet18 | 0.00 | 5.33 | 0.00 | 6.77 |" in (tmp_path / "table6.md").read_text()
