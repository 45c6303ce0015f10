"""Validation metrics of every epoch; the key metric selects the best student."""

from __future__ import annotations

from typing import Any

import torch
from ignite.metrics import Accuracy, EpochMetric, Metric
from monai.handlers import ROCAUC
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from monai_rd.losses import class_probabilities

__all__ = ["additional_metrics", "key_metric", "mean_auc"]


def key_metric(multi_label: bool, device: torch.device, plain: bool = True) -> dict[str, Metric]:
    """Return the metric that selects the best epoch: accuracy, or for multi-label data the mean ROC AUC over classes.

    Args:
        multi_label: an image may have any number of the classes.
        device: device on which the metric collects predictions.
        plain: `ClassificationLoss.plain` of the training. If it is False, so that rare classes are to count as much as
            frequent ones, the balanced accuracy takes the place of the accuracy.

    Returns:
        One Ignite metric by its name, "val_accuracy", "val_balanced_accuracy" or "val_auc"; higher is better.
    """
    if multi_label:
        return {"val_auc": EpochMetric(_known_auc, _scores_and_labels, check_compute_fn=False, device=device)}
    if not plain:
        return {
            "val_balanced_accuracy": EpochMetric(
                _balanced_accuracy,
                lambda output: (output["pred"].as_subclass(Tensor).argmax(dim=1), output["label"].as_subclass(Tensor)),
                check_compute_fn=False,
                device=device,
            )
        }
    return {"val_accuracy": Accuracy(lambda output: (output["pred"], output["label"]), device=device)}


def additional_metrics(multi_label: bool, device: torch.device) -> dict[str, Any]:
    """Return the additional metric: ROC AUC, or for multi-label data the mean average precision over classes."""
    if multi_label:
        return {"val_ap": EpochMetric(_known_precision, _scores_and_labels, check_compute_fn=False, device=device)}
    return {"val_auc": ROCAUC(output_transform=_probabilities_and_one_hot)}


def mean_auc(scores: Tensor, labels: Tensor) -> float | None:
    """Return the mean ROC AUC over the classes that have positive and negative images, None if there is no such class.

    Args:
        scores: probabilities `[N, classes]`.
        labels: 0 or 1 `[N, classes]`.
    """
    return _mean_over_classes(roc_auc_score, scores, labels)


def _scores_and_labels(output: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logits, labels = (output[key].as_subclass(torch.Tensor) for key in ("pred", "label"))
    return class_probabilities(logits.float(), multi_label=True), labels


def _probabilities_and_one_hot(output: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logits, labels = output["pred"], output["label"]
    return class_probabilities(logits), torch.nn.functional.one_hot(labels, logits.shape[1])


def _balanced_accuracy(chosen: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes that occur of the share of their images that are classified correctly."""
    classes, place = labels.unique(return_inverse=True)
    right = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, place.cpu(), (chosen == labels).cpu().double())
    return float((right / place.cpu().bincount()).mean())


def _known_auc(scores: Tensor, labels: Tensor) -> float:
    return _known(mean_auc(scores, labels))


def _known_precision(scores: Tensor, labels: Tensor) -> float:
    return _known(_mean_over_classes(average_precision_score, scores, labels))


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("no class has both positive and negative images in the validation set: it can choose nothing")
    return value


def _mean_over_classes(metric: Any, scores: Tensor, labels: Tensor) -> float | None:
    """Average a metric of scikit-learn, a function of the labels and scores of one class; see `mean_auc`."""
    scores, labels = scores.cpu(), labels.cpu()
    both = [index for index in range(labels.shape[1]) if 0 < labels[:, index].sum() < len(labels)]
    values = [metric(labels[:, index].numpy(), scores[:, index].numpy()) for index in both]
    return float(sum(values) / len(values)) if values else None
