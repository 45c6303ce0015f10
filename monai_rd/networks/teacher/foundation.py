"""The frozen foundation model: a black-box teacher that gives features and takes no gradient."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from monai_rd.files import no_room
from monai_rd.finite import NotFiniteError, not_finite
from monai_rd.memory import give_back_freed_memory
from monai_rd.networks.bag import fold, unfold
from monai_rd.networks.features import Reads, TeacherFeatures, pool_features, pool_to_grid, to_rows
from monai_rd.networks.levels import Level, LevelReader, Levels, find_levels
from monai_rd.networks.preprocessing import AXES, Preprocessing, VolumePreprocessing

__all__ = ["FrozenFoundationModel", "add_weights"]


class FrozenFoundationModel(nn.Module):
    """A teacher: images to features, never trained and in no checkpoint.

    The backbone is kept out of PyTorch's register of submodules, so `parameters()`, `state_dict()`, optimizers, DDP and
    checkpoints see nothing of it; `.to()` and `.cuda()` move it all the same. It stays in eval mode whatever `train()`
    is told, and runs under `no_grad` in the caller's autocast.

    Args:
        backbone: from a preprocessed image batch to features. A module is frozen in place; any other callable, such as
            an ONNX session, is taken as it is.
        channels: C of the features.
        kind: "map" for features `[B, C, h, w]`, of volumes `[B, C, d, h, w]`; "vector" for `[B, C]`.
        preprocessing: how the backbone wants its images; a `VolumePreprocessing` makes it a teacher of volumes.
        name: what errors and logs call it.
        head: of a teacher that was fitted to the task the linear layer from its pooled features to logits, which is
            frozen in place and kept out of the register like the backbone.

    Attributes:
        spatial_dims: 2 for a teacher of images, 3 for one of volumes.

    Raises:
        ValueError: an unknown kind, or fewer than 1 channel.
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
    ) -> None:
        super().__init__()
        if kind not in ("map", "vector"):
            raise ValueError(f"kind must be 'map' or 'vector', not {kind!r}")
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if isinstance(backbone, nn.Module):
            backbone.requires_grad_(False)
        object.__setattr__(self, "backbone", backbone)
        object.__setattr__(self, "head", head if head is None else head.requires_grad_(False))
        self.channels = channels
        self.kind: Literal["map", "vector"] = kind
        self.preprocessing = preprocessing
        self.spatial_dims: Literal[2, 3] = preprocessing.spatial_dims
        self.name = name
        self._levels: Levels | None = None
        self._seen = False
        self.eval()

    def train(self, mode: bool = True) -> FrozenFoundationModel:
        """Stay in eval mode, whatever is asked: MONAI's trainer calls `train()` every iteration."""
        if isinstance(self.backbone, nn.Module):
            self.backbone.eval()
        return super().train(False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FrozenFoundationModel:
        """Take the unregistered backbone along wherever `.to()`, `.cuda()` or `.half()` go."""
        if isinstance(self.backbone, nn.Module):
            self.backbone._apply(fn, recurse)
        if self.head is not None:
            self.head._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @property
    def levels(self) -> Levels:
        """The maps inside the backbone, from the input to the output; empty where none can be read.

        They are found at the first question, by one run on noise. A module says by `stages` (paths of submodules) and
        `prefix` (tokens before the grid) where to look; another callable has `levels` of its own and
        `read(image, levels)`, which gives its features and their maps.
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
        """What a method reads of images as `forward` takes them.

        Args:
            image: see `forward`.
            reads: what; its levels are of `levels`.
            indices: of the images in the training list `[B]`, -1 for others. A teacher that was fitted in folds must
                know them; to one alone all are alike.

        Raises:
            ValueError: see `forward`, or logits of a teacher without a head.
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
        """What `read` reads, by part, as a feature store keeps it: see `to_rows`."""
        return to_rows(self.read(image, reads, indices), image, self.spatial_dims)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Features of images `[B, 3, H, W]` or bags `[B, S, 3, H, W]`, RGB in [0, 1].

        Maps lie as the images do, however the backbone wants them turned.

        A teacher of volumes takes `[B, 1, D, H, W]` in [0, 1], along the feet to the head, the front to the back and
        the patient's right to left.

        Returns:
            Maps `[B, C, h, w]` or vectors `[B, C]`; of bags `[B, S, C, h, w]` or `[B, S, C]`; of volumes
            `[B, C, d, h, w]` or `[B, C]`.

        Raises:
            ValueError: images of another shape, or features other than `kind` and `channels` state.
            NotFiniteError: the first images or features are not finite; on another device than the CPU that is found by
                the training's loss.
        """
        return self._run(image, ())[0]

    def _run(self, image: Tensor, levels: Sequence[Level]) -> tuple[Tensor, tuple[Tensor, ...]]:
        images, slices = fold(image) if self.spatial_dims == 2 else (image, 1)
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
        if not self._seen and features.device.type == "cpu":  # another device would be waited for in a training step
            self._seen = True
            self._refuse_not_finite(image, features)
        if self.kind == "map":
            features = self.preprocessing.back(features)
        tap = features if image.dim() == 4 or self.spatial_dims == 3 else unfold(features, slices)
        return tap, tuple(map(self.preprocessing.back, maps))

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
        """Give the memory of weights on the CPU back until they are used again, when they are read from a file.

        Nothing else changes. The file lies in `folder` without a name, and goes with the teacher.

        Raises:
            OSError: the file could not be written.
        """
        if (offload := getattr(self.backbone, "offload", None)) is not None:  # of several
            offload(folder)
            return
        if not isinstance(self.backbone, nn.Module) or any(
            one.device.type != "cpu" for one in self.backbone.parameters()
        ):
            return
        handle, path = tempfile.mkstemp(dir=folder, suffix=".tmp")
        os.close(handle)
        try:
            with open(path, "wb") as file:  # of Python's, whose error says why
                torch.save(self.backbone.state_dict(), file)
            self.backbone.load_state_dict(torch.load(path, mmap=True, weights_only=True), assign=True)
        except (OSError, RuntimeError) as error:
            reason = no_room(error) or str(error)
            raise OSError(f"{folder}: the weights of teacher '{self.name}' could not be written: {reason}") from error
        finally:
            with suppress(PermissionError):  # Windows keeps a file that is open
                os.unlink(path)
        give_back_freed_memory()

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides features and logits: weights or file bytes, preprocessing, tap, kind, head.

        It is computed anew at every call, so that two calls show whether anything moved; keep the answer to use it as a
        key.

        Raises:
            TypeError: the backbone is a callable that is neither a module nor has a `fingerprint()` of its own.
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
    """Add all that a module's state dict holds to a hash of `hashlib`."""
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
