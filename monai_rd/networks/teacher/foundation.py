"""The frozen foundation model: a teacher that computes features and is never trained."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from monai_rd.files import no_room
from monai_rd.finite import NotFiniteError, not_finite
from monai_rd.licences import Origin
from monai_rd.memory import give_back_freed_memory
from monai_rd.networks.bag import fold, unfold
from monai_rd.networks.features import Reads, TeacherFeatures, pool_features, pool_to_grid, to_rows
from monai_rd.networks.levels import Level, LevelReader, Levels, find_levels
from monai_rd.networks.preprocessing import AXES, Preprocessing, VolumePreprocessing
from monai_rd.networks.teacher.probes import ProbeLogits

__all__ = ["ForStore", "FrozenFoundationModel", "add_weights"]

# Voxels that a teacher of volumes is shown at a time: Merlin's 224 x 224 x 160, of which it needs 2.9 GiB. More would
# cost memory and save no time.
_VOXELS = 1 << 23


class ForStore(NamedTuple):
    """The features to store, and what makes of them the features that a method reads.

    Attributes:
        teacher: the teacher that computes them.
        reads: which features of it are read.
        writes: which are stored if one that is read is missing: with a map also its mean, which costs a few percent of
            the space, and with which methods that read only the mean need no pass of the teacher.
        finish: from the stored features of one view, by name, and its item to those that the method reads; None if they
            are the same.
    """

    teacher: FrozenFoundationModel
    reads: Reads
    writes: Reads
    finish: Callable[[Mapping[str, Tensor], Mapping[str, Any]], dict[str, Tensor]] | None = None


class FrozenFoundationModel(nn.Module):
    """A teacher: it maps images to features, is never trained and is in no checkpoint.

    The backbone is not registered as a submodule, so it is not in `parameters()`, `state_dict()`, optimizers, DDP or
    checkpoints; `.to()` and `.cuda()` still move it. It is always in eval mode, and runs under `no_grad` and the
    caller's autocast.

    Args:
        backbone: maps a preprocessed image batch to features. A module is frozen in place. It may also be any other
            callable, such as an ONNX session.
        channels: C of the features.
        kind: "map" for features `[B, C, h, w]` (volumes `[B, C, d, h, w]`), "vector" for `[B, C]`.
        preprocessing: input preprocessing of the backbone; with a `VolumePreprocessing` it is a teacher of volumes.
        name: the teacher's name in errors and logs.
        head: linear layer from pooled features to logits, if the teacher was fitted to the task. It is frozen in place
            and not registered, like the backbone.
        origins: where its weights come from, one for each teacher joined in it.
        probes: the name of the teacher whose backbone this is, if only the head was fitted (a linear probe); else "".

    Attributes:
        spatial_dims: 2 for a teacher of images, 3 for a teacher of volumes.
        parts: number of channels of each teacher joined in it; of a single one its `channels`.

    Raises:
        ValueError: an unknown kind, or fewer than 1 channel.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from monai_rd.networks import FrozenFoundationModel, Preprocessing
        >>> backbone = nn.Conv2d(3, 32, kernel_size=16, stride=16)
        >>> prepare = Preprocessing(size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> teacher = FrozenFoundationModel(backbone, channels=32, kind="map", preprocessing=prepare, name="patches")
        >>> teacher(torch.rand(2, 3, 512, 512)).shape, list(teacher.parameters())
        (torch.Size([2, 32, 14, 14]), [])
    """

    backbone: nn.Module | Callable[[Tensor], Tensor]
    head: nn.Linear | None

    def __init__(
        self,
        backbone: nn.Module | Callable[[Tensor], Tensor],
        *,
        channels: int,
        kind: Literal["map", "vector"],
        preprocessing: Preprocessing | VolumePreprocessing,
        name: str,
        head: nn.Linear | None = None,
        origins: Sequence[Origin] = (),
        probes: str = "",
    ) -> None:
        super().__init__()
        if kind not in ("map", "vector"):
            raise ValueError(f"kind must be 'map' or 'vector', not {kind!r}")
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if isinstance(backbone, nn.Module):
            backbone.requires_grad_(False)
            if preprocessing.spatial_dims == 2:  # 1.0 to 1.3 times as fast on a CPU; of volumes it is not faster
                backbone.to(memory_format=torch.channels_last)
        object.__setattr__(self, "backbone", backbone)
        object.__setattr__(self, "head", head if head is None else head.requires_grad_(False))
        self.channels = channels
        self.parts: tuple[int, ...] = getattr(backbone, "teacher_channels", (channels,))
        self.kind: Literal["map", "vector"] = kind
        self.preprocessing = preprocessing
        self.spatial_dims: Literal[2, 3] = preprocessing.spatial_dims
        self.name = name
        self.origins, self.probes = tuple(origins), probes
        self._levels: Levels | None = None
        self._seen = False
        self.eval()

    def train(self, mode: bool = True) -> FrozenFoundationModel:
        """Stay in eval mode; `mode` has no effect, because MONAI's trainer calls `train()` in every iteration."""
        if isinstance(self.backbone, nn.Module):
            self.backbone.eval()
        return super().train(False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FrozenFoundationModel:
        """Apply `.to()`, `.cuda()` or `.half()` also to the backbone and the head, which are not registered."""
        if isinstance(self.backbone, nn.Module):
            self.backbone._apply(fn, recurse)
        if self.head is not None:
            self.head._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @property
    def levels(self) -> Levels:
        """The feature maps inside the backbone, from the input to the output; empty if none can be read.

        The first access runs the backbone once on noise. A module names candidates by its attributes `stages` (paths of
        submodules) and `prefix` (number of tokens before the grid's). Any other callable has its own attribute `levels`
        and a method `read(image, levels)` that returns its features and the maps of these levels.
        """
        if self._levels is None:
            found: Sequence[Level] = getattr(self.backbone, "levels", ())
            if isinstance(self.backbone, nn.Module):
                stages = getattr(self.backbone, "stages", ())
                found = self._find(self.backbone, stages) if stages else ()
            self._levels = Levels.of(f"teacher '{self.name}'", found)
        return self._levels

    def _find(self, backbone: nn.Module, stages: Sequence[str]) -> tuple[Level, ...]:
        size = self.preprocessing.size or (224 if self.spatial_dims == 2 else 96)
        sides = (size,) * self.spatial_dims if isinstance(size, int) else tuple(size)
        noise = torch.rand(1, 3 if self.spatial_dims == 2 else 1, *sides, generator=torch.Generator().manual_seed(0))
        parameter = next(backbone.parameters())
        inputs = self.preprocessing(noise.to(parameter.device)).to(parameter.dtype)
        return find_levels(backbone, stages, inputs, getattr(backbone, "prefix", 0))

    @torch.no_grad()
    def read(self, image: Tensor, reads: Reads, indices: Tensor | None = None) -> TeacherFeatures:
        """Compute the features that a method needs.

        Args:
            image: see `forward`.
            reads: which features; its levels must be from `levels`.
            indices: position `[B]` of each image in the training list, -1 for images that are not in it. Ignored here;
                a teacher that was fitted in cross-fitting folds needs it.

        Raises:
            ValueError: see `forward`; or logits are needed and the teacher has no head.
        """
        tap, maps = self._run(image, reads.levels)
        pooled = pool_features(tap, self.spatial_dims) if reads.pooled or reads.logits else None
        logits = None
        if reads.logits and pooled is not None:
            if self.head is None:
                raise ValueError(f"the teacher '{self.name}' was not fitted to the task: it gives no logits")
            logits = self.head(pooled.to(self.head.weight.dtype))
        if self.kind == "map":
            tap = pool_to_grid(tap, reads.grid, self.spatial_dims)
        return TeacherFeatures.of(
            tap=tap if reads.tap else None, pooled=pooled if reads.pooled else None, maps=maps, logits=logits
        )

    def rows(self, image: Tensor, reads: Reads, indices: Tensor | None = None) -> dict[str, Tensor]:
        """Compute features as `read` does, and return them by name as a feature store needs them: see `to_rows`."""
        return to_rows(self.read(image, reads, indices), image, self.spatial_dims)

    def for_store(self, reads: Reads) -> ForStore:
        """Return what a feature store keeps for what a method reads.

        All linear probes of a teacher share a store of its own features: pooled ones in place of logits.
        """
        base, finish = self, None
        if self.probes:
            own: dict[str, Any] = {"channels": self.channels, "kind": self.kind, "preprocessing": self.preprocessing}
            base = FrozenFoundationModel(self.backbone, **own, name=self.probes, origins=self.origins)
            if reads.logits:
                finish, reads = self._probe_logits(reads.pooled), replace(reads, logits=False, pooled=True)
        return ForStore(base, reads, replace(reads, pooled=reads.pooled or reads.tap), finish)

    def _probe_logits(self, keep_pooled: bool) -> ProbeLogits:
        assert self.head is not None
        return ProbeLogits(self.name, [self.head], None, keep_pooled)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Compute the features F_t(x).

        Args:
            image: RGB images `[B, 3, H, W]` or bags `[B, S, 3, H, W]` in [0, 1]. For a teacher of volumes S windows
                `[B, S, D, H, W]` in [0, 1], with D from feet to head, H from front to back and W from the patient's
                right to left.

        Returns:
            Maps `[B, C, h, w]` or vectors `[B, C]`; for bags `[B, S, C, h, w]` or `[B, S, C]`; for volumes
            `[B, S, C, d, h, w]` or `[B, S, C]`. Maps have the orientation of the images, whatever the preprocessing.

        Raises:
            ValueError: a wrong shape of the images, or features that do not match `kind` and `channels`.
            NotFiniteError: the first images or features are not finite. Checked on the CPU only; on other devices the
                training's loss finds it.
        """
        return self._run(image, ())[0]

    def _run(self, image: Tensor, levels: Sequence[Level]) -> tuple[Tensor, tuple[Tensor, ...]]:
        images, slices = fold(image, self.spatial_dims)
        many = max(_VOXELS // images[0].numel(), 1) if self.spatial_dims == 3 else len(images)
        features, maps = zip(*(self._features(piece, levels) for piece in images.split(many)), strict=True)
        tap = torch.cat(features)
        if not self._seen and tap.device.type == "cpu":  # on other devices it would cost a synchronisation
            self._seen = True
            self._refuse_not_finite(image, tap)
        if self.kind == "map":
            tap = self.preprocessing.back(tap)
        tap = tap if image.dim() == 4 else unfold(tap, slices)
        return tap, tuple(self.preprocessing.back(torch.cat(level)) for level in zip(*maps, strict=True))

    def _features(self, images: Tensor, levels: Sequence[Level]) -> tuple[Tensor, tuple[Tensor, ...]]:
        inputs = self.preprocessing(images)
        maps: tuple[Tensor, ...] = ()
        if isinstance(self.backbone, nn.Module):
            dtype = next((p.dtype for p in self.backbone.parameters() if p.is_floating_point()), inputs.dtype)
            with LevelReader(self.backbone, levels) as reader:
                features = self.backbone(inputs.to(dtype))
                maps = reader.take()
        elif levels:
            features, maps = self.backbone.read(inputs, levels)  # type: ignore[attr-defined]  # who has levels has read
        else:
            features = self.backbone(inputs)
        positions = ["d", "h", "w"][-self.spatial_dims :] if self.kind == "map" else []
        if features.dim() != 2 + len(positions) or features.shape[:2] != (len(images), self.channels):
            stated = [len(images), self.channels, *positions]
            raise ValueError(
                f"teacher '{self.name}' states a {self.kind} [{', '.join(map(str, stated))}], but its backbone gave "
                f"{list(features.shape)}"
            )
        return features, maps

    def _refuse_not_finite(self, image: Tensor, features: Tensor) -> None:
        if not_finite({"image": image}):
            raise NotFiniteError("the images that the teacher is shown hold values that are infinite or not a number")
        wrong = int((~features.isfinite()).sum())
        if wrong:
            raise NotFiniteError(
                f"the teacher '{self.name}' gives features of which {wrong} of {features.numel()} are infinite or not "
                "a number: its file is damaged or its weights overflow; get it again, or try --amp false"
            )

    def offload(self, folder: str | Path) -> None:
        """Free the memory of weights on the CPU, by mapping them from a file that is read when they are used again.

        Nothing else changes. The file is in `folder`, already unlinked, and vanishes with the teacher.

        Raises:
            OSError: the file could not be written.
        """
        if (offload := getattr(self.backbone, "offload", None)) is not None:  # several teachers joined into one
            offload(folder)
            return
        if not isinstance(self.backbone, nn.Module) or any(
            one.device.type != "cpu" for one in self.backbone.parameters()
        ):
            return
        handle, path = tempfile.mkstemp(dir=folder, suffix=".tmp")
        os.close(handle)
        try:
            with open(path, "wb") as file:  # Python's error says why writing failed, torch.save's does not
                torch.save(self.backbone.state_dict(), file)
            self.backbone.load_state_dict(torch.load(path, mmap=True, weights_only=True), assign=True)
        except (OSError, RuntimeError) as error:
            reason = no_room(error) or str(error)
            raise OSError(f"{folder}: the weights of teacher '{self.name}' could not be written: {reason}") from error
        finally:
            with suppress(PermissionError):  # Windows does not delete open files
                os.unlink(path)
        give_back_freed_memory()

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that features and logits depend on: weights, preprocessing, tap, kind and head.

        For a network in a file, the file's bytes count as its weights. It is computed again in every call, so two
        calls show whether something changed.

        Raises:
            TypeError: the backbone is neither a module nor has a method `fingerprint()`.
        """
        described: list[Any] = [self.kind, self.channels, self.preprocessing.to_dict()]
        if getattr(self.preprocessing, "axcodes", AXES) != AXES:
            described.append("maps lie as the volumes")
        if (tap := getattr(self.backbone, "tap", None)) is not None:
            described.append(asdict(tap))
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        if self.head is not None:
            add_weights(digest, self.head)
        if (own := getattr(self.backbone, "fingerprint", None)) is not None:
            digest.update(own().encode())
        elif isinstance(self.backbone, nn.Module):
            add_weights(digest, self.backbone)
        else:
            raise TypeError(
                f"teacher '{self.name}' is a plain callable: give it a fingerprint() method that returns a str"
            )
        return digest.hexdigest()


def add_weights(digest: Any, module: nn.Module) -> None:
    """Update a `hashlib` hash with the contents of a module's state dict."""
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
