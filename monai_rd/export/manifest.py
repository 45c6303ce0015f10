"""Manifest of an exported student: input, preprocessing, output, scope and identity of the model."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from monai_rd.inference.decision import Decision
from monai_rd.versions import versions

if TYPE_CHECKING:
    from monai_rd.inference import TrainedBundle

__all__ = ["manifest", "network_metadata"]

_ROLES = (
    "the slices or windows of a study's roles, one role after the other, the same number for each (those of a role "
    "with fewer, such as a single picture, are repeated); a role that the study lacks is left out; the mean over them "
    "is then the mean over the roles"
)
_DECISION = (
    "an answer is in a set if its probability, rounded to 7 decimals, is at least its limit; one set of classes, "
    "or for several labels an image one for each class, of absent (1 - probability) and present. With grouped_by, "
    "studies have the sets of_groups of their scanner (manufacturer and model, as in the header) or site, by its name "
    "or the first 12 hexadecimal digits of the SHA-256 of its name in UTF-8, and the others `sets`. With "
    "operating points, of two classes the second is said, or of several labels each, if its probability is at least "
    "its threshold"
)
_VERSIONS = {"monai": "monai", "pytorch": "torch", "numpy": "numpy"}
# Attributes of a step that concern the item and its errors, not the pixels.
_NOT_OF_PIXELS = {"keys", "allow_missing_keys", "policy", "scope"}


def manifest(trained: TrainedBundle) -> dict[str, Any]:
    """Return the description, as a JSON object, of an export from `image` to `probabilities`.

    Everything in it is read from the bundle's transforms as inference.json builds them, from its metadata.json and from
    the training's settings. `preprocessing` lists the steps from a file to the input in order.
    """
    first = "slices" if trained.network.spatial_dims == 2 else "windows"
    shape = ["batch", first, *trained.image_shape[1:]]
    given = trained.metadata["network_data_format"]["inputs"]["image"]
    roles = trained.series_roles
    several = {} if roles is None else {"roles": {"does": _ROLES, **roles["roles"]}}
    return {
        "name": trained.metadata["name"],
        "intended_use": trained.metadata["intended_use"],
        "input": {
            "name": "image",
            "modality": given["modality"],
            "dtype": "float32",
            "shape": shape,
            "value_range": given["value_range"],
            **several,
        },
        "preprocessing": [step for one in trained.parsed("preprocessing").transforms if (step := _step(one))],
        "output": {
            "name": "probabilities",
            "dtype": "float32",
            "shape": ["batch", len(trained.class_names)],
            "class_names": trained.class_names,
            "activation": f"{'sigmoid' if trained.multi_label else 'softmax'}, already applied",
            "temperature": f"{float(trained.network.temperature):.6g}, already applied",
        },
        "decision": {"does": _DECISION, **Decision.of(trained.trained["decision"], trained.algorithm.sha256).stored()},
        "scope": trained.trained["scope"],
        "licences": dict(trained.licences),
        "model": {
            "student": trained.network.name,
            "sha256": trained.algorithm.sha256,
            "settings_sha256": trained.algorithm.settings,
        },
        "versions": versions(),
    }


def network_metadata(trained: TrainedBundle) -> dict[str, Any]:
    """Return the bundle's metadata.json for the trained student.

    Input and classes are those of the student, not of the default; with a model card also its versions, data, licences
    and results (`eval_metrics`: `value`, 95 % `interval` where there is one, and `n`).
    """
    volumes = trained.network.spatial_dims == 3
    size = list(trained.image_shape[1:] if volumes else trained.image_shape[2:])
    channels = 1 if volumes else 3
    metadata = deepcopy(trained.metadata)
    image, pred = (
        metadata["network_data_format"][way][name] for way, name in (("inputs", "image"), ("outputs", "pred"))
    )
    shown = [image["channel_def"][str(channel)] for channel in range(channels)]
    for transform in trained.parsed("preprocessing").transforms:
        if type(transform).__name__ == "HounsfieldWindowsd":
            edges = [(centre - width / 2, centre + width / 2) for centre, width in transform.windows]
            shown = [f"0 to 1 is {low:g} to {high:g} HU" for low, high in edges] * (channels // len(edges))
    image |= {"num_channels": channels, "spatial_shape": size, "channel_def": _numbered(shown)}
    count = len(trained.class_names)
    pred |= {"num_channels": count, "spatial_shape": [1, count], "channel_def": _numbered(trained.class_names)}
    metadata |= {"model_sha256": trained.algorithm.sha256, "licences": dict(trained.licences)}
    try:
        card = trained.card
    except ValueError:  # `licences` says so
        return metadata
    found = card["results"]["student"]
    measured = {name: one for name, one in found.items() if isinstance(one, dict)}
    known = {f"{key}_version": card["versions"][name] for key, name in _VERSIONS.items()}
    return metadata | known | {"data_source": card["data"]["in_words"], "eval_metrics": measured}


def _numbered(names: list[str]) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names)}


def _step(transform: Any) -> dict[str, Any] | None:
    """Describe one step of the preprocessing; None for a step that only checks."""
    name = type(transform).__name__
    if name in _CHECKS:
        return None
    summary = " ".join((inspect.getdoc(type(transform)) or "").partition("\n\n")[0].split())
    own = type(transform).__module__.startswith("monai_rd.")
    settings = {key: value for key, value in vars(transform).items() if own and _tells(key, value)}
    more = _MORE[name](transform) if name in _MORE else {}
    return {"step": name, "does": more.pop("does", summary), **settings, **more}


def _tells(name: str, value: Any) -> bool:
    if name.startswith("_") or name in _NOT_OF_PIXELS:
        return False
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _load(transform: Any) -> dict[str, Any]:
    pictures = "in the window of the file, 0 to 255" if transform.window else "by the rescale of the file, no window"
    return {
        "does": f"DICOM of CT, PT, NM: stored values by the rescale of the file (CT: HU); other DICOM: {pictures}, "
        "white on black; slices of a series in order of their position; NIfTI, MetaImage, NRRD: values as they are; "
        "pictures: as a viewer shows them, 0 to 255"
    }


def _slices(transform: Any) -> dict[str, Any]:
    from monai_rd.transforms.bag import luminance

    rows = {"slices": "inferior to superior", "rows": "anterior to posterior", "columns": "patient's right to left"}
    weights = luminance(torch.eye(3, dtype=torch.float64)).flatten().tolist()
    return {
        "does": "the slices of a volume that are taken, turned so; an image is one slice, rows and columns as shown",
        "taken": "floor((i + 0.5) * depth / slices) for i = 0 ... slices - 1",
        "orientation": rows,
        **({} if transform.colour else {"grey_of_rgb": weights}),
    }


def _view(transform: Any) -> dict[str, Any]:
    lengths = {"field_mm": transform.field_mm, "voxels": transform.size}
    return {
        "does": "a field around the extent of the region (0.5 to 99.5 % quantile of its positions; rule "
        "in monai_rd.transforms.regions); a region more than 1.1 times as long as the field: the least power of two "
        "of windows that overlap by a quarter, evenly spread over it; axes slices inferior to superior, rows anterior "
        "to posterior, columns the patient's right to left; values below `empty` are raised to it; along each axis a "
        "triangle as wide as two voxels of the larger spacing, its weights divided by their sum; voxels whose centre "
        "is outside of the volume are `empty` (0 unless the values are HU)",
        **lengths,
    }


def _resize_volume(transform: Any) -> dict[str, Any]:
    return {"does": "nothing to a volume of that size; else resampled in the same field, by triangles as above"}


def _windows(transform: Any) -> dict[str, Any]:
    return {
        "does": "HU of each window [centre, width] to clip((value - centre) / width + 0.5, 0, 1); 8-bit images, which "
        "are taken to be shown in the window already: value / 255"
    }


def _resize(transform: Any) -> dict[str, Any]:
    return {
        "does": "nothing to an image of that size; else a Gaussian of sigma = max(old / new - 1, 0) / 2 pixels along "
        "each axis: weights at k = -r ... r, r = floor(max(4 sigma, 0.5) + 0.5), are the normal distribution's mass "
        "between k - 0.5 and k + 0.5, outside the image is 0; then linear interpolation at "
        "(i + 0.5) * old / new - 0.5, within 0 and old - 1",
        "size": transform.size,
    }


def _display(transform: Any) -> dict[str, Any]:
    return {"does": "value / 255"}


def _mr(transform: Any) -> dict[str, Any]:
    n4 = "; then divided by the bias field of N4 (see the code), and the same once more" if transform.n4 else ""
    return {
        "does": "grey of the whole volume: low is the percentile `lower` of all values, high the percentile `upper` of "
        f"those above their mean; clip((value - low) / (high - low), 0, 1){n4}"
    }


def _bag(transform: Any) -> dict[str, Any]:
    return {"does": "the windows or colours of a slice are its 3 channels; a single one is all three; a volume has one"}


_CHECKS = ("HeaderInScoped", "IntensitiesInScoped")  # what they check is in `scope`
# Details that the settings of a step and the first sentence of its docstring do not give.
_MORE: dict[str, Callable[[Any], dict[str, Any]]] = {
    "LoadImageOrSeriesd": _load,
    "SliceStackd": _slices,
    "HounsfieldWindowsd": _windows,
    "ResizeImaged": _resize,
    "ResizeVolumed": _resize_volume,
    "VolumeViewd": _view,
    "DisplayIntensityd": _display,
    "MRIntensityd": _mr,
    "ChannelsToBagd": _bag,
}
