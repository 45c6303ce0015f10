"""A picture of a prediction: the slice with the most evidence for the class, and where the student looked on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from monai.data import MetaTensor
from monai.transforms import Orientation
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from torch import Tensor
from torch.nn import functional as F

from monai_rd.datasets.studies import StudyFiles
from monai_rd.report.explaining import Explanation, explain, grad_cam_level
from monai_rd.report.gallery import overlay, rgb, slices_of

if TYPE_CHECKING:
    from monai_rd.inference import Prediction, Predictor
    from monai_rd.inference.trained import Algorithm

__all__ = ["HeatMap", "Look", "Looks", "explanation_picture", "heat_map", "look", "looks", "picture_of"]

SIZE = (1100, 660)  # pixels: columns, rows
MOST_CLASSES = 6
_LPS = axcodes2ornt(("L", "P", "S"))
_PAPER, _INK, _MUTED, _WARNING = "#000000", "#f2f4f7", "#9aa4b2", "#ffb000"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "text.color": _INK,
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "text.parse_math": False,
}


class Taken(NamedTuple):
    """A slice of those that `SliceStackd` took.

    Args:
        volume: of which it took them, as loaded `[C, X, Y, Z]`.
        number: of the slice, from 0.
        slices: how many it took.
    """

    volume: MetaTensor
    number: int
    slices: int


class Look(NamedTuple):
    """The content of the picture.

    Args:
        pixels: the slice as preprocessed for the network, before resizing; uint8 `[H, W, 3]`.
        heat: heat map of the class `[H, W]` in [0, 1].
        aspect: ratio of the height of a pixel to its width, both in mm.
        name: name of the class.
        place: which image of the source it is, in words.
        source: its place along z of the source as loaded (see `SeriesVolume`); None if it is a cut through several.
        method: how the heat map was made, and its positions, in words.
        value: the class's probability by this slice alone; of a volume the slice's mean heat, 1 in the hottest one.
        way: how the heat map was made, one of `METHODS`.
        taken: where the slice was taken from; None of a student of volumes, which sees slices that no series has.
    """

    pixels: np.ndarray
    heat: np.ndarray
    aspect: float
    name: str
    place: str
    source: int | None
    method: str
    value: float
    way: str
    taken: Taken | None


class HeatMap(NamedTuple):
    """Where a student looked, as a volume in its series.

    Args:
        heat: float32 `[slices, rows, columns]` in [0, 1], in the order of `SeriesVolume`; 0 where the student was shown
            nothing.
        affine: float64 `[4, 4]`, (column, row, slice, 1) to mm in DICOM's LPS.
        series: SeriesInstanceUID.
        name: name of the class.
        way: how it was made, one of `METHODS`.
    """

    heat: np.ndarray
    affine: np.ndarray
    series: str
    name: str
    way: str


class Looks(NamedTuple):
    """All slices that the student was shown.

    Args:
        best: the one with the most evidence for the class, as `look` returns it.
        at: its place among `slices`, from 0.
        slices: in the order in which the student has them, of a volume those of its windows, one after the other; their
            heat maps are on one scale.
    """

    best: Look
    at: int
    slices: tuple[Look, ...]


def explanation_picture(predictor: Predictor, prediction: Prediction) -> np.ndarray:
    """Draw the slice with the most evidence for the most probable class, where the student looked, and the result.

    Args:
        predictor: the predictor that made the prediction.
        prediction: a prediction without a problem, whose files still exist.

    Returns:
        RGB, uint8 `[660, 1100, 3]`. It contains "RESEARCH USE ONLY", and no patient name unless the image itself shows
        one.

    Raises:
        ValueError: a prediction with a problem.
    """
    if prediction.problem:
        raise ValueError(f"study {prediction.id} was not scored ({prediction.problem}): there is nothing to show")
    return picture_of(look(predictor, prediction), prediction, predictor.algorithm)


def look(predictor: Predictor, prediction: Prediction) -> Look:
    """Return what `explanation_picture` draws."""
    given, found = _explained(predictor, prediction, False, lambda: None)
    return _look(predictor, given, found, found.place, found.heat)


def looks(predictor: Predictor, prediction: Prediction, between: Callable[[], None] = lambda: None) -> Looks:
    """Return every slice that the student was shown, each with its heat map.

    Args:
        predictor: see `explanation_picture`.
        prediction: see `explanation_picture`.
        between: called before each step of what may take minutes, see `explain`.
    """
    given, found = _explained(predictor, prediction, True, between)
    assert found.heats is not None
    slices = tuple(_look(predictor, given, found, at, heat) for at, heat in enumerate(found.heats))
    return Looks(_look(predictor, given, found, found.place, found.heat), found.place, slices)


def heat_map(at: int, shown: Sequence[Look]) -> HeatMap | None:
    """Return the heat of all slices of the DICOM series to which one of them belongs; None if it belongs to none.

    Args:
        at: which of them.
        shown: see `looks`.
    """
    taken = shown[at].taken
    if taken is None or taken.volume.meta.get("picture", True):
        return None
    affine = taken.volume.affine.numpy()
    own = io_orientation(affine)
    turn = ornt_transform(own, _LPS)
    upright = np.zeros([taken.volume.shape[1:][axis] for axis in np.argsort(turn[:, 0])], dtype=np.float32)
    for one in shown:
        if one.taken is not None and one.taken.volume is taken.volume:
            upright[:, :, int((one.taken.number + 0.5) * upright.shape[2] / one.taken.slices)] = one.heat.T
    heat = apply_orientation(upright, ornt_transform(_LPS, own))  # [X, Y, Z] as loaded
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return HeatMap(np.ascontiguousarray(heat.T), lps, taken.volume.meta["series_uid"], shown[at].name, shown[at].way)


def _explained(
    predictor: Predictor, prediction: Prediction, every: bool, between: Callable[[], None]
) -> tuple[dict[str, Any], Explanation]:
    """Return the inputs of the preprocessing's steps by their names, and the explanation of their result ("made")."""
    known = predictor.classifier
    given: dict[str, Any] = {}  # each an image, or those of a study's roles
    made: Any = prediction.files if prediction.series else str(prediction.files[0])
    if isinstance(prediction.files, StudyFiles):
        made = prediction.files.images
    for step, image in known.prepare.steps({"image": made}):
        given[type(step).__name__], made = made, image
    network: Any = known.network
    batch = made.as_subclass(Tensor)[None].to(known.device)
    found = explain(network, batch, grad_cam_level(network, batch), known.multi_label, every, between)
    return {**given, "made": made}, found


def _look(predictor: Predictor, given: Mapping[str, Any], found: Explanation, at: int, heat: Tensor) -> Look:
    """Return a slice by its number among all, with its heat map."""
    count = len(slices_of(given["made"], found))
    if "VolumeViewd" in given:
        # The windows [W, D, H, W'] of a role as one stack of slices, which may be more than the network's.
        windows = _by_role(given["ResizeVolumed"])
        role, own_at, own = _own_place(windows, count, at)
        whole = windows[role].as_tensor().flatten(0, 1)
        width, height, _ = predictor.student.parsed("sizes").view_mm
        shown, aspect = whole[int((own_at + 0.5) * len(whole) / own)][None], height / width
        place, source = _joined(role, f"slice {own_at + 1} of {own} of a volume made of all images"), None
        taken = None
    else:
        shown, aspect, place, source, taken = _slice(given, count, at)
    values = found.heat_by_slice if found.slices is None else found.slices[:, found.chosen]
    assert values is not None  # a volume has the one, a bag the other
    method = f"{found.method}, {' x '.join(map(str, found.grid))} positions made smooth"
    heat = F.interpolate(heat[None, None].float(), size=shown.shape[-2:], mode="bilinear")[0, 0]
    name = predictor.classifier.class_names[found.chosen]
    of_slice = float(values[at]), found.method, taken
    return Look(rgb(shown), heat.cpu().numpy(), aspect, name, place, source, method, *of_slice)


def _slice(given: Mapping[str, Any], count: int, at: int) -> tuple[Tensor, float, str, int | None, Taken]:
    """Return a slice `[C, H, W]` before resizing, its aspect and its place, by its number among all slices."""
    stacks = _by_role(given["ResizeImaged"])  # stacks of slices as channels [S * C, H, W]
    role, own_at, own = _own_place(stacks, count, at)
    shown = stacks[role].as_tensor().unflatten(0, (own, -1))[own_at]
    loaded = _by_role(given["SliceStackd"])[role]
    source = _source(loaded, own_at, own)
    of_several = f"slice {own_at + 1} of the {own} it was shown" if own > 1 else ""
    return shown, _aspect(loaded), _joined(role, _image(loaded, source), of_several), source, Taken(loaded, own_at, own)


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


def _joined(*words: str) -> str:
    return ", ".join(one for one in words if one)


def _source(loaded: MetaTensor, at: int, count: int) -> int | None:
    """Return the place along z of slice `at` of the `count` that `SliceStackd` took; None if it cuts across z."""
    if loaded.ndim == 3:
        return 0
    axis, way = io_orientation(loaded.affine.numpy())[2]
    depth = loaded.shape[-1]
    along = int((at + 0.5) * depth / count)
    return None if axis != 2 else along if way > 0 else depth - 1 - along


def _image(loaded: MetaTensor, source: int | None) -> str:
    """Name an image of the source, by the number that viewers show."""
    images = loaded.meta.get("images", ())
    if source is None:
        return "a cut through all images"
    if not images:
        return ""
    number, frame = images[source]
    named = f"InstanceNumber {number}" if number else f"image {source + 1} of {len(images)} (without InstanceNumber)"
    return f"{named}, frame {frame}" if frame else named


def _aspect(image: MetaTensor) -> float:
    """Return the ratio of height to width of a pixel as displayed; for a volume, after reorientation."""
    affine = image.affine
    if image.ndim == 4 and image.shape[-1] > 1:
        turned = Orientation(axcodes="LPS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(image[..., :1])
        affine = turned.affine
    width, height = (float(torch.linalg.vector_norm(affine[:3, axis])) for axis in (0, 1))
    return height / width


def picture_of(shown: Look, prediction: Prediction, algorithm: Algorithm) -> np.ndarray:
    """Draw the picture of `explanation_picture` of what `look` or `looks` has returned."""
    columns, rows = SIZE
    with rc_context(_STYLE):
        figure = Figure(figsize=(columns / 100, rows / 100), dpi=100)
        canvas = FigureCanvasAgg(figure)
        figure.text(0.025, 0.945, "RESEARCH USE ONLY", color=_WARNING, size=17, weight="bold", va="center")
        figure.text(0.29, 0.945, "not for clinical use", color=_WARNING, size=13, va="center")
        figure.text(0.975, 0.945, "not verified", color=_MUTED, size=11, va="center", ha="right")
        pictures = (
            (shown.pixels, "what the network saw"),
            (overlay(shown.pixels, shown.heat), f"what spoke for {shown.name}"),
        )
        for place, (pixels, title) in enumerate(pictures):
            axes = figure.add_axes((0.025 + 0.352 * place, 0.15, 0.34, 0.7))
            axes.imshow(pixels, aspect=shown.aspect, interpolation="bilinear")
            axes.set_axis_off()
            axes.set_anchor("N")
            _fit(figure.text(0.195 + 0.352 * place, 0.875, title, size=11, color=_INK, ha="center", va="center"), 0.34)
        colours = overlay(np.full((256, 1, 3), 64, np.uint8), np.linspace(0, 1, 256)[:, None])[:, 0] / 255  # over grey
        bar = figure.colorbar(
            ScalarMappable(cmap=ListedColormap(colours)), cax=figure.add_axes((0.727, 0.45, 0.012, 0.4))
        )
        bar.set_ticks([0, 1], labels=["none", "most"])
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=_MUTED, labelsize=9, length=0)
        _say(figure, prediction)
        about = f"{algorithm.name}, {algorithm.version}, model {prediction.model[:12]}"
        told = shown.place, f"right: {shown.method}; a hint of the region, no outline", about
        for height, text in zip((0.115, 0.075, 0.035), told, strict=True):
            figure.text(0.025, height, text, size=10, color=_MUTED, va="center")
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _fit(text: Text, width: float) -> Text:
    """Shorten a text of a figure until it takes at most this share of the figure's width."""
    words = text.get_text()
    while len(words) > 1 and text.get_window_extent().width > width * SIZE[0]:
        words = words[:-1]
        text.set_text(f"{words}…")
    return text


def _say(figure: Figure, prediction: Prediction) -> None:
    """Draw the classes with bars of their probabilities on the right."""
    left, width = 0.8, 0.175
    most = sorted(prediction.probabilities.items(), key=lambda one: -one[1])[:MOST_CLASSES]
    figure.text(left, 0.835, "calibrated probability", size=10, color=_MUTED)
    for place, (name, p) in enumerate(most):
        y, said = 0.775 - 0.095 * place, name in prediction.classes
        style: dict[str, Any] = {"size": 12, "weight": "bold" if said else "normal", "color": _INK if said else _MUTED}
        _fit(figure.text(left, y, name, **style), width)
        figure.text(left + width, y - 0.027, f"{p:.3f}", ha="right", va="center", **{**style, "size": 11})
        for share, colour in ((1.0, "#2a3038"), (p, _WARNING if said else _MUTED)):
            figure.add_artist(Rectangle((left, y - 0.034), (width - 0.055) * share, 0.014, color=colour, linewidth=0))
    for place, flag in enumerate(prediction.flags):
        figure.text(left, 0.775 - 0.095 * len(most) - 0.04 * place, f"! {flag}", size=10, color=_WARNING)
