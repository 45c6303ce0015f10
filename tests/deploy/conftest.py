"""A bundle with a student that knows nothing, as if it were trained; a real image archive, where one is installed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_rd.deploy.predict import Predictor
from monai_rd.networks import Student

Bundle = Callable[..., Path]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass
class Orthanc:
    """Where it answers, and what stops it."""

    web: str
    dimse: str
    listen: int
    process: subprocess.Popen[bytes]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Start Orthanc on this machine alone."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None or not PLUGIN.is_file():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("orthanc")
    http, dicom, listen = free_ports(3)
    (folder / "config.json").write_text(
        json.dumps(
            {
                "HttpPort": http,
                "DicomPort": dicom,
                "DicomAet": "ORTHANC",
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "StorageDirectory": str(folder / "db"),
                "IndexDirectory": str(folder / "db"),
                "Plugins": [str(PLUGIN)],
                "DicomAlwaysAllowStore": True,
                "DicomAlwaysAllowFind": True,
                "DicomAlwaysAllowGet": True,
                "DicomAlwaysAllowMove": True,
                "DicomModalities": {"ours": ["MONAI_RD", "127.0.0.1", listen]},
            }
        )
    )
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([program, str(folder / "config.json")], stdout=log, stderr=log)
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", http)) == 0:
                break
        time.sleep(0.1)
    else:
        process.kill()
        pytest.fail(f"Orthanc did not start: {(folder / 'log').read_text()[-2000:]}")
    yield Orthanc(f"http://127.0.0.1:{http}/dicom-web", f"dimse://ORTHANC@127.0.0.1:{dicom}", listen, process)
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Give the bundle_root of a bundle whose student has random weights and these settings."""

    def of(**settings: Any) -> Path:
        names = settings.get("class_names", ["clear", "opacity"])
        own = {"student": "resnet18", "class_names": names, "multi_label": False, "windows": ["lung"]}
        own |= {"image_size": 32, "slices": 2, "scope": None, **settings}
        root = tmp_path_factory.mktemp("bundle")
        (root / "models").mkdir()
        torch.manual_seed(0)
        torch.save(Student(own["student"], len(names)).state_dict(), root / "models" / "model.pt")
        (root / "models" / "settings.json").write_text(json.dumps(own))
        return root

    return of


@pytest.fixture(scope="session")
def predictor(bundle_of: Bundle) -> Predictor:
    """CT, two classes that exclude each other."""
    return Predictor("rd_ct", bundle_root=str(bundle_of()), device="cpu")
