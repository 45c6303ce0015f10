"""Zip files that nobody packs who means well are refused, in words, and leave nothing behind."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_rd.serve.limits import Limits, RefusedError
from monai_rd.serve.uploads import Uploads
from tests.serve.conftest import FILES, SMALL
from tests.serve.serving import Browser, noise, zipped


def link() -> bytes:
    entry = zipfile.ZipInfo("study/1.dcm")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zip_of(entry, b"/etc/passwd")


def zip_of(entry: zipfile.ZipInfo | str, content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as file:
        file.writestr(entry, content)
    return packed.getvalue()


def patched(packed: bytes, signature: bytes, place: int, value: bytes) -> bytes:
    """A zip file with other bytes at a place of its first record of a kind."""
    at = packed.index(signature) + place
    return packed[:at] + value + packed[at + len(value) :]


def encrypted() -> bytes:
    packed = patched(zipped({"1.dcm": b"x" * 50}), b"PK\1\2", 8, b"\1\0")
    return patched(packed, b"PK\3\4", 6, b"\1\0")


def long_directory(count: int) -> bytes:
    """Many entries of one file."""
    packed = zipped({"1.dcm": b"x"})
    start, end = packed.index(b"PK\1\2"), packed.index(b"PK\5\6")
    size = count * (end - start)
    tail = patched(packed[end:], b"PK\5\6", 8, struct.pack("<HHI", count, count, size))
    return packed[:start] + packed[start:end] * count + tail


def small_by_its_own_words() -> bytes:
    """50 bytes in its directory, 3 MB in truth."""
    return patched(zipped({"1.dcm": bytes(3 * SMALL)}), b"PK\1\2", 24, struct.pack("<I", 50))


ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a path upwards": (lambda: zipped({"../../../../tmp/evil.dcm": b"x"}), "names that lead out"),
    "a path upwards in Windows": (lambda: zipped({"a\\..\\..\\evil.dcm": b"x"}), "names that lead out"),
    "an absolute path": (lambda: zipped({"/etc/cron.d/evil": b"x"}), "names that lead out"),
    "a drive": (lambda: zipped({"C:/Windows/evil.dll": b"x"}), "names that lead out"),
    "a link": (link, "holds a link"),
    "a password": (encrypted, "has a password"),
    "a bomb by its ratio": (lambda: zipped({"1.dcm": bytes(3 * SMALL)}), "far more than it is"),
    "a bomb of many parts": (lambda: zipped({f"{n}.dcm": bytes(SMALL // 8) for n in range(30)}), "far more than it is"),
    "too many files": (lambda: zipped({f"{n}.dcm": b"" for n in range(FILES + 1)}), "too many files"),
    "a directory of 24,000 files, and one file": (lambda: long_directory(24_000), "too many files"),
    "bzip2": (lambda: zip_of("1.dcm", b"x", zipfile.ZIP_BZIP2), "in a way that"),
    "lzma, whose header asks for memory": (lambda: zip_of("1.dcm", b"x", zipfile.ZIP_LZMA), "in a way that"),
    "a size that is too small": (small_by_its_own_words, "damaged"),
    "cut off": (lambda: zipped({"1.dcm": noise(5000)})[:3000], "damaged"),
    "other bytes in the middle": (lambda: patched(zip_of("1.dcm", noise(500)), b"PK\3\4", 100, b"\0" * 50), "damaged"),
    "no zip file": (lambda: b"PK\3\4" + noise(1000), "damaged"),
    "empty": (lambda: b"", "damaged"),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_zip_files(page: Browser, folder: Path, kind: str) -> None:
    make, words = ZIPS[kind]
    job = page.new()
    reply = page.put(job, 1, "export.zip", make())
    assert 400 <= reply.status < 500, reply.text
    assert words in reply.text
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert not Path("/tmp/evil.dcm").exists()


def test_a_zip_file_that_boasts_of_its_size_is_what_it_is(page: Browser, folder: Path) -> None:
    boasting = patched(zipped({"1.dcm": b"x" * 50}), b"PK\1\2", 24, b"\xfe\xff\xff\xff")
    job = page.new()
    assert page.put(job, 1, "export.zip", boasting).status == 204
    assert [path.stat().st_size for path in folder.rglob("*.dcm")] == [50]


def test_the_directory_of_a_zip_file_is_not_read_if_it_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "1.zip"
    packed.write_bytes(long_directory(24_000))
    made: list[str] = []
    monkeypatch.setattr(zipfile, "ZipInfo", lambda name: made.append(name))
    with pytest.raises(RefusedError, match="too many files"):
        Uploads(tmp_path / "files", Limits(files=FILES)).unpack(packed)
    assert made == []


def test_zip_files_in_zip_files_stay_packed(page: Browser) -> None:
    bomb = zipped({"1.dcm": bytes(3 * SMALL)})
    job = page.send({"outer.zip": zipped({"inner.zip": zipped({"inner.zip": bomb})})})
    text = page.get(job).text
    assert "0 studies answered, 1 without an answer" in text
    assert "UNREADABLE_IMAGE" in text


def test_damaged_zip_files_are_refused_and_nothing_else_happens(tmp_path: Path) -> None:
    whole = zipped({f"{n}.dcm": noise(300) for n in range(5)})
    draw = random.Random(1)
    refused = 0
    for number in range(400):
        packed = bytearray(whole)
        for _ in range(draw.choice((1, 1, 3, 20))):
            packed[draw.randrange(len(packed))] = draw.randrange(256)
        cut = draw.choice((len(packed), draw.randrange(len(packed))))
        uploads = Uploads(tmp_path / str(number), Limits(free=0))
        path = uploads.folder / "000001.zip"
        path.write_bytes(bytes(packed[:cut]))
        try:
            uploads.unpack(path)
        except RefusedError:
            refused += 1
    assert refused > 200
    assert {path.name for path in tmp_path.iterdir()} == {str(number) for number in range(400)}
