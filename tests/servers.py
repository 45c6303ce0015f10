"""Real servers, where they are installed: Orthanc, MONAI Label. And MONAI Deploy's applications."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def label_python() -> str:
    """Python of an environment with MONAI Label and this package (docs/guide/monai_label.md)."""
    python = os.environ.get("MONAI_LABEL_PYTHON")
    if not python:
        pytest.skip("MONAI_LABEL_PYTHON does not name the Python of an environment with MONAI Label")
    return python


def triton_python() -> str:
    """Python of an environment with Triton's server and client, and ONNX Runtime (docs/guide/export.md)."""
    python = os.environ.get("TRITON_PYTHON")
    if not python:
        pytest.skip("TRITON_PYTHON names no Python with nvidia-pytriton and onnxruntime, see docs/guide/export.md")
    return python


def deploy_python() -> str:
    """Python of an environment with MONAI Deploy's SDK and this package (docs/guide/monai_deploy.md)."""
    python = os.environ.get("MONAI_DEPLOY_PYTHON")
    if not python:
        pytest.skip("MONAI_DEPLOY_PYTHON names no Python with monai-deploy-app-sdk, see docs/guide/monai_deploy.md")
    return python


def deploy(*words: object) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` where MONAI Deploy's SDK is."""
    command = [deploy_python(), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@contextmanager
def running(command: list[str], port: int, page: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from its first answer to its end; what it printed is shown if it gives none."""
    home.mkdir(exist_ok=True)
    log = home / "log.txt"
    with open(log, "w") as out:
        server = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=home,
            env={**os.environ, "HOME": str(home), "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}"},
        )
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(f"no answer: {log.read_text()[-3000:]}")
        yield server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)  # its files are the test's own; an orderly end takes Orthanc seconds
        server.wait(30)


@dataclass
class Orthanc:
    """Where it answers, and what stops it."""

    web: str
    dimse: str
    listen: int
    process: subprocess.Popen[bytes]


@contextmanager
def running_orthanc(folder: Path, **changes: Any) -> Iterator[Orthanc]:
    """Orthanc on this machine alone, empty; `changes` of its configuration."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None or not _PLUGIN.is_file():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb)")
    http, dicom, listen = free_ports(3)
    settings = {
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "Plugins": [str(_PLUGIN)],
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {"ours": ["MONAI_RD", "127.0.0.1", listen]},
    }
    (folder / "config.json").write_text(json.dumps(settings | changes))
    with running([program, str(folder / "config.json")], http, "/system", folder / "home") as process:
        yield Orthanc(f"http://127.0.0.1:{http}/dicom-web", f"dimse://ORTHANC@127.0.0.1:{dicom}", listen, process)


@dataclass
class LabelServer:
    """MONAI Label, serving `task`."""

    address: str
    task: str

    def ask(self, image: str = "", file: Path | None = None) -> Any:
        """The response to a question about an image of the server's, or about a file."""
        requests = pytest.importorskip("requests")
        sent = {} if file is None else {"file": (file.name, file.read_bytes())}
        files = {"params": (None, '{"device": "cpu"}')} | sent
        return requests.post(f"{self.address}/infer/{self.task}?output=json&image={image}", files=files, timeout=120)

    def probabilities(self, image: str) -> dict[str, float]:
        """Of an image of the server's, by class."""
        answer = self.ask(image).json()
        said = answer["prediction"]
        names = {name: number for number, name in enumerate(one["label"] for one in said)}
        assert [one["idx"] for one in said] == list(names.values())
        assert answer["label_names"] == names
        return {one["label"]: one["score"] for one in said}

    def conformal_set(self, image: str) -> list[str]:
        """Of an image of the server's, the classes that cannot be ruled out."""
        found: list[str] = self.ask(image).json()["set"]
        return found


@contextmanager
def label_server(
    app: Path, studies: str, home: Path, task: str, conf: dict[str, str] | None = None
) -> Iterator[LabelServer]:
    """MONAI Label with an app over studies."""
    (port,) = free_ports(1)
    words = ["-m", "monailabel.main", "start_server", "--host", "127.0.0.1", "--port", str(port)]
    options = [word for name, value in (conf or {}).items() for word in ("--conf", name, value)]
    with running([label_python(), *words, "--app", str(app), "--studies", studies, *options], port, "/info/", home):
        yield LabelServer(f"http://127.0.0.1:{port}", task)
