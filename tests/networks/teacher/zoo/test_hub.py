"""Downloads, against a server on this machine that answers as the Hugging Face Hub does."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from open_clip.model import CLIP
from safetensors.torch import save

from monai_rd.networks.preprocessing import Preprocessing
from monai_rd.networks.teacher.zoo import TEACHERS, Hub, TeacherEntry, load_teacher
from monai_rd.networks.teacher.zoo.hub import cache_folder, fetch

FIRST, SECOND = "1" * 40, "2" * 40
ARGUMENTS = {"channels": [4, 4, 8, 8], "num_classes": 0, "global_pool": ""}


class FakeHub:
    """Files by "REPO/resolve/REVISION/FILE"; what is asked for is kept in `asked`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commit = FIRST
        self.refuse = 0
        self.asked: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def _answer(self, body: bool) -> None:
                address = self.path.lstrip("/")
                fake.asked.append(f"{self.command} {address}")
                repo, _, rest = address.partition("/resolve/")
                revision, _, file = rest.partition("/")
                commit = fake.commit if revision == "main" else revision
                content = fake.files.get(f"{repo}/resolve/{commit}/{file}")
                status, problem = 200, ""
                if fake.refuse:
                    status, problem = fake.refuse, "GatedRepo" if fake.refuse in (401, 403) else ""
                elif content is None:
                    status, problem = 404, "EntryNotFound"
                content = b"" if content is None or status != 200 else content
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", commit)
                if problem:
                    self.send_header("X-Error-Code", problem)
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def put(self, repo: str, file: str, content: bytes, commit: str = FIRST) -> None:
        self.files[f"{repo}/resolve/{commit}/{file}"] = content


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub()
    address = f"http://127.0.0.1:{fake.server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MONAI_RD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture(scope="module")
def weights() -> bytes:
    torch.manual_seed(0)
    return save(timm.create_model("resnet10t", **ARGUMENTS).state_dict())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TeacherEntry:
    entry = TeacherEntry(
        name="tiny",
        builder="timm:resnet10t",
        arguments=ARGUMENTS,
        preprocessing=Preprocessing(32, (0.5,) * 3, (0.5,) * 3),
        channels=8,
        kind="map",
        licence="CC BY-NC 4.0",
        source="this test",
        gated=True,
        non_commercial=True,
        terms="and be kind",
        hub=Hub("org/tiny", "tiny.safetensors"),
    )
    monkeypatch.setitem(TEACHERS, "tiny", entry)
    return entry


def _ledger() -> dict[str, dict[str, str]]:
    return json.loads((cache_folder() / "downloads.json").read_text())


def test_a_teacher_is_downloaded_once_and_its_licence_said_before(
    hub: FakeHub, weights: bytes, tiny: TeacherEntry, caplog: pytest.LogCaptureFixture
) -> None:
    hub.put("org/tiny", "tiny.safetensors", weights)
    caplog.set_level(logging.INFO)
    loaded = load_teacher("tiny")
    assert loaded(torch.rand(1, 3, 32, 32)).shape == (1, 8, 1, 1)
    licence = "licence: CC BY-NC 4.0; no commercial use; its owner gives it to those who asked; and be kind"
    assert licence in caplog.messages[0]
    assert any(FIRST in message and "downloads.json" in message for message in caplog.messages)
    assert _ledger() == {
        "models/org/tiny@main/tiny.safetensors": {"commit": FIRST, "sha256": hashlib.sha256(weights).hexdigest()}
    }
    hub.asked.clear()
    load_teacher("tiny")
    assert hub.asked == []


def test_what_main_means_is_settled_at_first_use(hub: FakeHub, weights: bytes, tmp_path: Path) -> None:
    hub.put("org/tiny", "tiny.safetensors", weights)
    first = fetch(Hub("org/tiny", "tiny.safetensors"), "tiny")
    hub.put("org/tiny", "tiny.safetensors", b"newer", SECOND)
    hub.commit = SECOND
    assert fetch(Hub("org/tiny", "tiny.safetensors"), "tiny") == first
    for path in (tmp_path / "hub").rglob("*"):  # another machine, or a cache that was cleared
        if path.is_file() or path.is_symlink():
            path.unlink()
    assert fetch(Hub("org/tiny", "tiny.safetensors"), "tiny").read_bytes() == weights


def test_a_changed_file_is_an_error(hub: FakeHub, weights: bytes, tiny: TeacherEntry) -> None:
    hub.put("org/tiny", "tiny.safetensors", weights)
    assert tiny.hub is not None
    path = fetch(tiny.hub, "tiny").resolve()
    path.write_bytes(weights[:-1] + b"x")
    with pytest.raises(
        ValueError, match=r"teacher 'tiny': .*tiny\.safetensors has the SHA-256 .* delete it.*delete 'mo"
    ):
        load_teacher("tiny")
    path.unlink()
    load_teacher("tiny")
    wrong = Hub("org/tiny", "tiny.safetensors", sha256="0" * 64)
    with pytest.raises(
        ValueError, match=f"and not {'0' * 64}. It is damaged or was changed: delete it, and it is downl"
    ):
        fetch(wrong, "tiny")


def test_a_data_set_and_a_second_name(hub: FakeHub) -> None:
    hub.put("datasets/org/data", "second name (x).pth", b"weights")
    wanted = Hub("org/data", "first.pth", repo_type="dataset", alternatives=("second name (x).pth",))
    hub.files = {key.replace(" ", "%20"): content for key, content in hub.files.items()}
    hub.files = {key.replace("(", "%28").replace(")", "%29"): content for key, content in hub.files.items()}
    assert fetch(wanted, "data").read_bytes() == b"weights"
    assert list(_ledger()) == ["datasets/org/data@main/second name (x).pth"]
    hub.asked.clear()
    fetch(wanted, "data")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "its owner gives it to those who asked: open https://huggingface.co/org/tiny, agree"),
        (403, "its owner gives it to those who asked"),
        (404, "it is not there"),
        (418, "the Hub answered 418"),
    ],
)
def test_refusals_say_what_to_do(hub: FakeHub, tiny: TeacherEntry, status: int, words: str) -> None:
    hub.refuse = 0 if status == 404 else status
    with pytest.raises(OSError, match=f"teacher 'tiny': tiny.safetensors was not downloaded: {words}") as error:
        load_teacher("tiny")
    assert "By hand: get it from https://huggingface.co/org/tiny and give it with --teacher_checkpoint" in str(
        error.value
    )
    assert not cache_folder().exists()


def test_without_network(hub: FakeHub, tiny: TeacherEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"the Hub cannot be reached \(.*\)\. By hand: get it from"):
        load_teacher("tiny")


def test_a_ledger_that_cannot_be_read(hub: FakeHub, tiny: TeacherEntry) -> None:
    cache_folder().mkdir()
    for text in ("{", "[1]", '{"a": 1}', '{"a": {"commit": "x"}}'):
        (cache_folder() / "downloads.json").write_text(text)
        with pytest.raises(ValueError, match=r"downloads\.json: cannot be read"):
            load_teacher("tiny")


def test_timms_own_names(hub: FakeHub) -> None:
    torch.manual_seed(0)
    published = timm.create_model("resnet10t").eval()
    hub.put("timm/resnet10t.c3_in1k", "model.safetensors", save(published.state_dict()))
    loaded = load_teacher("timm:resnet10t")
    assert (loaded.channels, loaded.preprocessing.size) == (512, (176, 176))
    image = torch.rand(1, 3, 176, 176)
    with torch.no_grad():
        expected = published.forward_features(loaded.preprocessing(image))
    torch.testing.assert_close(loaded(image), expected)


def test_a_network_of_timm_on_the_hub(hub: FakeHub) -> None:
    published = timm.create_model("resnet10t", channels=[4, 4, 8, 8], num_classes=2, in_chans=1).eval()
    config = {
        "architecture": "resnet10t",
        "num_classes": 2,
        "model_args": {"channels": [4, 4, 8, 8], "in_chans": 1},
        "pretrained_cfg": {
            "input_size": [1, 64, 48],
            "mean": [0.2],
            "std": [0.3],
            "interpolation": "bicubic",
            "classifier": "fc",
            "license": "cc-by-nc-4.0",
        },
    }
    hub.put("org/own", "config.json", json.dumps(config).encode())
    torch.save(published.state_dict(), path := cache_folder().parent / "w.bin")
    hub.put("org/own", "pytorch_model.bin", path.read_bytes())
    loaded = load_teacher("timm:hf-hub:org/own")
    assert loaded.preprocessing == Preprocessing((64, 48), (0.2,), (0.3,), "GRAY", "bicubic")
    assert loaded(torch.rand(2, 3, 20, 20)).shape == (2, 8, 2, 2)
    assert {key.rpartition("/")[2] for key in _ledger()} == {"config.json", "pytorch_model.bin"}


def test_an_image_tower_of_open_clip_on_the_hub(hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 1}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    whole = CLIP(24, vision, text)  # type: ignore[arg-type]
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {"size": 32}}
    hub.put("org/clip", "open_clip_config.json", json.dumps(config).encode())
    hub.put("org/clip", "open_clip_model.safetensors", save(whole.state_dict()))
    caplog.set_level(logging.INFO)
    loaded = load_teacher("open_clip:hf-hub:org/clip")
    assert loaded(torch.rand(2, 3, 20, 20)).shape == (2, 64, 4, 4)
    left = sum(not key.startswith("visual.") for key in whole.state_dict())
    assert f"left out by rule: {left} of the text tower" in caplog.text
    hub.files.clear()
    with pytest.raises(OSError, match=r"open_clip_config\.json was not downloaded: it is not there"):
        load_teacher("open_clip:hf-hub:org/other")
