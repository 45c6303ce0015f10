"""A picture of a prediction: the slice with the most evidence for the class, and where the student looked on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from monai.data import MetaTensor
from monai.transforms import Orientation
from torch import Tensor
from torch.nn import functional as F

from monai_rd.datasets.studies import StudyFiles
from monai_rd.report.gallery import overlay, rgb, slices_and_place
from monai_rd.report.gradcam import explain, grad_cam_level

if TYPE_CHECKING:
    from monai_rd.inference import Prediction, Predictor
    from monai_rd.inference.trained import Algorithm

__all__ = ["explanation_picture"]

SIZE = (1100, 660)  # pixels: columns, rows
MOST_CLASSES = 6
_PAPER, _INK, _MUTED, _WARNING = "#000000", "#f2f4f7", "#9aa4b2", "#ffb000"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "text.color": _INK,
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "text.parse_math": False,
}


class _Look(NamedTuple):
    """The content of the picture.

    Args:
        pixels: the slice as preprocessed for the network, before resizing; uint8 `[H, W, 3]`.
        heat: heat map of the class `[H, W]` in [0, 1].
        aspect: ratio of the height of a pixel to its width, both in mm.
        name: name of the class.
        place: which slice it is, in words.
    """

    pixels: np.ndarray
    heat: np.ndarray
    aspect: float
    name: str
    place: str


def explanation_picture(predictor: Predictor, prediction: Prediction) -> np.ndarray:
    """Draw the slice with the most evidence for the most probable class, with and without Grad-CAM, and the result.

    Args:
        predictor: the predictor that made the prediction.
        prediction: a prediction without a problem, whose files still exist.

    Returns:
        RGB, uint8 `[660, 1100, 3]`. It contains "RESEARCH USE ONLY", and no patient name unless the image itself shows
        one.

    Raises:
        ValueError: a prediction with a problem, or a student without a feature map.
    """
    if prediction.problem:
        raise ValueError(f"study {prediction.id} was not scored ({prediction.problem}): there is nothing to show")
    return _draw(_look(predictor, prediction), prediction, predictor.algorithm)


def _look(predictor: Predictor, prediction: Prediction) -> _Look:
    known = predictor.classifier
    given: dict[str, Any] = {}  # the input of a preprocessing step: an image, or those of a study's roles
    made: Any = prediction.files if prediction.series else str(prediction.files[0])
    if isinstance(prediction.files, StudyFiles):
        made = prediction.files.images
    for step, image in known.prepare.steps({"image": made}):
        given[type(step).__name__], made = made, image
    volume = "VolumeViewd" in given
    network: Any = known.network
    batch = made.as_subclass(Tensor)[None].to(known.device)
    level = grad_cam_level(network, batch)
    if level is None:
        raise ValueError(f"no secondary capture: '{network.name}' has no map that shows where it looked")
    found = explain(network, batch, level, known.multi_label)
    assert found.heat is not None
    slices, at = slices_and_place(batch[0], found)
    if volume:
        # The windows [W, D, H, W'] of a role as one stack of slices, which may be more than the network's.
        windows = _by_role(given["ResizeVolumed"])
        role, own_at, own = _own_place(windows, len(slices), at)
        whole = windows[role].as_tensor().flatten(0, 1)
        width, height, _ = predictor.student.parsed("sizes").view_mm
        shown, aspect = whole[int((own_at + 0.5) * len(whole) / own)][None], height / width
        place = _place(role, own_at, own)
    else:
        shown, aspect, place = _slice(given, len(slices), at)
    heat = F.interpolate(found.heat[at][None, None].float(), size=shown.shape[-2:], mode="bilinear")[0, 0]
    return _Look(rgb(shown), heat.cpu().numpy(), aspect, known.class_names[found.chosen], place)


def _slice(given: Mapping[str, Any], count: int, at: int) -> tuple[Tensor, float, str]:
    """Return a slice `[C, H, W]` before resizing, its aspect and its place, by its number among all slices."""
    stacks = _by_role(given["ResizeImaged"])  # stacks of slices as channels [S * C, H, W]
    role, own_at, own = _own_place(stacks, count, at)
    shown = stacks[role].as_tensor().unflatten(0, (own, -1))[own_at]
    return shown, _aspect(_by_role(given["SliceStackd"])[role]), _place(role, own_at, own)


def _by_role(image: Any) -> Mapping[str, Any]:
    return image if isinstance(image, Mapping) else {"": image}


def _own_place(images: Mapping[str, Any], count: int, at: int) -> tuple[str, int, int]:
    """Return the role of a slice, by its number among all; its number among those of the role; and how many they are.

    A role with fewer slices or windows than the largest stands there several times, see `joined`.
    """
    each = count // len(images)
    role = list(images)[at // each]
    own = len(images[role]) * each // max(map(len, images.values()))
    return role, at % each % own, own


def _place(role: str, at: int, count: int) -> str:
    slice_ = f"slice {at + 1} of the {count} it was shown, from inferior to superior" if count > 1 else ""
    return ", ".join(one for one in (role, slice_) if one)


def _aspect(image: MetaTensor) -> float:
    """Return the ratio of height to width of a pixel as displayed; for a volume, after reorientation."""
    affine = image.affine
    if image.ndim == 4 and image.shape[-1] > 1:
        turned = Orientation(axcodes="LPS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(image[..., :1])
        affine = turned.affine
    width, height = (float(torch.linalg.vector_norm(affine[:3, axis])) for axis in (0, 1))
    return height / width


def _draw(look: _Look, prediction: Prediction, algorithm: Algorithm) -> np.ndarray:
    columns, rows = SIZE
    with rc_context(_STYLE):
        figure = Figure(figsize=(columns / 100, rows / 100), dpi=100)
        canvas = FigureCanvasAgg(figure)
        figure.text(0.025, 0.945, "RESEARCH USE ONLY", color=_WARNING, size=17, weight="bold", va="center")
        figure.text(0.29, 0.945, "not for clinical use", color=_WARNING, size=13, va="center")
        figure.text(0.975, 0.945, "not verified", color=_MUTED, size=11, va="center", ha="right")
        pictures = (
            (look.pixels, "what the network saw"),
            (overlay(look.pixels, look.heat), f"what spoke for {_short(look.name, 30)}"),
        )
        for place, (pixels, title) in enumerate(pictures):
            axes = figure.add_axes((0.025 + 0.352 * place, 0.15, 0.34, 0.7))
            axes.imshow(pixels, aspect=look.aspect, interpolation="bilinear")
            axes.set_axis_off()
            axes.set_anchor("N")
            figure.text(0.195 + 0.352 * place, 0.875, title, size=11, color=_INK, ha="center", va="center")
        colours = overlay(np.full((256, 1, 3), 64, np.uint8), np.linspace(0, 1, 256)[:, None])[:, 0] / 255  # over grey
        bar = figure.colorbar(
            ScalarMappable(cmap=ListedColormap(colours)), cax=figure.add_axes((0.727, 0.45, 0.012, 0.4))
        )
        bar.set_ticks([0, 1], labels=["none", "most"])
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=_MUTED, labelsize=9, length=0)
        _say(figure, prediction)
        told = look.place, f"{algorithm.name}, {algorithm.version}, model {prediction.model[:12]}"
        for height, text in zip((0.1, 0.055), told, strict=True):
            figure.text(0.025, height, text, size=10, color=_MUTED, va="center")
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _say(figure: Figure, prediction: Prediction) -> None:
    """Draw the classes with bars of their probabilities on the right."""
    left, width = 0.8, 0.175
    most = sorted(prediction.probabilities.items(), key=lambda one: -one[1])[:MOST_CLASSES]
    figure.text(left, 0.835, "calibrated probability", size=10, color=_MUTED)
    for place, (name, p) in enumerate(most):
        y, said = 0.775 - 0.085 * place, name in prediction.classes
        style: dict[str, Any] = {"size": 12, "weight": "bold" if said else "normal", "color": _INK if said else _MUTED}
        figure.text(left, y, _short(name, 14), **style)
        figure.text(left + width, y, f"{p:.3f}", ha="right", **style)
        for share, colour in ((1.0, "#2a3038"), (p, _WARNING if said else _MUTED)):
            figure.add_artist(Rectangle((left, y - 0.03), width * share, 0.014, color=colour, linewidth=0))
    for place, flag in enumerate(prediction.flags):
        figure.text(left, 0.775 - 0.085 * len(most) - 0.04 * place, f"! {flag}", size=10, color=_WARNING)
