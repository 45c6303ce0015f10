"""How much memory is left to a process, by the system and by its control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_rd.memory import available_memory


def _system(root: Path, groups: str, limits: dict[str, dict[str, str]]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 1000 kB\n", "proc/self/cgroup": groups}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for folder, content in limits.items():
        for name, text in content.items():
            (root / "sys/fs/cgroup" / folder).mkdir(parents=True, exist_ok=True)
            (root / "sys/fs/cgroup" / folder / name).write_text(text)
    return root


def _v2(limit: str, used: int, droppable: int) -> dict[str, str]:
    stat = f"anon 1\ninactive_file {droppable}\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat}


def _v1(limit: int, used: int, droppable: int) -> dict[str, str]:
    stat = f"inactive_file 1\ntotal_inactive_file {droppable}\n"
    return {"memory.limit_in_bytes": f"{limit}\n", "memory.usage_in_bytes": f"{used}\n", "memory.stat": stat}


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {}, 1_024_000),
        ("0::/job/step\n", {"job": _v2("max", 5, 1), "job/step": _v2("max", 5, 1)}, 1_024_000),
        ("0::/job/step\n", {"job": _v2("5000", 4000, 300), "job/step": _v2("9000", 10, 0)}, 1300),
        ("0::/../outside\n", {".": _v2("800", 900, 0)}, 0),
        ("4:cpu,memory:/job\n0::/\n", {"memory/job": _v1(7000, 1000, 20), "memory": _v1(2**63 - 4096, 9, 9)}, 6020),
        ("4:memory:/docker/abc\n", {"memory": _v1(600, 100, 0)}, 500),
        ("4:cpuset:/a\n", {"memory": _v1(600, 100, 0)}, 1_024_000),
    ],
    ids=["none", "no limit", "above", "over it", "version 1", "in a container", "another controller"],
)
def test_the_memory_that_is_left(tmp_path: Path, groups: str, limits: dict[str, dict[str, str]], expected: int) -> None:
    assert available_memory(_system(tmp_path, groups, limits)) == expected


def test_the_memory_of_this_machine_and_of_none(tmp_path: Path) -> None:
    if Path("/proc/meminfo").exists():
        assert 10**6 < (available_memory() or 0) < 10**15
    assert available_memory(tmp_path) is None
