"""What the log of an application says, whoever speaks: in a process of its own, as the filters stay."""

from __future__ import annotations

import subprocess
import sys

import pytest

UID = "1.2.826.0.1.3680043.8.498.1812168969480444638"
PATH = "/export/DOE_JANE_19500101/1.dcm"

START = """
import logging, sys, warnings
from pathlib import Path
UID, PATH = sys.argv[1:]
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s: %(message)s")
own = logging.getLogger("talkative")
own.addHandler(logging.StreamHandler())
own.propagate = False
from monai_rd.integrations.monai_deploy.app_log import keep_log_to_ourselves
keep_log_to_ourselves()
def fail():
    raise OSError(f"{PATH}: {UID}")
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("logging.getLogger('highdicom.base').info(f'copy attributes from dataset {UID}')", ""),
        ("logging.getLogger('highdicom.base').warning('from dataset %s', UID)", ""),
        ("logging.getLogger('pydicom').warning(PATH)", ""),
        ("logging.getLogger('made_later').debug(PATH)", ""),
        ("logging.info(PATH)", ""),
        ("logging.warning(UID)", ""),
        ("own.warning(PATH)", ""),
        ("warnings.warn(f'Invalid value for VR UI: {UID}')", ""),
        ("warnings.warn(PATH, DeprecationWarning)", ""),
        ("logging.getLogger('monai.deploy.core').error(PATH)", "an error at <string>, line"),
        ("own.error('%s', UID)", "an error at <string>, line"),
        ("try: fail()\nexcept OSError: logging.exception(UID)", "an error at <string>, line"),
        (
            "logging.getLogger('monai_rd.dicom').warning('2 series left out')",
            "WARNING monai_rd.dicom: 2 series left out",
        ),
        ("logging.getLogger('monai_rd.dicom').warning('series %s: a gap', UID)", "series (UID): a gap"),
        ("try: fail()\nexcept OSError: logging.getLogger('monai_rd.x').exception('no')", "ERROR monai_rd.x: no"),
        ("logging.getLogger('monai_rd').info('monai_rd 0.1.0 with torch 2.14.1')", "monai_rd 0.1.0 with torch 2.14.1"),
    ],
)
def test_others_say_nothing_and_we_name_nobody(code: str, said: str) -> None:
    command = [sys.executable, "-c", START + code, UID, PATH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    told = done.stdout + done.stderr
    assert said in told
    assert bool(told.strip()) is bool(said)
    for word in (UID, PATH, "DOE", "Traceback"):
        assert word not in told
