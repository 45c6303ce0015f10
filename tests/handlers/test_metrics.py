"""What a validation measures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from sklearn.metrics import balanced_accuracy_score

from monai_rd.handlers import additional_metrics, key_metric
from monai_rd.report import classification_metrics, multi_label_metrics

CPU = torch.device("cpu")


def measured(multi_label: bool, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """The metrics of an evaluator that sees the images in batches of 7."""
    engine: Any = Engine(lambda _, batch: batch)
    for name, metric in {**key_metric(multi_label, CPU), **additional_metrics(multi_label, CPU)}.items():
        metric.attach(engine, name)
    parts = zip(logits.split(7), labels.split(7), strict=True)
    return engine.run([{"pred": z, "label": y} for z, y in parts]).metrics


def test_one_class_an_image_is_what_the_report_says() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(40, 3), torch.arange(40) % 3
    found = measured(False, logits, labels)
    told = classification_metrics(logits.softmax(1).numpy(), labels.numpy())
    assert list(found) == ["val_accuracy", "val_auc"]
    assert found["val_accuracy"] == pytest.approx(told["accuracy"]["value"])
    assert found["val_auc"] == pytest.approx(told["roc_auc"]["value"])


def test_the_balanced_accuracy_takes_the_place_of_the_accuracy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(40, 3), torch.tensor([0] * 30 + [1] * 7 + [2] * 3)
    (name, metric), *others = key_metric(False, CPU, plain=False).items()
    assert (name, others) == ("val_balanced_accuracy", [])
    for batch in (slice(0, 25), slice(25, 40)):
        metric.update(metric._output_transform({"pred": logits[batch], "label": labels[batch]}))
    assert metric.compute() == pytest.approx(balanced_accuracy_score(labels, logits.argmax(dim=1)))
    assert list(key_metric(True, CPU, plain=False)) == ["val_auc"]


def test_multi_label_is_what_the_report_says() -> None:
    torch.manual_seed(0)
    logits = torch.randn(40, 4)
    labels = (torch.rand(40, 4) < torch.tensor([0.5, 0.2, 0.7, 0.0])).float()
    found = measured(True, logits, labels)
    told = multi_label_metrics(logits.sigmoid().numpy(), labels.numpy().astype(np.int64))
    assert list(found) == ["val_auc", "val_ap"]
    assert found["val_auc"] == pytest.approx(told["roc_auc"]["value"])
    assert found["val_ap"] == pytest.approx(told["average_precision"]["value"])


def test_a_validation_set_of_one_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no class has both positive and negative"):
        measured(True, torch.randn(8, 2), torch.zeros(8, 2))
