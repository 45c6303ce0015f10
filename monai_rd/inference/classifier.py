"""Scoring a study with a student: prepare the image, infer probabilities, make a `Prediction`.

All code that scores studies uses this file: bundle inference, `monai-rd predict`, MONAI Label and MONAI Deploy use
`StudyClassifier`; the report of a training and Grad-CAM, which already have images, use `infer` and `infer_features`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_rd.cache.tolerant import TolerantDataset
from monai_rd.datasets.studies import files_of_item
from monai_rd.inference.decision import Decision
from monai_rd.inference.facts import study_facts
from monai_rd.inference.prediction import Prediction
from monai_rd.losses import class_probabilities
from monai_rd.transforms import bag_collate

if TYPE_CHECKING:
    from ignite.engine import Engine
    from monai.transforms import Compose, Transform

    from monai_rd.networks import Student

__all__ = ["Inferred", "Preparation", "StudyClassifier", "infer", "infer_features"]

Prepared = dict[str, Any]
Network = Callable[[Tensor], Tensor]


class Inferred(NamedTuple):
    """Calibrated probabilities in [0, 1] of studies and of their slices.

    Attributes:
        study: `[B, classes]`, or `[classes]` for one study.
        slices: of each slice alone, `[B, S, classes]`, or `[S, classes]` for one study; None for volumes. The logits of
            a study are exactly the mean of the logits of its slices, because the classifier is linear.

    Example:
        >>> import torch
        >>> from monai_rd.inference import infer
        >>> from monai_rd.networks import Student
        >>> found = infer(Student("resnet18", num_classes=2).eval(), torch.rand(1, 4, 3, 64, 64))
        >>> type(found).__name__, found.study.shape, found.slices.shape
        ('Inferred', torch.Size([1, 2]), torch.Size([1, 4, 2]))
    """

    study: Tensor
    slices: Tensor | None


def infer_features(student: Student, features: Tensor, multi_label: bool = False) -> Inferred:
    """Compute probabilities from a student's features.

    Args:
        student: a `Student`, or its TorchScript.
        features: output of `Student.slice_features`, `[B, S, D]`.
        multi_label: whether an image may have several classes or none.
    """
    study = class_probabilities(student.logits(features.mean(dim=1)), multi_label)
    if student.spatial_dims == 3:
        return Inferred(study, None)
    of_slices = class_probabilities(student.logits(features).flatten(0, 1), multi_label)
    return Inferred(study, of_slices.unflatten(0, features.shape[:2]))


def infer(network: Network, image: Tensor, multi_label: bool = False, amp: bool = False) -> Inferred:
    """Compute the probabilities of a batch of studies.

    Args:
        network: a `Student` in eval mode, or its TorchScript; or a function (not a module) that maps images to
            probabilities `[B, classes]`, as `FORMATS[...].load` returns for an exported file. A function is called
            twice: for the studies and for their slices.
        image: values in [0, 1], on the device of the network: bags `[B, S, 3, H, W]`, images `[B, 3, H, W]` (bags of
            one slice) or volumes in S windows `[B, S, D, H, W]`.
        multi_label: whether an image may have several classes or none.
        amp: whether a student's features are computed in mixed precision on a GPU.
    """
    with torch.inference_mode():
        if not isinstance(network, torch.nn.Module):
            study = network(image)
            if image.dim() == 5 and image.shape[2] != 3:  # the depth of a volume, at least 32
                return Inferred(study, None)
            slices = network(image.flatten(0, -4)[:, None]).unflatten(0, (len(image), -1))
            return Inferred(study, slices)
        student: Any = network
        with torch.autocast("cuda", enabled=amp):
            features = student.slice_features(image)
        return infer_features(student, features.to(student.temperature.dtype), multi_label)


@dataclass(frozen=True)
class Preparation:
    """The preprocessing of a study for a network. A bundle's inference.json defines it (id `prepare`).

    Args:
        preprocessing: MONAI `Compose` that is applied to an item of `find_studies`.
        shape: shape of the black image for a study that cannot be read: `[1, 3, H, W]`, or `[1, D, H, W]` for volumes.
        policy: what to do with studies that cannot be read or are out of scope, by code, see `Policy`.

    Example:
        The second file is damaged.

        >>> from pathlib import Path
        >>> from monai.transforms import Compose
        >>> from PIL import Image
        >>> from monai_rd.inference import Preparation
        >>> from monai_rd.transforms import LoadImageOrSeriesd
        >>> Image.new("L", (64, 64)).save("a.png")
        >>> Path("b.png").touch()
        >>> prepare = Preparation(Compose([LoadImageOrSeriesd("image")]), [1, 3, 64, 64], {"default": "skip"})
        >>> [prepare({"image": file})["problem"] for file in ("a.png", "b.png")]
        ['', 'UNREADABLE_IMAGE']
    """

    preprocessing: Compose
    shape: Sequence[int]
    policy: Mapping[str, str] | None = None

    def __call__(self, item: Mapping[str, Any]) -> Prepared:
        """Preprocess an item.

        Args:
            item: of `find_studies`, with `image` (one path or several, or these by role).

        Returns:
            The item with `image` (`[S, 3, H, W]` or `[1, D, H, W]`), `files` (the files that were read), `roles` (those
            that the study has), `flags` (codes joined by "|"), and `problem` (its code) and `message`, both "" if there
            is no problem.

        Raises:
            StudyError: a problem that is an error by the policy.
        """
        prepared: Prepared = self.dataset([item])[0]
        return prepared

    def steps(self, item: Mapping[str, Any]) -> Iterator[tuple[Transform, Any]]:
        """Preprocess an item step by step: yield each transform and the image after it."""
        for step in self.preprocessing.transforms:
            item = step(item)
            yield step, item["image"]

    def dataset(self, items: Sequence[Mapping[str, Any]]) -> TolerantDataset:
        """Return a MONAI data set that preprocesses each item when it is accessed."""
        named = [{**item, "files": files_of_item(item), "roles": _roles(item)} for item in items]
        return TolerantDataset(named, self.preprocessing, self.shape, self.policy)


def _roles(item: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(item["image"]) if isinstance(item["image"], Mapping) else ()


@dataclass(frozen=True, eq=False, repr=False)
class StudyClassifier:
    """A student with everything that its predictions depend on. A bundle's inference.json defines it (id `classifier`).

    To run the student in another form, such as an ONNX file, use `dataclasses.replace(classifier, network=...)`.

    Args:
        network: see `infer`.
        prepare: the preprocessing of studies.
        class_names: by class index.
        multi_label: whether an image may have several classes or none.
        model_sha256: SHA-256 of `models/model.pt`, 64 hex digits. It identifies the student in all its forms.
        device: device of the network.
        amp: see `infer`.
        decision: what is said of the probabilities.

    Example:
        >>> import torch
        >>> from monai.transforms import Compose
        >>> from monai_rd.inference import Preparation, StudyClassifier
        >>> from monai_rd.networks import Student
        >>> prepare = Preparation(Compose([]), shape=[1, 3, 64, 64])
        >>> classifier = StudyClassifier(Student("resnet18", 2).eval(), prepare, ["benign", "malignant"])
        >>> study = {"id": "1", "image": torch.rand(4, 3, 64, 64), "files": (), "flags": "", "problem": ""}  # prepared
        >>> prediction = classifier.answer(study, *classifier.infer([study]))
        >>> list(prediction.probabilities), len(prediction.slices)
        (['benign', 'malignant'], 4)
    """

    network: Network
    prepare: Preparation
    class_names: Sequence[str]
    multi_label: bool = False
    model_sha256: str = ""
    device: torch.device | str = "cpu"
    amp: bool = False
    decision: Decision = field(default_factory=Decision)

    def infer(self, items: Sequence[Prepared]) -> list[Inferred]:
        """Compute the probabilities of each preprocessed item; they are meaningless for items with a problem."""
        image = bag_collate([{"image": item["image"].as_subclass(Tensor)} for item in items])["image"]
        study, slices = infer(self.network, image.to(self.device), self.multi_label, self.amp)
        if slices is None:
            return [Inferred(one, None) for one in study]
        own = (one[: len(item["image"])] for item, one in zip(items, slices, strict=True))  # the rest repeats them
        return [Inferred(*one) for one in zip(study, own, strict=True)]

    def answer(self, item: Prepared, found: Inferred | None) -> Prediction:
        """Make the `Prediction` of a preprocessed item: class, probabilities, sets and flags, or its problem.

        Args:
            item: with `id`, `series`, `study` and the keys that `prepare` adds.
            found: the result of `infer` for it; may be None for an item with a problem.
        """
        named = Prediction(
            item["id"],
            item.get("series", ""),
            item.get("study", ""),
            model=self.model_sha256,
            files=item["files"],
            roles=item.get("roles", ()),
        )
        if item["problem"]:
            return replace(named, problem=item["problem"], message=item["message"])
        assert found is not None, "an item without a problem is answered by what `infer` gives of it"
        slices = [] if found.slices is None else found.slices.tolist()
        p, flags = found.study.tolist(), item["flags"]
        named = replace(named, facts=study_facts(item))
        group = self.decision.group_of(item)
        return named.answered(p, self.class_names, self.multi_label, flags, slices, self.decision, group)

    def step(self, engine: Engine, items: Sequence[Prepared]) -> list[dict[str, Any]]:
        """Score a batch, as the `iteration_update` of MONAI's `SupervisedEvaluator`.

        Args:
            engine: the evaluator.
            items: a list of preprocessed items (the data loader's `collate_fn` is `list`).

        Returns:
            For each item a dictionary with the probabilities `[classes]` as `pred` and the `Prediction` as
            `prediction`.
        """
        return [
            {CommonKeys.PRED: found.study, "prediction": self.answer(item, found)}
            for item, found in zip(items, self.infer(items), strict=True)
        ]
