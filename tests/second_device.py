"""A device other than the CPU where there is no GPU: see `second_device.cpp`.

It shows that everything is where it must be, that values are those of the CPU, and what waits for the device. It does
not show autocast, pinned memory, streams, several devices, the numbers of a GPU's kernels, nor any time.
"""

from __future__ import annotations

import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing import start_processes  # type: ignore[attr-defined]
from torch.utils import cpp_extension

NAME = "second"
_SOURCE = Path(__file__).with_suffix(".cpp")


def on_second_device(folder: Path, work: Callable[..., None], *args: Any) -> None:
    """Call `work(*args)` in a process that has the device, as none can be taken away again.

    Compiling it takes half a minute; what `folder` has of it is used.
    """
    start_processes(_there, (folder, work, *args), nprocs=1, start_method="forkserver")


def _there(_: int, folder: Path, work: Callable[..., None], *args: Any) -> None:
    _appear(folder)
    work(*args)


def _appear(folder: Path) -> None:
    """Let this process have the device."""
    how: Any = {"build_directory": str(folder), "extra_cflags": ["-O0"], "is_python_module": False}
    cpp_extension.load("second_device", [str(_SOURCE)], **how)
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    for name, answer in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: 1,
        "mem_get_info": lambda device: (1 << 30, 1 << 30),
        "current_device": lambda: 0,
        "manual_seed_all": lambda seed: None,  # its random numbers are the CPU's
        "get_rng_state": lambda device: torch.get_rng_state(),
        "set_rng_state": lambda state, device: None,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "waits": torch.ops.second.waits,
    }.items():
        setattr(module, name, answer)
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()


if __name__ == "__main__":  # python -m tests.second_device FOLDER MODULE WORDS: MODULE in a process that has the device
    _appear(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
