"""What students cost, against published and independently measured numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from monai_rd.cli.app import main
from monai_rd.networks import Student
from monai_rd.networks.student.students import student_dims
from monai_rd.networks.student.table import FOR_IMAGES, FOR_VOLUMES, count_macs, measure_students


@pytest.mark.parametrize(
    ("name", "millions", "gmacs", "table_6"),
    [
        ("resnet18", 11.179, 1.8136, 5.33),
        ("mobilenet_v2", 2.229, 0.2995, 1.06),
        ("shufflenet_v2_x1_0", 1.258, 0.1439, 0.60),
    ],
)
def test_sizes_of_the_papers_three(name: str, millions: float, gmacs: float, table_6: float) -> None:
    """Table 6 of arXiv 2407.06504 counts parameters in units of 2^21; the other numbers are those of 4 classes."""
    student = Student(name, num_classes=4)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=6e-4)
    assert round(parameters / 2**21, 2) == table_6
    assert count_macs(student, torch.rand(1, 3, 224, 224)) / 1e9 == pytest.approx(gmacs, abs=6e-5)


def test_sizes_with_torchvisions_head() -> None:
    """As torchvision's documentation counts them."""
    for name, millions in (("resnet18", 11.69), ("mobilenet_v2", 3.50), ("shufflenet_v2_x1_0", 2.28)):
        count = sum(parameter.numel() for parameter in Student(name, num_classes=1000).parameters())
        assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_macs_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(800, 5))
    image = torch.rand(2, 3, 10, 10)
    assert count_macs(network, image) == 2 * (100 * 8 * 27 + 800 * 5)
    assert next(network.parameters()).device.type == "cpu"


def test_macs_of_attention_count() -> None:
    """12 blocks, 3 heads of width 64, 198 tokens: what q k^T and its product with v add to the linear layers."""
    student = Student("timm:deit_tiny_distilled_patch16_224")
    tokens, width, blocks = 198, 192, 12
    linear = tokens * 12 * width * width
    attention = 2 * tokens * tokens * width
    expected = blocks * (linear + attention) + 196 * width * 3 * 16 * 16 + 2 * width
    assert count_macs(student, torch.rand(1, 3, 224, 224)) == expected


def test_volumes() -> None:
    """Against counts of MONAI's networks made without this package."""
    student = Student("efficientnet_b0_3d", 2)
    assert sum(p.numel() for p in student.parameters()) / 1e6 == pytest.approx(4.69, abs=0.005)
    assert count_macs(student, torch.rand(1, 1, 96, 96, 96)) / 1e9 == pytest.approx(1.10, abs=0.005)


def test_every_recommended_student_exists() -> None:
    assert {student_dims(name) for name in FOR_IMAGES} == {2}
    assert {student_dims(name) for name in FOR_VOLUMES} == {3}


def test_the_page_shows_them_all() -> None:
    page = (Path(__file__).parents[3] / "docs" / "guide" / "students.md").read_text(encoding="utf-8")
    shown = [line.split()[0] for line in page.splitlines() if re.match(r"     \S+ +\d+x\d+", line)]
    assert shown == [*FOR_IMAGES, *FOR_VOLUMES]


def test_measuring() -> None:
    told: list[str] = []
    names = ["timm:repvgg_a0", "shufflenet_v2_x1_0"]
    repvgg, shufflenet = measure_students(names, image_size=64, seconds=0, progress=told.append)
    assert [repvgg.name, shufflenet.name] == names
    assert (shufflenet.size, shufflenet.feature_dim, shufflenet.parameters) == ((64, 64), 1024, 1_255_654)
    trained = sum(parameter.numel() for parameter in Student("timm:repvgg_a0").parameters())
    assert repvgg.parameters < trained  # the deployed form
    for cost in (repvgg, shufflenet):
        assert len(cost.milliseconds) == 3
        assert min(cost.milliseconds) > 0
    assert told[0] == "building timm:repvgg_a0"
    assert told[-1] == "round 3: shufflenet_v2_x1_0"


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def students(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["monai-rd", "students", *words])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    code, out, _ = students("mobilenet_v2", "timm:levit_conv_128s", "--image-size", "64", "--seconds", "0")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if "mobilenet_v2" in line)
    assert row[:5] == ["mobilenet_v2", "64x64", "2.23", "0.024", "1280"]
    assert float(row[5]) > 0
    assert "224x224" in next(line for line in out.splitlines() if "levit" in line)
    assert "n = 3" in out
    code, _, err = students("resnet19")
    assert code == 2
    assert "unknown student 'resnet19'" in err
