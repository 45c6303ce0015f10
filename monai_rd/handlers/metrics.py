"""Validation metrics of every epoch; the key metric selects the best student."""

from __future__ import annotations

from typing import Any

import torch
from ignite.metrics import Accuracy, EpochMetric, Metric
from monai.handlers import ROCAUC
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from monai_rd.losses import class_probabilities

__all__ = ["additional_metrics", "key_metric"]


def key_metric(multi_label: bool, device: torch.device) -> dict[str, Metric]:
    """Return the metric that selects the best epoch: accuracy, or for multi-label data the mean ROC AUC over classes.

    Args:
        multi_label: an image may have any number of the classes.
        device: device on which the metric collects predictions.

    Returns:
        One Ignite metric by its name, "val_accuracy" or "val_auc"; higher is better.
    """
    if multi_label:
        return {"val_auc": EpochMetric(_mean_auc, _scores_and_labels, check_compute_fn=False, device=device)}
    return {"val_accuracy": Accuracy(lambda output: (output["pred"], output["label"]), device=device)}


def additional_metrics(multi_label: bool, device: torch.device) -> dict[str, Any]:
    """Return the additional metric: ROC AUC, or for multi-label data the mean average precision over classes."""
    if multi_label:
        return {"val_ap": EpochMetric(_mean_precision, _scores_and_labels, check_compute_fn=False, device=device)}
    return {"val_auc": ROCAUC(output_transform=_probabilities_and_one_hot)}


def _scores_and_labels(output: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logits, labels = (output[key].as_subclass(torch.Tensor) for key in ("pred", "label"))
    return class_probabilities(logits.float(), multi_label=True), labels


def _probabilities_and_one_hot(output: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logits, labels = output["pred"], output["label"]
    return class_probabilities(logits), torch.nn.functional.one_hot(labels, logits.shape[1])


def _mean_auc(scores: Tensor, labels: Tensor) -> float:
    return _mean_over_classes(roc_auc_score, scores, labels)


def _mean_precision(scores: Tensor, labels: Tensor) -> float:
    return _mean_over_classes(average_precision_score, scores, labels)


def _mean_over_classes(metric: Any, scores: Tensor, labels: Tensor) -> float:
    """Average a metric over the classes that have positive and negative images.

    Args:
        metric: a function of scikit-learn, called with labels and scores of one class.
        scores: probabilities `[N, classes]`.
        labels: 0 or 1 `[N, classes]`.

    Raises:
        ValueError: there is no such class.
    """
    scores, labels = scores.cpu(), labels.cpu()
    both = [index for index in range(labels.shape[1]) if 0 < labels[:, index].sum() < len(labels)]
    if not both:
        raise ValueError("no class has both positive and negative images in the validation set: it can choose nothing")
    return float(sum(metric(labels[:, index].numpy(), scores[:, index].numpy()) for index in both) / len(both))
