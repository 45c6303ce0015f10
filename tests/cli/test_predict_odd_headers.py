"""Headers with values that are not what they should be, names among them: answers, and nothing of it in any log."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monai_rd.cli.app import app
from tests.dicom.test_text import ODD
from tests.dicom_files import make_series, set_bytes


def test_predict_says_nothing_of_a_header(
    bundle_of: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, (keyword, (vr, content)) in enumerate(ODD.items()):
        make_series(tmp_path / "in" / str(number), slices=2, shape=(40, 44), seed=number)
        set_bytes(tmp_path / "in" / str(number), keyword, vr, content)
    words = ["rd_ct", "--from", tmp_path / "in", "--to", tmp_path / "out", "--sc", "--", "--bundle_root", bundle_of()]
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = CliRunner().invoke(app, ["predict", *map(str, words)])
    assert said.exit_code in (0, 3), said.output
    told = said.output + caplog.text + "".join(capfd.readouterr()) + "".join(str(one.message) for one in caught)
    assert "planted" not in told.lower()
    assert "studies scored" in told
    for suffix in ("csv", "json"):
        assert "planted" not in (tmp_path / "out" / f"scores.{suffix}").read_text(encoding="utf-8").lower()
    assert len(list((tmp_path / "out" / "dicom").iterdir())) > len(ODD)
