"""A real SLURM of two nodes on this machine, started here: jobs are requeued and killed, and each run is done once."""

from __future__ import annotations

import getpass
import io
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from monai_rd.protocol import cluster
from monai_rd.protocol.runs import Run
from monai_rd.protocol.scheduler import Failure
from tests.protocol.conftest import FakeRun, a_run
from tests.protocol.test_cluster import process_of_job
from tests.protocol.test_scheduler import ROOT, starts
from tests.servers import free_ports
from tests.waiting import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
missing = [name for name in PROGRAMS if shutil.which(name) is None]
pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)}: apt-get install slurmctld slurmd munge"),
]

NODES = ("one", "two")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={place}/munge.socket,cred_expire=5
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=2
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=2000
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=2000
PartitionName=main Nodes=one,two Default=YES
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    """The configuration of a SLURM of two nodes with one core each."""
    place = Path(tempfile.mkdtemp(prefix="slurm"))  # short, as the path of a socket may be
    key, configuration = place / "munge.key", place / "slurm.conf"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o400)
    (place / "state").mkdir()
    known = {"host": socket.gethostname().partition(".")[0], "user": getpass.getuser(), "place": place}
    configuration.write_text(CONFIGURATION.format(ports=free_ports(3), **known))
    munge = [f"--{name}={place}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    programs = [["munged", "--foreground", "--force", f"--key-file={key}", *munge]]
    programs += [["slurmctld", "-D", "-f", str(configuration)]]
    programs += [["slurmd", "-D", "-N", node, "-f", str(configuration)] for node in NODES]
    log = open(place / "log", "wb")  # noqa: SIM115
    running = []
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SLURM_CONF", str(configuration))
        for program in programs:
            running.append(subprocess.Popen(program, stdout=log, stderr=log))
            if program[0] == "munged":
                wait_for((place / "munge.socket").exists)
        wait_for(lambda: subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout.count("idle") == 1)
        yield configuration
        subprocess.run(["scancel", "--me"], check=False)
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=30)
    log.close()
    shutil.rmtree(place)


class Command(threading.Thread):
    """`monai-rd benchmark --launcher slurm`, without the table."""

    def __init__(self, runs: list[Run], out: Path) -> None:
        super().__init__(daemon=True)
        self.runs, self.out, self.shown, self.failures = runs, out, io.StringIO(), list[Failure]()
        self.start()

    def run(self) -> None:
        console = Console(file=self.shown, width=200)
        self.failures = cluster.run_on_slurm(
            self.runs, self.out, "time=30,partition=main,cpus=1,memory=1", None, console
        )

    def ended(self) -> list[Failure]:
        self.join(timeout=200)
        assert not self.is_alive(), self.shown.getvalue()
        return self.failures


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(cluster, "_LOOK", 0.5)
    monkeypatch.setattr(cluster, "_GRACE", 2.0)


def ends(run: Run, out: Path) -> int:
    return len((run.folder(out) / "ends.txt").read_text().splitlines())


@pytest.mark.usefixtures("slurm")
def test_a_grid_that_is_requeued_and_killed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "5")
    runs: list[Run] = [a_run(data, FakeRun, seed=seed) for seed in range(5)]
    command = Command(runs, tmp_path)
    requeued, preempted, killed = runs[:3]
    process_of_job(requeued, tmp_path)
    job = (requeued.folder(tmp_path) / "job.txt").read_text().strip()
    subprocess.run(["scontrol", "requeue", job], check=True)
    os.kill(process_of_job(preempted, tmp_path), signal.SIGUSR2)
    os.kill(process_of_job(killed, tmp_path), signal.SIGKILL)
    (failure,) = command.ended()
    assert failure.run == killed
    assert "was ended from outside" in failure.cause
    assert [run.result(tmp_path) is not None for run in runs] == [True, True, False, True, True]
    assert Command(runs, tmp_path).ended() == []
    assert [starts(run, tmp_path) for run in runs] == [2, 2, 2, 1, 1]
    assert [ends(run, tmp_path) for run in runs] == [1] * 5


@pytest.mark.usefixtures("slurm")
def test_a_second_command_waits_for_the_jobs_of_the_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "4")
    runs: list[Run] = [a_run(data, FakeRun, seed=seed) for seed in range(2)]
    commands = [Command(runs, tmp_path)]
    process_of_job(runs[0], tmp_path)
    commands.append(Command(runs, tmp_path))
    assert [command.ended() for command in commands] == [[], []]
    assert [starts(run, tmp_path) for run in runs] == [1, 1]


@pytest.mark.usefixtures("slurm")
def test_what_slurm_refuses(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"SLURM refused the jobs: .*invalid partition"):
        cluster.run_on_slurm([a_run(data, FakeRun)], tmp_path, "time=5,partition=nowhere", None, Console())
