"""The choice of the supervised loss: what is done about classes of unequal frequency."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_rd.losses.auc_margin import AUCMarginLoss
from monai_rd.losses.classification import ClassificationLoss
from monai_rd.losses.focal import FocalClassificationLoss
from monai_rd.nearest import did_you_mean

__all__ = ["build_criterion"]

CRITERIA = ("cross_entropy", "logit_adjustment", "auc_margin", "focal")
CLASS_WEIGHTS = ("balanced", "sampling")


def build_criterion(
    name: str,
    class_weights: str | None,
    class_names: Sequence[str],
    counts: Sequence[int],
    items: int,
    multi_label: bool = False,
    cutmix: bool = False,
) -> ClassificationLoss:
    """Build the loss of a training from the numbers of its training images.

    Class weights give each class the same influence: with "balanced" by weights in the loss, with "sampling" by batches
    that show all classes equally often (`TrainingBatches`), where the loss itself stays as it is.

    Args:
        name: "cross_entropy", "logit_adjustment", "auc_margin", or for multi-label data "focal".
        class_weights: None, "balanced" or "sampling".
        class_names: the names of the classes, for error messages.
        counts: number of training images of each class.
        items: number of training images.
        multi_label: an image may have any number of the classes.
        cutmix: images, and so their labels, are mixed in the training.

    Raises:
        ValueError: an unknown name, choices that do not go together or do not suit the labels, or classes that cannot
            be weighed because no training image has them (or, multi-label, because all have them).

    Example:
        >>> from monai_rd.losses import build_criterion
        >>> build_criterion("cross_entropy", "balanced", ["common", "rare"], counts=[90, 10], items=100).weights
        tensor([0.5556, 5.0000])
        >>> build_criterion("logit_adjustment", None, ["common", "rare"], counts=[90, 10], items=100).adjustment
        tensor([-0.1054, -2.3026])
    """
    for key, value, known in (("criterion", name, CRITERIA), ("class_weights", class_weights, (None, *CLASS_WEIGHTS))):
        if value not in known:
            choices = [one for one in known if one is not None]
            raise ValueError(f"--{key} is {', '.join(choices)}, not '{value}'{did_you_mean(str(value), choices)}")
    _refuse_what_does_not_go_together(name, class_weights, multi_label, cutmix)
    if class_weights is not None or name in ("logit_adjustment", "auc_margin"):
        _refuse_missing_classes(class_names, counts, items, multi_label and class_weights != "sampling")
    shares = torch.tensor(counts, dtype=torch.float64) / max(items, 1)
    sides = torch.stack([1 - shares, shares]) if multi_label else shares  # each class is absent or present
    weights = (1 / (len(sides) * sides)).float() if class_weights == "balanced" else None
    if name == "auc_margin":
        made: ClassificationLoss = AUCMarginLoss(multi_label)
    elif name == "focal":
        made = FocalClassificationLoss(weights)
    else:
        logs = shares.logit() if multi_label else shares.log()
        made = ClassificationLoss(multi_label, weights, logs.float() if name == "logit_adjustment" else None)
    made.plain = name == "cross_entropy" and class_weights is None
    return made


def _refuse_what_does_not_go_together(name: str, class_weights: str | None, multi_label: bool, cutmix: bool) -> None:
    if name == "focal" and not multi_label:
        raise ValueError(
            "--criterion focal is for images with several labels: leave it out, or use --class_weights balanced or "
            "--criterion logit_adjustment"
        )
    if name == "logit_adjustment" and class_weights is not None:
        raise ValueError(
            f"--criterion logit_adjustment and --class_weights {class_weights} would correct for the frequency of the "
            "classes twice: leave one of them out"
        )
    if name == "auc_margin" and class_weights == "balanced":
        raise ValueError(
            "--criterion auc_margin has no weights to balance, as it counts every class alike: leave --class_weights "
            "out, or use --class_weights sampling"
        )
    if name == "auc_margin" and cutmix:
        raise ValueError(
            "--criterion auc_margin compares images of one class each, of which cutmix makes mixtures: leave --cutmix "
            "false"
        )


def _refuse_missing_classes(class_names: Sequence[str], counts: Sequence[int], items: int, both: bool) -> None:
    """Raise if a class has no training image; with `both`, also if all training images have it."""
    named = list(zip(class_names, counts, strict=True))
    for wrong, told in (
        ([one for one, count in named if count == 0], "no training image"),
        ([one for one, count in named if both and count == items > 0], "every training image"),
    ):
        if wrong:
            raise ValueError(
                f"{told} has the class {', '.join(wrong)}, so it cannot be weighed against the others: leave it out of "
                "class_names, or leave out --criterion and --class_weights"
            )
