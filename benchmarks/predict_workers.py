"""`monai-rd predict` by one and by two workers on one state folder; killed at random, each study is answered once.

    python benchmarks/predict_workers.py --studies 2000 --kills 50 --rounds 5     # needs Orthanc with DICOMweb

Small CT series are stored in an Orthanc on this machine. A student of few parameters with random weights scores them
by DICOMweb, and its reports go back.

1. Two workers score all of them. Again and again one of the two is killed (SIGKILL) and another one started in its
   place. At the end every study must have one report in Orthanc and one row in the tables; nothing else may be left.
2. Two workers score all of them anew, unharmed: studies per second and memory from its beginning to its end.
3. One and two workers score a part of them in turn.

Studies per second are those between the first and the last answer: starting Python is not counted.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from timing import machine, middle

sys.path.insert(0, str(Path(__file__).parents[1]))

from pydicom.dataset import Dataset

from monai_rd.integrations.archives.archive import Query
from monai_rd.integrations.archives.archive_url import open_archive
from tests.dicom_files import make_series
from tests.processes import CONTEXT, PRELOADED
from tests.servers import running_orthanc
from tests.trained import trained_files

OLD, NEW = "20260101", "20260201"  # days of the studies; those of the rounds are new
LOOK = 0.2  # seconds between two looks at the workers


@dataclass
class Watched:
    """What was seen of a run.

    Attributes:
        answers: seconds since its start and number of answered studies.
        memory: resident memory of each worker in MiB, by its process, with the number of studies answered by then.
        kills: how many workers were killed.
        busy: how many studies they were scoring.
    """

    answers: list[tuple[float, int]] = field(default_factory=list)
    memory: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    kills: int = 0
    busy: int = 0

    def speed(self) -> float:
        """Studies per second between the first and the last answer."""
        began = next(one for one in self.answers if one[1])
        ended = next(one for one in self.answers if one[1] == self.answers[-1][1])
        return (ended[1] - began[1]) / (ended[0] - began[0])


def work(words: Sequence[str], threads: int, output: Path) -> None:
    """Be a worker, as `monai-rd predict` is."""
    from monai_rd.cli.app import main

    torch.set_num_threads(threads)
    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["monai-rd", *words]
    main()


def memory_of(process: BaseProcess) -> float:
    """Resident memory in MiB; 0 of a process that has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


def claims_of(process: BaseProcess, state: Path) -> int:
    """How many studies a worker is scoring: it holds its own file open, and claims bear its name."""
    held = set()
    for one in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(OSError):
            held.add(Path(os.readlink(one)).name)
    return sum(text in held for one in (state / "claims").iterdir() if (text := read(one)))


def read(file: Path) -> str:
    """Content of a small file; "" of one that has gone."""
    try:
        return file.read_text()
    except OSError:
        return ""


def answered_in(state: Path) -> int:
    """How many studies are answered."""
    found: set[str] = set()
    for part in ("scores", "answered"):
        if (state / part).is_dir():
            found |= {name.removesuffix(".json") for name in os.listdir(state / part) if not name.endswith(".tmp")}
    return len(found)


def scored(
    words: Sequence[str], state: Path, workers: int, total: int = 0, kills: int = 0, threads: int | None = None
) -> Watched:
    """Let workers score until all have ended; kill some meanwhile, a random one at random numbers of answers."""
    seen, chance = Watched(), random.Random(0)
    moments = sorted(chance.sample(range(1, total), kills)) if kills else []
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    state.mkdir(exist_ok=True)

    def start() -> BaseProcess:
        told = [*words[:1], "--state", str(state), *words[1:]]
        process = CONTEXT.Process(target=work, args=(told, threads, state.with_suffix(".txt")))
        process.start()
        return process

    running, began = [start() for _ in range(workers)], time.monotonic()
    while running:
        time.sleep(LOOK)
        answered = answered_in(state)
        seen.answers.append((time.monotonic() - began, answered))
        for one in running:
            seen.memory.setdefault(one.pid or 0, []).append((answered, memory_of(one)))
        if moments and answered >= moments[0]:
            moments.pop(0)
            time.sleep(chance.random() * LOOK)
            one = chance.choice(running)
            if one.is_alive():
                busy = claims_of(one, state)
                os.kill(one.pid or 0, signal.SIGKILL)
                one.join()
                seen.kills, seen.busy = seen.kills + 1, seen.busy + busy
                running[running.index(one)] = start()
        running = [one for one in running if one.is_alive()]
    return seen


def what_is_wrong(state: Path, web: str, series: set[str]) -> list[str]:
    """Whatever contradicts that each study was answered once and nothing is left."""
    rows = Counter[str]()
    for table in state.glob("scores_*.csv"):
        with open(table, newline="") as file:
            rows.update(row["series"] for row in csv.DictReader(file) if not row["problem"])
    archive, wrong = open_archive(web), []
    reports = Counter[tuple[int, ...]]()
    for study in archive.studies(Query("CT")):
        reports[tuple(number or 0 for number in archive.series(study, "SR").values())] += 1
    archive.close()
    if rows != Counter(series):
        wrong.append(f"{len(series - rows.keys())} studies without a row, {rows.total() - len(rows)} rows too many")
    if reports != {(1,): len(series)}:
        wrong.append(f"studies by the reports in their series: {dict(reports)}")
    parts = ("claims", "incoming", "outbox", "scores")
    left = {part: sum(one.suffix != ".tmp" for one in (state / part).rglob("*")) for part in parts}
    if any(left.values()):
        wrong.append(f"left behind: {left}")
    return wrong


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50, help="0 leaves step 1 out")
    parser.add_argument("--rounds", type=int, default=5, help="of step 3")
    parser.add_argument("--part", type=int, default=200, help="studies of a round")
    parser.add_argument("--threads", type=int, help="of each worker in a round; by default its share of the cores")
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--size", type=int, default=64, help="rows and columns of an image")
    options = parser.parse_args()
    logging.getLogger("monai_rd").setLevel(logging.WARNING)
    CONTEXT.set_forkserver_preload([*PRELOADED, "monai_rd.cli.app", "monai_rd.integrations.workers", "highdicom"])
    console = Console(width=140)
    console.print(f"{machine(torch.device('cpu'), torch.get_num_threads())}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bundle").mkdir()
        trained_files(folder / "bundle")
        with running_orthanc(folder) as orthanc:
            series = stored(options, folder, orthanc.web)
            words = ["predict", "rd_ct", "--from", orthanc.web, "--to", orthanc.web, "--modality", "CT"]
            own = ["--", "--bundle_root", str(folder / "bundle"), "--device", "cpu"]
            if options.kills:
                killed(options, [*words, *own], folder / "killed", orthanc.web, series, console)
            whole = scored([*words, *own], folder / "whole", 2)
            console.print(f"unharmed, 2 workers: {whole.speed():.2f} studies per second; memory in MiB:")
            for number, memory in enumerate(whole.memory.values(), start=1):
                shares = [memory_at(memory, share * options.studies) for share in (0.1, 0.25, 0.5, 0.75, 0.95)]
                told, peak = ", ".join(f"{one:.0f}" for one in shares), max(amount for _, amount in memory)
                console.print(f"  worker {number}, after 10, 25, 50, 75, 95 %: {told}; peak {peak:.0f}")
            rounds(options, [*words, "--since", NEW, *own], folder, console)


def killed(
    options: argparse.Namespace, words: Sequence[str], state: Path, web: str, series: set[str], console: Console
) -> None:
    """Let two workers be killed at random, and one finish what they left; say what came of it."""
    seen = scored(words, state, 2, options.studies, options.kills)
    again = scored(words, state, 1)
    console.print(
        f"{options.studies} studies, {seen.kills} kills, {seen.busy} while a study was claimed; "
        f"answered {seen.answers[-1][1]}, by the next run {again.answers[-1][1]}"
    )
    console.print("\n".join(what_is_wrong(state, web, series)) or "each study was answered once")


def stored(options: argparse.Namespace, folder: Path, web: str) -> set[str]:
    """Draw the series and store them; return their UIDs."""
    archive, found = open_archive(web), set()
    for number in range(options.studies):

        def change(k: int, ds: Dataset, number: int = number) -> None:
            ds.PatientID, ds.PatientName = f"phantom {number}", f"Phantom^{number}"
            ds.StudyDate = NEW if number < options.part else OLD

        place, shape = folder / "series", (options.size, options.size)
        found.add(make_series(place, slices=options.slices, shape=shape, seed=number, change=change)[0])
        archive.store(sorted(place.iterdir()))
        shutil.rmtree(place)
    archive.close()
    return found


def memory_at(memory: Sequence[tuple[int, float]], answered: float) -> float:
    """Memory when so many studies were answered."""
    return next((amount for number, amount in memory if number >= answered), memory[-1][1])


def rounds(options: argparse.Namespace, words: Sequence[str], folder: Path, console: Console) -> None:
    """Compare one and two workers, in turn; a round before the first one warms up."""
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(options.rounds + 1):
        for workers in (1, 2) if number % 2 else (2, 1):
            seen = scored(words, folder / f"round_{number}_{workers}", workers, threads=options.threads)
            if seen.answers[-1][1] != options.part:
                raise RuntimeError(f"{seen.answers[-1][1]} of {options.part} studies were answered")
            speeds[workers] += [seen.speed()] if number else []
    table = Table("workers", "studies per second", "over one worker")
    for workers, found in speeds.items():
        over = [one / other for one, other in zip(found, speeds[1], strict=True)]
        table.add_row(str(workers), middle(found), middle(over))
    console.print(f"{options.part} studies, n = {options.rounds} rounds, median and quartiles", table)


if __name__ == "__main__":
    main()
