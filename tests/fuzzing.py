"""Thousands of damaged files, read in child processes: a crash in a decoder would take the tests along.

A module of tests has `attack(folder, first, step, total)`, which calls `try_all`; the test calls `outcomes_of`.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

WORKERS, SECONDS, MOST_MIB = 2, 20, 1024
LENGTHS = (0, 1, 0x7F, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
# It stands in the name of every file and may stand in nothing that is written or said.
PATIENT = "DOE_JANE_19500101"


def damaged(content: bytes, dice: random.Random, forge: Callable[[bytearray, random.Random], None]) -> bytes:
    """Flip bytes, cut off, forge a length or a number of the header, or move a piece.

    Args:
        content: of a whole file.
        dice: decides.
        forge: puts another number where the format has one.
    """
    broken = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        kind = dice.randrange(6)
        reach = len(broken) if dice.random() < 0.5 else min(len(broken), 3000)
        if kind == 0:
            for _ in range(dice.choice((1, 3, 30))):
                broken[dice.randrange(reach)] = dice.randrange(256)
        elif kind == 1 and len(broken) > 200:
            del broken[dice.randrange(130, len(broken)) :]
        elif kind == 2:
            place = dice.randrange(max(1, reach - 4))
            broken[place : place + 4] = dice.choice(LENGTHS).to_bytes(4, dice.choice(("little", "big")))
        elif kind == 3:
            forge(broken, dice)
        elif kind == 4:
            start, place = dice.randrange(len(broken)), dice.randrange(len(broken))
            piece = broken[start : start + dice.randrange(1, 200)]
            broken[place:place] = piece
        else:
            pixels = max(broken.rfind(b"\xe0\x7f\x10\x00"), 0)  # the codestream of DICOM
            for _ in range(dice.choice((1, 5))):
                broken[dice.randrange(pixels, len(broken))] = dice.randrange(256)
        if len(broken) < 140:
            break
    return bytes(broken)


def try_all(folder: Path, numbers: Iterable[int], make: Callable[[int], Sequence[Callable[[], object]]]) -> None:
    """Write into `folder` what came of each number's calls: "read", the code of a `StudyError`, or what escaped."""
    from monai_rd.errors import StudyError

    with open(folder / "log", "w", buffering=1) as log:
        for number in numbers:
            calls = make(number)
            signal.alarm(SECONDS)
            log.write(f"{number} ")
            outcomes = []
            for call in calls:
                try:
                    call()
                    outcomes.append("read")
                except StudyError as error:
                    outcomes.append(f"ESCAPED:{PATIENT}" if PATIENT in str(error) else error.code)
                except BaseException as error:  # the test says which
                    outcomes.append(f"ESCAPED:{type(error).__name__}")
            log.write(f"{' '.join(outcomes)}\n")
        signal.alarm(0)
        # Not ru_maxrss: that of a child begins with what its parent held.
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert peak is not None
        log.write(f"peak {int(peak[1]) // 1024} MiB\n")


def outcomes_of(module: str, total: int, tmp_path: Path) -> Counter[str]:
    """Let so many files be read by `attack` of a module; counts what came of the first call on each.

    Raises:
        AssertionError: a crash, a hang, a foreign exception, a gigabyte, or a file's name told.
    """
    command = f"from pathlib import Path; from {module} import attack; attack(Path({{!r}}), {{}}, {{}}, {{}})"
    root = Path(__file__).parents[1]
    running = []
    for first in range(WORKERS):
        folder = tmp_path / str(first)
        folder.mkdir()
        words = [sys.executable, "-W", "ignore", "-c", command.format(str(folder), first, WORKERS, total)]
        environment = os.environ | {"PYTHONPATH": str(root)}
        with open(folder / "said", "w") as said:
            child = subprocess.Popen(words, cwd=root, env=environment, stdout=said, stderr=said)
        running.append((folder, child))
    codes: Counter[str] = Counter()
    for folder, process in running:
        code = process.wait()
        lines = (folder / "log").read_text().splitlines()
        assert code == 0, f"the reader ended with {code} at damaged file {lines[-1]}"
        assert not [line for line in lines if "ESCAPED" in line]
        assert PATIENT not in (folder / "said").read_text(errors="replace")
        peak = int(lines[-1].split()[1])
        assert peak < MOST_MIB, f"{peak} MiB"
        codes.update(line.split()[1] for line in lines[:-1])
    assert codes.total() == total
    return codes
