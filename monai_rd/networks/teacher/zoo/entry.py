"""The description of a published teacher: all that is needed to load it, except its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from monai_rd.licences import CommercialUse
from monai_rd.networks.preprocessing import Preprocessing, VolumePreprocessing

__all__ = ["Hub", "TeacherEntry"]


@dataclass(frozen=True)
class Hub:
    """A file on the Hugging Face Hub.

    Args:
        repo: "owner/name".
        file: path of the file in the repository.
        repo_type: "model" or "dataset".
        revision: a commit, or a branch; a branch's commit is recorded at the first download and used from then on.
        sha256: of the file, 64 hex digits; None: recorded at the first download.
        alternatives: other paths that the file may have in the repository.

    Example:
        >>> from monai_rd.networks.teacher.zoo import TEACHERS, Hub
        >>> TEACHERS["ct_fm"].hub == Hub("project-lighter/ct_fm_feature_extractor", "model.safetensors")
        True
    """

    repo: str
    file: str
    repo_type: Literal["model", "dataset"] = "model"
    revision: str = "main"
    sha256: str | None = None
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class TeacherEntry:
    """The description of a published teacher.

    Args:
        name: the teacher's name in the zoo.
        builder: library and name of the network, such as "timm:densenet121".
        arguments: keyword arguments of the builder. They can be overridden: `load_teacher(name, file, key=value)`.
        preprocessing: input preprocessing of the network.
        channels: C of the features.
        kind: "map" for the last feature map, "vector" for its mean over positions.
        licence: of the weights, in a word or two.
        source: where the weights are published.
        renamed: regular expressions in published keys and their replacements, applied in this order (`re.sub`).
        ignored: regular expressions of published keys that are not loaded (`re.match`), and what these belong to.
        converter: name of a function in `weights.CONVERTERS`, for conversions beyond renaming.
        lookalikes: regular expressions of keys (`re.match`) that identify a wrong file, and what that file is. It is
            refused even if its tensors would fit.
        terms: further conditions of use.
        modality: the training data, in a few words.
        tap: where the features are read, in words.
        grid: spatial size of the feature map for inputs of the size in `preprocessing`; if that is None, for a cube of
            `OWN_SIZE` voxels.
        params: number of loaded parameters, in millions.
        gmacs: multiply-accumulates (10^9) of convolutions, linear layers and attention for one image or volume.
        gated: whether the source requires an account and consent.
        non_commercial: whether the licence forbids commercial use.
        window: Hounsfield units that correspond to 0 and 1 in its images or volumes.
        spacing: of its training volumes, in mm between voxels along D, H and W of volumes `[B, 1, D, H, W]` as they are
            before the preprocessing ("SPL"); None if the authors state none, as when they resize to a fixed number of
            voxels.
        file: name of the published file.
        hub: where the file can be downloaded; None if it must be fetched by hand.
        citation: the paper.
        numerics: the independent implementation that its features are compared with in the tests; "" if there is none.
        unverified: which parts of this description could not be checked.

    Example:
        >>> from monai_rd.networks.teacher.zoo import TEACHERS
        >>> entry = TEACHERS["retfound"]
        >>> entry.builder, entry.input_shape, (entry.channels, *entry.grid)
        ('timm:vit_large_patch16_224', (3, 224, 224), (1024, 14, 14))
        >>> entry.licence
        'CC BY-NC 4.0'
    """

    name: str
    builder: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing | VolumePreprocessing
    channels: int
    kind: Literal["map", "vector"]
    licence: str
    source: str
    renamed: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    converter: str = ""
    lookalikes: dict[str, str] = field(default_factory=dict)
    terms: str = ""
    modality: str = ""
    tap: str = "last feature map"
    grid: tuple[int, ...] = ()
    params: float = 0.0
    gmacs: float = 0.0
    gated: bool = False
    non_commercial: bool = False
    window: tuple[float, float] | None = None
    spacing: tuple[float, float, float] | None = None
    file: str = ""
    hub: Hub | None = None
    citation: str = ""
    numerics: str = ""
    unverified: str = ""

    OWN_SIZE: ClassVar[int] = 96

    @property
    def conditions(self) -> str:
        """Licence and terms of use, in one line."""
        special = (
            "no commercial use" if self.non_commercial else "",
            "its owner gives it to those who asked" if self.gated else "",
            self.terms,
        )
        return "; ".join(word for word in (self.licence, *special) if word)

    @property
    def commercial_use(self) -> CommercialUse:
        """What the licence says of commercial use, see `Origin`."""
        if self.non_commercial:
            return "forbidden"
        if self.licence == "unknown":
            return "unknown"
        return "unverified" if re.search(r"\b(licence|terms)\b", self.unverified) else "allowed"

    @property
    def centre_and_width(self) -> tuple[float, float] | None:
        """Centre and width of `window`, as `HounsfieldWindowsd` takes them; None if there is none."""
        if self.window is None:
            return None
        lower, upper = self.window
        return (lower + upper) / 2, upper - lower

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one preprocessed image or volume: `(channels, ...)`."""
        size = self.preprocessing.size or self.OWN_SIZE
        sides = (size,) * self.preprocessing.spatial_dims if isinstance(size, int) else tuple(size)
        grey = isinstance(self.preprocessing, VolumePreprocessing) or self.preprocessing.channel_order == "GRAY"
        return (1 if grey else 3, *sides)
