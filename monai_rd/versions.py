"""Versions and machine that results depend on in addition to their settings."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

__all__ = ["code_hash", "versions"]


def versions() -> dict[str, str]:
    """Return the versions of this package (with a hash of its code), Python and main dependencies, and the machine."""
    import torch

    from monai_rd import __version__

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return {
        "monai_rd": __version__,
        "code": code_hash(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "monai", "timm", "numpy")},
        "machine": f"{platform.machine()}, {device}",
    }


@cache
def code_hash() -> str:
    """Return 12 hex digits of the SHA-256 of the package's source code."""
    transforms = find_spec("monai_rd.transforms")  # importing it would import MONAI
    assert transforms is not None
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, *map(Path, transforms.submodule_search_locations or ())):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
