"""Export of the trained student to other runtimes; one module per file format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.export.formats import FORMATS, export_formats

__getattr__ = lazy_names(
    __name__,
    {
        "formats": (
            "FORMATS",
            "export_formats",
        ),
    },
)

__all__ = [
    "FORMATS",
    "export_formats",
]
