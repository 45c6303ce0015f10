"""A full disk: what is there stays, nothing half-written is left, and the message is ours."""

from __future__ import annotations

import errno
import io
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from safetensors import SafetensorError

from monai_rd.adapters.stored import save_adapted
from monai_rd.cache import items as cached_items
from monai_rd.cache.feature_store import FeatureStore
from monai_rd.cli.app import main
from monai_rd.datasets.lists import DataList, write_datalist
from monai_rd.errors import original_error
from monai_rd.files import DiskFullError, atomic_path, atomic_write, error_text, no_room
from monai_rd.handlers.checkpoint import save_atomically
from monai_rd.inference import write_scores
from monai_rd.integrations.archives.endpoints import write_object
from monai_rd.networks import FrozenFoundationModel, Preprocessing
from monai_rd.pseudonyms import project_key
from monai_rd.report import save_figure
from tests.tiny_run import TinyRun


def _weights(path: Path) -> None:
    save_atomically({"weight": torch.rand(300_000)}, path)


def _object(path: Path) -> None:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.TextValue = "x" * 500_000
    write_object(made, path)


def _datalist(path: Path) -> None:
    items = [{"image": f"/data/{n}.png", "label": 0, "series": "", "patient": "x" * 999, "id": ""} for n in range(500)]
    write_datalist(DataList(("a", "b"), items, [], []), "/data", path, b"key")


def _figure(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9))
    figure.subplots().imshow(np.random.default_rng(0).random((300, 300)))
    save_figure(figure, path.with_suffix(""))


def _arrays(path: Path) -> None:
    with atomic_path(path) as beside, open(beside, "wb") as file:
        np.savez_compressed(file, a=np.random.default_rng(0).random(100_000))


def _picture(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (500, 500), dtype=np.uint8)
    with atomic_path(path) as beside:
        Image.fromarray(noise).save(beside, format="PNG")


def _adapter(path: Path) -> None:
    from monai_rd.adapters.registry import build_adapter
    from tests.adapters.tiny import teacher

    base = teacher("plain")
    save_adapted(path, build_adapter("full", base, 2), base)


def _scores(path: Path) -> None:
    from monai_rd.inference import Prediction

    write_scores(path, [Prediction(str(n), "", problem="X", message="y" * 999) for n in range(300)], ["a", "b"], {})


WRITERS: dict[str, Callable[[Path], None]] = {
    "model.pt": _weights,
    "report.html": lambda path: atomic_write("x" * 500_000, path),
    "sr.dcm": _object,
    "list.json": _datalist,
    "roc.png": _figure,
    "predictions.npz": _arrays,
    "pairs.png": _picture,
    "item.cached": lambda path: cached_items.write({"image": torch.rand(300_000)}, path),
    "teacher.safetensors": _adapter,
    "scores.csv": _scores,
}


def limited(work: Callable[..., object], *given: Any, limit: int = 30_000) -> None:
    """Do it where no file may be larger than so many bytes: EFBIG, which goes the same way as a full disk."""
    import resource
    import signal

    before, ordinary = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        work(*given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ordinary)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
@pytest.mark.parametrize("name", WRITERS)
def test_the_old_file_stays_and_nothing_else(name: str, tmp_path: Path) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_text("old")
    with pytest.raises(DiskFullError, match=rf"{path.stem}.* could not be written: .* free\). Make room, or choose"):
        limited(WRITERS[name], path)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    WRITERS[name](path)
    assert path.read_bytes() != b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
def test_a_feature_store_and_a_resting_teacher(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features", {"views": 1})
    with pytest.raises(DiskFullError, match="file"):
        limited(store.write, "file", {"item": {"tap": torch.rand(1, 100_000)}}, True)
    assert [path.name for path in store.folder.iterdir()] == ["store.json"]
    plain = Preprocessing(None, (0.0,) * 3, (1.0,) * 3)
    backbone = torch.nn.Conv2d(3, 512, 16)
    teacher = FrozenFoundationModel(backbone, channels=512, kind="map", preprocessing=plain, name="tiny")
    before = backbone.weight.clone()
    with pytest.raises(OSError, match="the weights of teacher 'tiny' could not be written: the file would be larger"):
        limited(teacher.offload, tmp_path)
    assert torch.equal(backbone.weight, before)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_a_key_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fdopen", lambda descriptor, mode: Full())
        with pytest.raises(OSError, match="No space"):
            project_key(tmp_path / "key")
    assert not list(tmp_path.iterdir())
    key = project_key(tmp_path / "key")
    assert project_key(tmp_path / "key") == key
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/out/MUELLER.csv"), "the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "larger than the system allows"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "is full"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (OSError(errno.EACCES, "Permission denied"), ""),
        (ValueError("no space"), ""),
    ],
)
def test_how_it_is_known(error: Exception, said: str) -> None:
    assert said in no_room(error)
    assert bool(said) is bool(no_room(error))
    wrapped = RuntimeError("unexpected pos 704 vs 598")  # PyTorch's
    wrapped.__context__ = error
    assert no_room(wrapped) == no_room(error)
    assert "MUELLER" not in error_text(wrapped)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
def test_a_training_keeps_what_it_had(tmp_path: Path) -> None:
    first = TinyRun(tmp_path, max_epochs=2)
    first.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.terminate())
    first.trainer.run()

    def there() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.rglob("[!.]*") if path.is_file()}

    before = there()
    run = TinyRun(tmp_path, max_epochs=2, resume=True)
    with pytest.raises(DiskFullError, match=r"(model|last)\.pt could not be written"):
        limited(run.trainer.run, limit=900)
    assert there() == before
    TinyRun(tmp_path, max_epochs=2, resume=True).trainer.run()


def test_a_command_ends_with_our_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/out/MUELLER.csv")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 - as PyTorch does

    monkeypatch.setattr("monai_rd.cli.app.app", full)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = "the disk is full: a file could not be written; make room, and start again"
    assert capsys.readouterr().err == f"monai-rd: {said}\n"


def test_an_error_that_stands_behind_itself_ends() -> None:
    """As where the cause is raised again out of its own wrapper, `raise original_error(error) from None`."""

    def fail() -> None:
        try:
            try:
                raise ValueError("no folder")
            except ValueError as cause:
                raise RuntimeError("Failed to evaluate") from cause
        except RuntimeError as wrapper:
            raise original_error(wrapper) from None

    with pytest.raises(ValueError, match="no folder") as caught:
        fail()
    assert no_room(caught.value) == ""
