"""What is known of a published teacher besides its weights, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from monai_rd.networks.preprocessing import Preprocessing, VolumePreprocessing

__all__ = ["Hub", "TeacherEntry"]


@dataclass(frozen=True)
class Hub:
    """A file on the Hugging Face Hub.

    Args:
        repo: "owner/name".
        file: its path there.
        repo_type: "model" or "dataset".
        revision: a commit, or a branch whose commit is written down at first use.
        sha256: of the file, 64 hex digits; None: written down at first use.
        alternatives: other names that the file may have there.
    """

    repo: str
    file: str
    repo_type: Literal["model", "dataset"] = "model"
    revision: str = "main"
    sha256: str | None = None
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class TeacherEntry:
    """A teacher.

    Args:
        name: how users call it.
        builder: the library and the network's name in it, such as "timm:densenet121".
        arguments: keyword arguments of the builder. A user may change them: `load_teacher(name, file, key=value)`.
        preprocessing: how the network wants its images.
        channels: C of its features.
        kind: "map" gives the last feature map, "vector" its average over positions.
        licence: of the weights, in a word or two.
        source: where the weights are published.
        renamed: regular expressions in published keys and what takes the place of every match, applied in this order.
        ignored: regular expressions at the start of published keys that are not loaded, and what they belong to.
        converter: name of a function in `weights.CONVERTERS`, for what renaming cannot say.
        lookalikes: regular expressions at the start of keys that betray another file, and what that file is. It is
            refused even where its tensors would fit.
        terms: what else has to be known before its use.
        modality: what it was trained on, in a few words.
        tap: where the features are read, in words.
        grid: positions of the feature map, at the size that `preprocessing` gives; of teachers that keep a volume's own
            size, for a cube of `OWN_SIZE` voxels.
        params: millions of parameters that are loaded.
        gmacs: multiplications and additions (10^9) of convolutions, linear layers and attention for one image.
        gated: the source asks for an account and consent.
        non_commercial: the licence forbids commercial use.
        window: Hounsfield units that 0 and 1 of its volumes stand for.
        file: name of the published file.
        hub: where it can be downloaded, None where it has to be fetched by hand.
        citation: the paper.
        numerics: the independent construction whose features its own equal in the tests; "" where there is none.
        unverified: what of all this nobody here could check.
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
    file: str = ""
    hub: Hub | None = None
    citation: str = ""
    numerics: str = ""
    unverified: str = ""

    OWN_SIZE: ClassVar[int] = 96

    @property
    def conditions(self) -> str:
        """Licence and terms in a line."""
        special = (
            "no commercial use" if self.non_commercial else "",
            "its owner gives it to those who asked" if self.gated else "",
            self.terms,
        )
        return "; ".join(word for word in (self.licence, *special) if word)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one prepared image: channels and sides."""
        size = self.preprocessing.size or self.OWN_SIZE
        sides = (size,) * self.preprocessing.spatial_dims if isinstance(size, int) else tuple(size)
        grey = isinstance(self.preprocessing, VolumePreprocessing) or self.preprocessing.channel_order == "GRAY"
        return (1 if grey else 3, *sides)
