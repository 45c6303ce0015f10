"""Which names of scanners may be shown: a header may hold a person's name where a manufacturer belongs."""

from __future__ import annotations

import re

__all__ = ["maker_known"]

_MAKERS = re.compile(
    "agfa|analogic|bruker|canon|carestream|elscint|esaote|fuji|ge |ge$|general electric|hitachi|hologic|imatron|"
    "konica|kodak|marconi|mindray|minfound|monai_rd|neusoft|picker|philips|samsung|shimadzu|siemens|sonosite|"
    "supersonic|toshiba|uih|united imaging|varian|ziehm",
    re.IGNORECASE,
)


def maker_known(scanner: str) -> bool:
    """Whether a scanner's name (manufacturer and model) begins with a manufacturer that we know.

    Example:
        >>> from monai_rd.scanners import maker_known
        >>> maker_known("Philips Brilliance 64"), maker_known("Doe^Jane")
        (True, False)
    """
    return _MAKERS.match(scanner) is not None
