"""What `monai-rd teachers --for` recommends, and that it follows from the entries."""

from __future__ import annotations

import dataclasses
import inspect
import io

import pytest
from rich.console import Console

from monai_rd.cli import teachers
from monai_rd.networks.teacher.zoo import TEACHERS
from monai_rd.networks.teacher.zoo.recommend import MODALITIES, recommend
from monai_rd.networks.teacher.zoo.table import recommendation_table
from tests.networks.teacher.zoo.test_table import _command


def test_every_entry_is_recommended_for_something() -> None:
    """Its training data are said in words that are known."""
    found = {one.entry.name for modality in MODALITIES for one in recommend(modality)}
    assert found == set(TEACHERS)
    photographs = {name for name, entry in TEACHERS.items() if entry.modality == "photographs"}
    assert all(photographs <= {one.entry.name for one in recommend(modality)} for modality in MODALITIES)


@pytest.mark.parametrize(
    ("modality", "trained", "others"),
    [
        ("ct", {"meddinov3_ct", "curia", "ct_fm", "medsiglip_448"}, {"rad_dino", "usfm", "brainiac", "phantom_mr"}),
        ("mr", {"curia_2", "brainiac", "radimagenet_resnet50"}, {"meddinov3_ct", "ct_fm", "uni2_h"}),
        ("xray", {"rad_dino", "torchxrayvision_densenet121"}, {"radimagenet_densenet121", "panderm"}),
        ("us", {"usfm", "radimagenet_inceptionv3"}, {"curia", "retfound"}),
        ("derm", {"panderm", "medsiglip_448"}, {"virchow2", "usfm"}),
        ("fundus", {"retfound", "medsiglip_448"}, {"panderm", "rad_dino"}),
        ("pathology", {"uni2_h", "virchow2", "panderm"}, {"retfound", "phantom_derm"}),
    ],
)
def test_who_was_trained_on_it(modality: str, trained: set[str], others: set[str]) -> None:
    recommended = recommend(modality)
    assert trained <= {one.entry.name for one in recommended if one.fit[0] == 0}
    assert not others & {one.entry.name for one in recommended}
    fits = [one.fit[0] for one in recommended]
    assert fits == sorted(fits)
    assert all(("phantoms" in one.entry.modality) == (one.fit[0] == 3) for one in recommended)
    allowed = [one.commercial_use[0] for one in recommended if one.fit[0] == 0]
    assert allowed == sorted(allowed)


def test_the_order_is_that_of_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network goes up and down with what its entry says."""

    def place(**facts: object) -> int:
        monkeypatch.setitem(TEACHERS, "curia", dataclasses.replace(TEACHERS["curia"], **facts))  # type: ignore[arg-type]
        return [one.entry.name for one in recommend("ct")].index("curia")

    free = {"non_commercial": False, "licence": "MIT", "gated": False, "unverified": "", "gmacs": 0.1, "modality": "CT"}
    places = [
        place(**free),
        place(gmacs=500.0),
        place(gated=True),
        place(hub=None),
        place(licence="unknown"),
        place(licence="MIT", unverified="licence and size", gmacs=600.0),
        place(non_commercial=True),
        place(modality="many modalities", non_commercial=False),
        place(modality="photographs"),
        place(modality="CT phantoms"),
    ]
    assert places[0] == 0
    assert places == sorted(places)
    assert len(set(places)) > 6
    assert "curia" in [one.entry.name for one in recommend("ct")]
    monkeypatch.setitem(TEACHERS, "curia", dataclasses.replace(TEACHERS["curia"], modality="MRX, X-rays"))
    assert "curia" not in [one.entry.name for one in recommend("ct")]
    assert "curia" not in [one.entry.name for one in recommend("mr")]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("modality", MODALITIES)
def test_the_table_is_whole(modality: str, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    recommended = recommend(modality)
    console.print(recommendation_table(recommended))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    names = [line.split()[0] for line in lines[2:] if not line.startswith(" ")]
    assert names == [one.entry.name for one in recommended]


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert _command(monkeypatch, "--for", "mr") == 0
    images, volumes = capsys.readouterr().out.split("Teachers of volumes for mr, best first")
    assert images.startswith("Teachers of images and slices for mr, best first")
    assert "radimagenet_densenet121  CT, MR, ultrasound" in images
    assert "brainiac" in volumes
    assert "curia" not in volumes
    assert _command(monkeypatch, "--for", "us") == 0
    assert "Teachers of volumes" not in capsys.readouterr().out
    assert _command(monkeypatch, "--for", "x-ray") == 2
    said = capsys.readouterr().err
    assert "there are no teachers for 'x-ray'; known: ct, mr, xray, us, derm, fundus, pathology" in said
    assert "did you mean 'xray'?" in said
    assert _command(monkeypatch, "--for", "ct", "check", "pmc_clip") == 2
    assert "--for ct lists teachers; leave it out before 'check'" in capsys.readouterr().err


def test_the_help_names_every_modality() -> None:
    said = (
        inspect.signature(teachers.list_teachers, eval_str=True).parameters["modality"].annotation.__metadata__[0].help
    )
    assert ", ".join(list(MODALITIES)[:-1]) + " or " + list(MODALITIES)[-1] in said
