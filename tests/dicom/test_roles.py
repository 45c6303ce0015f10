"""The images of a study by their roles."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from rich.console import Console

from monai_rd.dicom import SeriesRule, choose_roles, index_dicom
from monai_rd.errors import Policy
from monai_rd.report.series import series_table
from tests.dicom_files import make_series
from tests.two_views import ROLES, write_two_views

MAMMOGRAPHY = {"roles": {"cc": {"view": "R CC"}, "mlo": {"view": "R MLO"}, "left": {"view": "^L"}}}
MR = {"roles": {"t1": {"description": "t1"}, "t2": {"description": "t2", "modality": "MR"}}}


def chosen(folder: Path, rule: dict[str, Any]) -> list[tuple[str, dict[str, Path], str]]:
    """UID, the first file of each role and the problem's code of every study."""
    roles = SeriesRule.of(rule).roles
    assert roles is not None
    return [
        (
            one.study_uid,
            {role: series.files[number or 0] for role, (series, number) in one.images.items()},
            one.problem.code if one.problem else "",
        )
        for one in choose_roles(index_dicom(folder), roles)
    ]


def described(study: str, description: str) -> Any:
    def change(_: int, header: Dataset) -> None:
        header.StudyInstanceUID, header.SeriesDescription = study, description

    return change


@pytest.mark.parametrize("series", [1, 2])
@pytest.mark.parametrize("views", [("PA", "LL"), ("LL", "PA"), ("AP", "RL")])
def test_two_views_in_one_series_or_two(series: int, views: tuple[str, str], tmp_path: Path) -> None:
    study, files = write_two_views(tmp_path, "NORMAL", 0, views, series)
    frontal, lateral = sorted(views, key=lambda view: view.upper() not in ("PA", "AP"))
    assert chosen(tmp_path, ROLES) == [(study, {"pa": files[frontal], "lateral": files[lateral]}, "")]


def test_a_role_that_is_missing_and_a_study_without_any(tmp_path: Path) -> None:
    first, of_first = write_two_views(tmp_path, "NORMAL", 0, ("LL",))
    second, _ = write_two_views(tmp_path, "NORMAL", 1, ("TAN",))
    found = dict((uid, (files, code)) for uid, files, code in chosen(tmp_path, ROLES))
    assert found == {first: ({"lateral": of_first["LL"]}, ""), second: ({}, "NO_ROLE")}


def test_sides_of_a_mammography(tmp_path: Path) -> None:
    views = ("R CC", "L CC", "R MLO")
    _, files = write_two_views(tmp_path, "NORMAL", 0, views, series=3)
    ((_, found, problem),) = chosen(tmp_path, MAMMOGRAPHY)
    assert found == {"cc": files["R CC"], "mlo": files["R MLO"], "left": files["L CC"]}
    assert problem == ""


@pytest.mark.parametrize(
    ("views", "shown"),
    [(("PA", "LL"), "LL, PA"), (("R CC", "L MLO"), "L MLO, R CC"), (("SECRETNAME", "PA"), "PA, another view")],
)
def test_the_index_shows_views_by_known_terms(views: tuple[str, ...], shown: str, tmp_path: Path) -> None:
    write_two_views(tmp_path, "NORMAL", 0, views, series=1)
    (one,) = index_dicom(tmp_path)
    assert one.row()["views"] == shown
    console = Console(file=StringIO(), width=120)
    console.print(series_table([one]))
    printed = console.file.getvalue()
    assert f"DX {shown}, 2 pictures" in printed
    assert "SECRETNAME" not in printed + repr(one)


def test_the_larger_of_two_images_if_asked(tmp_path: Path) -> None:
    _, files = write_two_views(tmp_path, "NORMAL", 0, ("PA", "AP"))
    small, large = sorted(files.values())
    image = pydicom.dcmread(large)
    doubled = np.repeat(image.pixel_array, 2, axis=0)
    image.Rows, image.PixelData = doubled.shape[0], doubled.tobytes()
    image.save_as(large)
    ((_, found, _),) = chosen(tmp_path, {"roles": {"pa": {"view": "PA|AP", "pick": "largest"}}})
    assert found == {"pa": large}
    ((_, found, _),) = chosen(tmp_path, {"roles": {"pa": {"view": "PA|AP"}}})
    assert found["pa"] in (small, large)


def test_sequences_of_an_mr_study(tmp_path: Path) -> None:
    for number, (name, slices) in enumerate({"T1 ax": 6, "T1 cor": 8, "T2 ax": 5}.items()):
        make_series(tmp_path / name, slices=slices, modality="MR", change=described("1.2.3", name), seed=number)
    make_series(tmp_path / "other", modality="MR", change=described("1.2.4", "flair"), seed=9)
    found = {uid: (files, code) for uid, files, code in chosen(tmp_path, MR)}
    assert {role: file.parent.name for role, file in found["1.2.3"][0].items()} == {"t1": "T1 cor", "t2": "T2 ax"}
    assert found["1.2.4"] == ({}, "NO_ROLE")


@pytest.mark.parametrize(
    "rule",
    [
        {"roles": {"t1": {"description": "t1"}, "t1c": {"description": "t1"}}},
        {"roles": {"t1": {}, "t2": {"modality": "MR"}}},
    ],
)
def test_an_image_of_two_roles_is_a_problem(rule: dict[str, Any], tmp_path: Path) -> None:
    make_series(tmp_path, modality="MR", change=described("1.2.3", "T1"))
    ((uid, _, problem),) = chosen(tmp_path, rule)
    assert (uid, problem) == ("1.2.3", "NO_ROLE")


def test_what_cannot_be_read_has_no_role(tmp_path: Path) -> None:
    make_series(tmp_path / "a", modality="MR", change=described("1.2.3", "T1"))
    make_series(tmp_path / "b", modality="MR", change=described("1.2.3", "T2"), skip=(2,), seed=1)
    ((_, found, _),) = chosen(tmp_path, MR)
    assert list(found) == ["t1"]
    roles = SeriesRule.of(MR).roles
    (study,) = choose_roles(index_dicom(tmp_path), roles, Policy({"MISSING_SLICES": "warn"}))
    assert list(study.images) == ["t1", "t2"]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"roles": {}}, "names no role"),
        ({"roles": ["pa"]}, "a table of tables"),
        ({"roles": {"pa": "PA"}}, "a table of tables"),
        ({"roles": {"pa|ap": {}}}, "the role 'pa.ap' may have letters"),
        ({"roles": {"pa": {"veiw": "PA"}}}, r"no 'veiw'; .*view \(did you mean 'view'"),
        ({"roles": {"pa": {"view": 5}}}, "view is text, in quotes, not 5"),
        ({"roles": {"pa": {"view": "(PA"}}}, "no regular expression"),
        ({"roles": {"pa": {"pick": "all"}}}, "pick 'all' is none of most_slices, largest"),
        ({"roles": {"pa": {"per": "study"}}}, "no 'per'"),
        ({"roles": {"pa": {"orientation": "up"}}}, "orientation 'up' is none of"),
        ({"modality": "DX", "roles": {"pa": {}}}, "modality stands beside roles"),
        ({"view": "PA"}, "no 'view'"),
    ],
)
def test_wrong_rules(rule: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SeriesRule.of(rule)
