"""What is sent to us is stored if somebody waits for it and there is room, and never under a name of theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from monai_rd.integrations.archives import receiving
from monai_rd.integrations.archives.pdu import Broken
from monai_rd.integrations.archives.receiving import Box, Receiver
from monai_rd.walk import walk
from tests.integrations.archives.associations import CT, DATA, connected, content, store


def test_what_nobody_has_asked_for_is_refused(receiver: Receiver, tmp_path: Path) -> None:
    made = connected(receiver)
    assert store(made, b"ab" * 1000) == 0xA700
    receiver.box = Box(tmp_path)
    assert store(made, b"ab" * 1000) == 0x0000
    assert len(receiver.box.close()) == 1
    assert store(made, b"ab" * 1000) == 0xA700  # it is closed, and the association stands all the same
    made.release()
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unfinished_image_is_not_there_for_who_reads_the_folder(tmp_path: Path) -> None:
    box, seen = Box(tmp_path), []

    def pieces() -> Iterator[memoryview]:
        for piece in (b"ab", b"cd"):
            seen.append(walk(tmp_path).files)
            yield memoryview(piece)

    assert box.write(b"meta", pieces())
    assert seen == [[], []]
    assert walk(tmp_path).files == box.close() == [tmp_path / "000000.dcm"]
    assert not box.write(b"meta", pieces())
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("uid", ["../../x", "a/b", "", "1" * 65, "1.2\0.3", "1.2 3"])
def test_a_uid_that_is_none_names_nothing(uid: str, receiver: Receiver, box: Box) -> None:
    made = connected(receiver)
    assert store(made, b"ab", uid) == 0xC000
    assert store(made, b"ab") == 0x0000
    made.release()
    assert [one.name for one in box.close()] == ["000000.dcm"]


@pytest.mark.parametrize("limit", ["_MOST_IMAGES", "_LARGEST_SERIES", "disk"])
def test_more_than_there_is_room_for_is_refused_and_leaves_no_file(
    limit: str, receiver: Receiver, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = connected(receiver)
    assert store(made, b"ab" * 100_000) == 0x0000
    if limit == "disk":
        (tmp_path / "out" / "000001.dcm").write_text("somebody's")  # cannot be written anew
    else:
        monkeypatch.setattr(receiving, limit, {"_MOST_IMAGES": 1, "_LARGEST_SERIES": 300_000}[limit])
    assert store(made, b"ab" * 100_000) == 0xA700
    made.release()
    assert [one.name for one in box.close()] == ["000000.dcm"]
    there = sorted(one.name for one in (tmp_path / "out").iterdir())
    assert there == ["000000.dcm", "000001.dcm"][: 2 if limit == "disk" else 1]


def many(receiver: Any, count: int, do: Callable[[], None]) -> list[BaseException]:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    return failed


def test_many_may_send_at_a_time(receiver: Any, box: Box) -> None:
    """More than are served at once; the others wait."""

    def send() -> None:
        made = connected(receiver)
        for _ in range(5):
            assert store(made, DATA * 50) == 0
        made.release()

    assert not many(receiver, 15, send)
    came = box.close()
    assert len(set(came)) == 75
    assert all(content(one) == DATA * 50 for one in came)


def test_the_port_is_free_when_it_is_closed(receiver: Any) -> None:
    made = connected(receiver)
    receiver.close()
    with pytest.raises(Broken):
        made.receive()
    made.abort()
    with closing(Receiver(receiver.port, [CT], 5.0)):
        pass
