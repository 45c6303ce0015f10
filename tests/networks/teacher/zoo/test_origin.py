"""What loaded teachers say of their weights' origin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from monai_rd.files import sha256
from monai_rd.networks import TEACHERS, load_teacher
from monai_rd.networks.teacher.zoo import loading, save_teacher
from monai_rd.networks.teacher.zoo.loading import open_teacher
from tests.small import SMALL

SHIPPED = Path(loading.__file__).parents[1] / "weights" / "phantom_ct.safetensors"


def test_a_file_that_is_given_need_not_be_the_published_one() -> None:
    (shipped,), (given,) = load_teacher("phantom_ct").origins, load_teacher("phantom_ct", SHIPPED).origins
    assert shipped.stated_by == "the teacher zoo of monai_rd, for the published weights"
    assert given.stated_by == f"{shipped.stated_by}; that the file given holds them was not checked"
    assert (given.licence, given.sha256) == ("Apache-2.0", sha256(SHIPPED))


@pytest.mark.parametrize("flag", [True, False], ids=["told by the entry", "by the licence's name"])
def test_a_saved_teacher_keeps_its_licence_and_terms(flag: bool, tmp_path: Path) -> None:
    teacher, entry, _ = open_teacher("phantom_ct")
    licence = "Terms of a lab" if flag else "CC BY-NC-ND 4.0"
    bound = replace(entry, licence=licence, non_commercial=flag, terms="ask the lab")
    save_teacher(tmp_path / "retfound.safetensors", teacher.backbone, bound)  # a name of the zoo, and no such teacher
    (one,) = load_teacher(str(tmp_path / "retfound.safetensors")).origins
    assert (one.licence, one.terms, one.commercial_use) == (licence, "ask the lab", "forbidden")
    assert one.stated_by == "the description in the file"


def test_of_a_network_of_timm_timm_says_it(tmp_path: Path) -> None:
    import timm

    network = timm.create_model(SMALL.removeprefix("timm:"), num_classes=0)
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    (one,) = load_teacher(SMALL, tmp_path / "mine.pt").origins
    assert one.licence == network.pretrained_cfg["license"] == "apache-2.0"
    assert one.stated_by == "timm, for the published weights; that the file given holds them was not checked"
    assert one.hub == network.pretrained_cfg["hf_hub_id"]


def test_a_whole_network_in_a_file_says_nothing(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, 8), torch.nn.ReLU()).eval()
    file = tmp_path / "features.onnx"
    torch.onnx.export(network, (torch.rand(1, 3, 32, 32),), file, dynamo=True, external_data=False, verbose=False)
    (one,) = load_teacher(str(file)).origins
    assert (one.name, one.licence, one.commercial_use) == ("features.onnx", "", "unknown")
    assert one.sha256 == sha256(file)
    assert str(tmp_path) not in str(one.told)


def test_no_entry_of_the_zoo_is_without_a_word_on_its_licence() -> None:
    uses = {name: entry.commercial_use for name, entry in TEACHERS.items()}
    assert uses["retfound"] == uses["uni2_h"] == "forbidden"
    assert (uses["usfm"], uses["medsam"], uses["rad_dino"]) == ("unknown", "unverified", "allowed")
