"""The gallery of a report: correct and wrong, sure and unsure test items, and where the student looked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from markupsafe import Markup
from matplotlib import colormaps
from monai.data import DataLoader
from torch import Tensor

from monai_rd.report.explaining import Explanation, explain, grad_cam_level
from monai_rd.report.page import part, picture

if TYPE_CHECKING:
    from monai_rd.networks import Student

__all__ = ["GalleryItem", "choose", "gallery", "overlay", "rgb", "slices_of"]

EACH = 2  # items of each kind
MOST_CLASSES = 5


class GalleryItem(NamedTuple):
    """An item of the gallery.

    Args:
        row: its row in the probabilities.
        kind: why it was chosen.
    """

    row: int
    kind: str


def choose(probabilities: np.ndarray, labels: np.ndarray, multi_label: bool) -> list[GalleryItem]:
    """Choose two items of each kind: clearly correct, barely correct, barely wrong, clearly wrong.

    Multi-label items are hardly ever correct in every class; they are chosen by their mean error over the classes: the
    four with the smallest and the four with the largest.

    Args:
        probabilities: `[N, classes]`.
        labels: `[N]`; multi-label: `[N, classes]`.
        multi_label: whether an image may have any number of classes.
    """
    if multi_label:
        order = np.argsort(np.abs(probabilities - labels).mean(axis=1), kind="stable").tolist()
        near, far = order[: 2 * EACH], order[::-1][: 2 * EACH]
        return [GalleryItem(i, "near the truth") for i in near] + [
            GalleryItem(i, "far from the truth") for i in far if i not in near
        ]
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    right = probabilities.argmax(axis=1)[order] == labels[order]
    found: list[GalleryItem] = []
    for true, sure_first in ((True, True), (True, False), (False, False), (False, True)):
        side = order[right == true].tolist()
        side = side if sure_first else side[::-1]
        kind = f"{'right' if true else 'wrong'}, {'surest' if sure_first else 'least sure'}"
        taken = {shown.row for shown in found}
        found += [GalleryItem(index, kind) for index in [i for i in side if i not in taken][:EACH]]
    return found


def gallery(
    network: Student,
    loader: DataLoader,
    device: torch.device,
    probabilities: np.ndarray,
    labels: np.ndarray,
    indices: np.ndarray,
    class_names: Sequence[str],
    multi_label: bool,
) -> tuple[Markup, Explanation | None]:
    """Make the gallery's markup. Items are identified only by their position in the test list, from 1.

    Args:
        network: the student with its trained weights.
        loader: loader of the test set; the chosen items are loaded again.
        device: where to run.
        probabilities: `[N, classes]`.
        labels: `[N]`; multi-label: `[N, classes]`.
        indices: positions of the N items in the test list, from 0.
        class_names: class names by class index.
        multi_label: whether an image may have any number of classes.

    Returns:
        The markup, and the explanation of the last item, whose method and grid are those of all; None without items.
    """
    network.to(device).eval()
    items: list[dict[str, Any]] = []
    level = None
    found: Explanation | None = None
    for shown in choose(probabilities, labels, multi_label):
        place = int(indices[shown.row])
        batch = loader.collate_fn([loader.dataset[place]])
        image = batch["image"].as_subclass(torch.Tensor).to(device)
        level = level if items else grad_cam_level(network, image)
        found = explain(network, image, level, multi_label)
        items.append(_item(shown.kind, place, image[0], labels[shown.row], found, class_names, multi_label))
    return part("gallery", items=items), found


def _item(
    kind: str,
    place: int,
    image: Tensor,
    label: np.ndarray,
    found: Explanation,
    names: Sequence[str],
    multi_label: bool,
) -> dict[str, Any]:
    """Return the values with which `templates/parts.html` shows an item."""
    chosen = names[found.chosen]
    slices = slices_of(image, found)
    pixels = rgb(slices[found.place])
    told = f"test item {place + 1}"
    hot = overlay(pixels, found.heat.cpu().numpy())
    if multi_label:
        truth = ", ".join(name for name, there in zip(names, label, strict=True) if there) or "none of the classes"
    else:
        truth = names[int(label)]
    likeliest = found.probabilities.argsort(descending=True)[:MOST_CLASSES].tolist()
    return {
        "number": place + 1,
        "kind": kind,
        "pictures": [picture(pixels, told), picture(hot, f"{told}, what spoke for {chosen}")],
        "said": f"most probable: {chosen}" if multi_label else f"says {chosen}",
        "wrong": not multi_label and int(label) != found.chosen,
        "truth": truth,
        "probabilities": [(names[index], float(found.probabilities[index])) for index in likeliest],
        "strip": _strip(found, len(slices), chosen) if len(slices) > 1 else None,
    }


def slices_of(image: Tensor, found: Explanation) -> Tensor:
    """Return the slices `[S, C, H, W]` of an item, those of a volume's windows `[S, D, H, W]` one after the other."""
    if found.slices is None:
        return image.flatten(0, 1)[:, None]
    return image if image.dim() == 4 else image[None]


def rgb(image: Tensor) -> np.ndarray:
    """Convert an image `[1 or 3, H, W]` in [0, 1] to uint8 `[H, W, 3]`."""
    array = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().expand(3, -1, -1)
    return array.permute(1, 2, 0).contiguous().numpy()


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend a heat map in [0, 1] over a picture; transparent where it is 0."""
    colours = colormaps["inferno"](0.25 + 0.7 * heat)[..., :3] * 255
    opacity = 0.7 * np.sqrt(heat)[..., None]
    return (pixels * (1 - opacity) + colours * opacity).round().astype(np.uint8)


def _strip(found: Explanation, count: int, chosen: str) -> tuple[list[float], int, str]:
    """Return a value per slice (its own probability, or its share of a volume's heat), the slice shown, a caption."""
    at, shown = found.place, f"shown: slice {found.place + 1} of {count}"
    if found.slices is not None:
        values = found.slices[:, found.chosen].tolist()
        return values, at, f"{chosen} by each slice alone; {shown}, {values[at]:.2f}"
    assert found.heat_by_slice is not None
    return found.heat_by_slice.tolist(), at, f"heat by slice; {shown}"
