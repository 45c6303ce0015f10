"""The style of figures, and writing them to files.

One plain style: the colours of Okabe and Ito (2008), which people with colour blindness can distinguish, no top and
right spines, and text that is readable at 100 %. Text, lines and background use the four colours of `THEME`, so that a
page can replace them for a dark screen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from monai_rd.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BLUES", "COLOURS", "STYLE", "THEME", "cycle", "finish", "line_styles", "save_figure", "short"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
THEME = {"ink": "#1c2430", "muted": "#66707f", "grid": "#dfe3e8", "paper": "#ffffff"}
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": THEME["muted"],
    "axes.grid": True,
    "axes.labelcolor": THEME["ink"],
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": THEME["ink"],
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.facecolor": THEME["paper"],
    "font.size": 9.5,
    "grid.color": THEME["grid"],
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": THEME["ink"],
    "lines.linewidth": 1.8,
    "savefig.facecolor": THEME["paper"],
    "svg.fonttype": "none",  # text stays text: small, selectable, in the font of the page
    "svg.hashsalt": "monai_rd",
    "text.color": THEME["ink"],
    "text.parse_math": False,  # a $ in a name is a $
    "xtick.color": THEME["muted"],
    "xtick.labelsize": 9,
    "ytick.color": THEME["muted"],
    "ytick.labelsize": 9,
}
# Light to dark in one hue, so that it is readable in greyscale too.
BLUES = LinearSegmentedColormap.from_list("blues", ("#f3f7fb", "#9cc4e4", "#0072b2", "#00334f"))


def save_figure(figure: Figure, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write `STEM.png` (200 dpi) and `STEM.svg`, each atomically; the same figure gives the same bytes.

    Args:
        figure: a figure made under `STYLE`, like those of `monai_rd.report.figures`.
        stem: path of the files without suffix.

    Returns:
        The two paths.
    """
    png, svg = (Path(f"{os.fspath(stem)}.{kind}") for kind in ("png", "svg"))
    with rc_context(STYLE):
        with atomic_path(png) as beside:
            figure.savefig(beside, format="png", dpi=200, metadata={"Software": None})
        figure.set_layout_engine("none")  # computed once, not again for each file
        with atomic_path(svg) as beside:
            figure.savefig(beside, format="svg", metadata={"Date": None, "Creator": None})
    return png, svg


def finish(axes: Axes, title: str, x: str, y: str = "", legend: bool = True) -> None:
    """Set the title and axis labels, and a legend if there are labelled lines."""
    axes.set(xlabel=x, ylabel=y)
    if title:
        axes.set_title(title)
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


def cycle(n: int) -> list[str]:
    """Return the colours of `n` lines."""
    return [COLOURS[index % len(COLOURS)] for index in range(n)]


def line_styles(n: int) -> list[Any]:
    """Return `n` dash styles, so that lines that overlap are all visible."""
    return [("-", (0, (4, 3)), (0, (1, 2)))[index % 3] for index in range(n)]


def short(name: str, most: int) -> str:
    """Shorten a name to at most `most` characters, for display by matplotlib."""
    name = f"\u200b{name}" if name.startswith("_") else name  # matplotlib omits such names from legends
    return name if len(name) <= most else f"{name[: most - 1]}…"
