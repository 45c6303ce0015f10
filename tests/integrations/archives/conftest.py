"""Limits of DICOMweb that a test reaches, and a receiver of images with a box to put them in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partialmethod
from pathlib import Path
from socketserver import TCPServer

import pytest

from monai_rd.integrations.archives import receiving
from monai_rd.integrations.archives.receiving import Box, Receiver
from tests.integrations.archives.associations import CT
from tests.servers import free_ports


@pytest.fixture
def soon_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of pynetdicom, which otherwise notice up to half a second later that they are to end."""
    from pynetdicom import transport

    monkeypatch.setattr(transport.AssociationServer, "serve_forever", partialmethod(TCPServer.serve_forever, 0.02))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test reaches."""
    from monai_rd.integrations.archives import dicomweb  # needs the extra 'dicom'

    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    monkeypatch.setattr(dicomweb, "_LARGEST_JSON", 1 << 20)
    monkeypatch.setattr(dicomweb, "_LARGEST_SERIES", 1 << 20)
    monkeypatch.setattr(dicomweb, "_TIMEOUT", (2.0, 1.0))


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(receiving, "_LOOKING", 0.01)  # seconds, each of which a test would wait at its end
    (port,) = free_ports(1)
    with closing(Receiver(port, [CT], 5.0)) as opened:
        opened.port = port  # type: ignore[attr-defined]
        yield opened


@pytest.fixture
def box(receiver: Receiver, tmp_path: Path) -> Box:
    (tmp_path / "out").mkdir()
    receiver.box = Box(tmp_path / "out")
    return receiver.box
