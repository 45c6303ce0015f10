"""A study to what a student says of it: prepare, infer, answer. Whoever scores studies does it by this file.

That is bundle inference, `monai-rd predict`, MONAI Label and MONAI Deploy by `StudyClassifier`, and the report of a
training and Grad-CAM, which have images already, by `infer` and `infer_features`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_rd.cache.tolerant import TolerantDataset
from monai_rd.datasets.studies import files_of_item
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
    """Calibrated probabilities in [0, 1].

    Attributes:
        study: `[B, classes]`, of one study `[classes]`.
        slices: of every slice alone `[B, S, classes]`, of one study `[S, classes]`; None of volumes. The logits of a
            study are the mean of its slices', exactly, as the classifier is linear.
    """

    study: Tensor
    slices: Tensor | None


def infer_features(student: Student, features: Tensor, multi_label: bool = False) -> Inferred:
    """Probabilities of a student's features.

    Args:
        student: or its TorchScript.
        features: of `Student.slice_features`, `[B, S, D]`.
        multi_label: an image may have any number of the classes.
    """
    study = class_probabilities(student.logits(features.mean(dim=1)), multi_label)
    if student.spatial_dims == 3:
        return Inferred(study, None)
    of_slices = class_probabilities(student.logits(features).flatten(0, 1), multi_label)
    return Inferred(study, of_slices.unflatten(0, features.shape[:2]))


def infer(network: Network, image: Tensor, multi_label: bool = False, amp: bool = False) -> Inferred:
    """Run a network once over some studies.

    Args:
        network: a `Student` in eval mode, or its TorchScript; or a function, which is no module, from images to
            probabilities `[B, classes]`, as `FORMATS[...].load` gives it of an ONNX file: it is asked twice, for
            studies and for their slices.
        image: in [0, 1], where the network is: bags `[B, S, 3, H, W]`, images `[B, 3, H, W]`, which are bags of one, or
            volumes `[B, 1, D, H, W]`.
        multi_label: an image may have any number of the classes.
        amp: let a student's features be computed in mixed precision, on a GPU.
    """
    with torch.inference_mode():
        if not isinstance(network, torch.nn.Module):
            study = network(image)
            if image.shape[1] == 1 and image.shape[2] != 3:  # a volume's channel and depth
                return Inferred(study, None)
            slices = network(image.flatten(0, -4)[:, None]).unflatten(0, (len(image), -1))
            return Inferred(study, slices)
        student: Any = network
        with torch.autocast("cuda", enabled=amp):
            features = student.slice_features(image)
        return infer_features(student, features.to(student.temperature.dtype), multi_label)


@dataclass(frozen=True)
class Preparation:
    """From an item to what a network takes. A bundle's inference.json builds it (id `prepare`).

    Args:
        preprocessing: MONAI's `Compose` from an item of `find_studies` on.
        shape: of a black image that stands for one that cannot be read: `[1, 3, H, W]`, or `[1, D, H, W]` for volumes.
        policy: what follows from a study that cannot be read or is out of scope, by code, see `Policy`.
    """

    preprocessing: Compose
    shape: Sequence[int]
    policy: Mapping[str, str] | None = None

    def __call__(self, item: Mapping[str, Any]) -> Prepared:
        """Prepare an item.

        Args:
            item: of `find_studies`, with `image` (a path or several).

        Returns:
            The item with `image` `[S, 3, H, W]` or `[1, D, H, W]`, `files` (that it was read of), `flags` (codes joined
            by "|"), and the code of a `problem` with its `message`, "" where there is none.

        Raises:
            StudyError: a problem that the policy calls an error.
        """
        prepared: Prepared = self.dataset([item])[0]
        return prepared

    def steps(self, item: Mapping[str, Any]) -> Iterator[tuple[Transform, Any]]:
        """Prepare an item slowly: give each step of the preprocessing with what it makes of the image."""
        for step in self.preprocessing.transforms:
            item = step(item)
            yield step, item["image"]

    def dataset(self, items: Sequence[Mapping[str, Any]]) -> TolerantDataset:
        """Return MONAI's data set of items, which prepares each when it is asked for it."""
        named = [{**item, "files": files_of_item(item)} for item in items]
        return TolerantDataset(named, self.preprocessing, self.shape, self.policy)


@dataclass(frozen=True, eq=False, repr=False)
class StudyClassifier:
    """A student, and all that decides what it says of a study. A bundle's inference.json builds it (id `classifier`).

    To run another form of the student, such as an ONNX file: `dataclasses.replace(classifier, network=...)`.

    Args:
        network: see `infer`.
        prepare: from an item to what the network takes.
        class_names: by class index.
        multi_label: an image may have any number of the classes.
        model_sha256: of `models/model.pt`, 64 hex digits: the student's identity in whatever form it runs.
        device: where the network is.
        amp: see `infer`.
    """

    network: Network
    prepare: Preparation
    class_names: Sequence[str]
    multi_label: bool = False
    model_sha256: str = ""
    device: torch.device | str = "cpu"
    amp: bool = False

    def infer(self, items: Sequence[Prepared]) -> list[Inferred]:
        """Give the probabilities of each of some prepared items; of one with a problem they say nothing."""
        image = bag_collate([{"image": item["image"].as_subclass(Tensor)} for item in items])["image"]
        study, slices = infer(self.network, image.to(self.device), self.multi_label, self.amp)
        if slices is None:
            return [Inferred(one, None) for one in study]
        own = (one[: len(item["image"])] for item, one in zip(items, slices, strict=True))  # the rest are repetitions
        return [Inferred(*one) for one in zip(study, own, strict=True)]

    def answer(self, item: Prepared, found: Inferred | None) -> Prediction:
        """Say what was found of a prepared item: class, probabilities and flags; or its problem.

        Args:
            item: with `id`, `series`, `study` and what `prepare` adds.
            found: what `infer` gives; None of an item with a problem.
        """
        named = Prediction(
            item["id"],
            item.get("series", ""),
            item.get("study", ""),
            model=self.model_sha256,
            files=item["files"],
        )
        if item["problem"]:
            return replace(named, problem=item["problem"], message=item["message"])
        assert found is not None, "an item without a problem is answered by what `infer` gives of it"
        slices = [] if found.slices is None else found.slices.tolist()
        return named.answered(found.study.tolist(), self.class_names, self.multi_label, item["flags"], slices)

    def step(self, engine: Engine, items: Sequence[Prepared]) -> list[dict[str, Any]]:
        """Infer and answer, as one iteration of MONAI's `SupervisedEvaluator` (its `iteration_update`).

        Args:
            engine: the evaluator.
            items: prepared, as a list: the data loader's `collate_fn` is `list`.

        Returns:
            For each the probabilities `pred` `[classes]` and the `Prediction` in `prediction`.
        """
        return [
            {CommonKeys.PRED: found.study, "prediction": self.answer(item, found)}
            for item, found in zip(items, self.infer(items), strict=True)
        ]
