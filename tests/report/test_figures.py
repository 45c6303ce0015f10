"""Figures: what they draw and that they are drawn the same twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from monai_rd.report import figures, save_figure
from monai_rd.report.curves import calibrated_events


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_same_figure_is_the_same_bytes_without_date_and_place(tmp_path: Path) -> None:
    values = np.array([[0.1, 0.9], [0.4, -0.02]])
    written = []
    before = dict(matplotlib.rcParams)
    for name in ("one", "two"):
        paths = save_figure(figures.cka_heat_map(values, ["a", "b"], ["c", "d"]), tmp_path / name)
        written.append([path.read_bytes() for path in paths])
    assert [path.suffix for path in paths] == [".png", ".svg"]
    assert written[0] == written[1]
    assert b"dc:date" not in written[0][1]
    assert str(tmp_path).encode() not in written[0][1]
    assert set(Image.open(paths[0]).info) <= {"dpi"}
    assert dict(matplotlib.rcParams) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "one.svg", "two.png", "two.svg"]


def test_confusion_matrix() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.6, 0.4], [0.2, 0.8]])
    figure = figures.confusion_matrix(np.asarray(p).argmax(axis=1), [0, 0, 0, 1, 1, 1], ["clear", "opacity"])
    assert texts(figure) == ["2\n67%", "1\n33%", "1\n33%", "2\n67%"]
    many = figures.confusion_matrix(np.arange(20), np.arange(20), [f"class {index}" for index in range(20)])
    assert texts(many) == []  # colours alone: no number would be readable


def test_cka_has_the_student_by_column_and_outputs_at_the_top() -> None:
    values = np.array([[0.11, 0.12, 0.13], [0.21, 0.22, np.nan]])  # two student layers, three of the teacher
    figure = figures.cka_heat_map(values, ["s1", "s2"], ["t1", "t2", "t3"])
    assert texts(figure) == ["0.13", "–", "0.12", "0.22", "0.11", "0.21"]
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["s1", "s2"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["t3", "t2", "t1"]
    assert axes.yaxis_inverted()


@pytest.mark.parametrize(("classes", "multi_label", "panels"), [(2, False, 1), (3, False, 3), (20, True, 12)])
def test_roc_has_a_panel_for_each_class_that_is_one(classes: int, multi_label: bool, panels: int) -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(classes), size=60)
    labels: Any = np.arange(60) % classes
    if multi_label:
        labels = random.uniform(size=p.shape) < np.linspace(0.05, 0.5, classes)
        labels[:, -1] = True
    names = [f"class {index}" for index in range(classes)]
    figure = figures.roc_curves(p, labels, names, multi_label)
    assert len(figure.axes) == panels
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == (names[1:2] if classes == 2 else sorted(titles, key=names.index))
    if multi_label:
        assert texts(figure)[-1].startswith("all images agree")


def test_calibration_says_of_what() -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    figure = figures.calibration_diagram(p, [0, 1, 1, 0], ["clear", "opacity"])
    assert figure.axes[1].get_xlabel() == "predicted probability of opacity"
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0, 1, 0, 0, 1, 0, 0, 1, 1, 0]
    assert calibrated_events(p, [0, 1, 1, 0], False)[0] == pytest.approx(p[:, 1])
    three = np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]])
    chosen, true = calibrated_events(three, [0, 2], False)
    assert chosen.tolist() == [0.5, 0.7]
    assert true.tolist() == [True, False]


def row(epoch: int, **changes: Any) -> dict[str, Any]:
    terms = {"loss": 2.0, "student_ce": 1 / epoch, "kl": 0.5}
    return {"epoch": epoch, "terms": terms, "weights": {"kl": 0.5}, "validation": {"val_auc": 0.5}, **changes}


def test_learning_curves() -> None:
    history = [row(1), row(2, validation={}), row(3, terms={"loss": 1.0, "student_ce": None, "kl": 0.1})]
    losses, validation, weights = figures.learning_curves(history, chosen=3).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert drawn == {
        "student, cross entropy": [[1, 1], [2, 0.5]],  # the third is not finite
        "KL divergence of the logits": [[1, 0.5], [2, 0.5], [3, 0.1]],
    }
    assert validation.lines[0].get_xydata().tolist() == [[1, 0.5], [3, 0.5]]
    assert texts(figures.learning_curves(history, chosen=3)) == ["epoch 3: chosen"]
    assert weights.lines[0].get_ydata().tolist() == [0.5, 0.5, 0.5]
    alone = [row(1, weights={}, terms={"loss": 1.0, "student_ce": 1.0})]
    assert len(figures.learning_curves(alone).axes) == 2
    with pytest.raises(ValueError, match="no epoch"):
        figures.learning_curves([])


def test_path_curves_draw_what_was_measured() -> None:
    history = [
        row(1),  # of a version that did not watch, or an epoch in which nothing was measured
        row(2, teacher_path={"train_accuracy": 0.5, "validation_accuracy": 0.4, "cka": 0.1}),
        row(3, teacher_path={"validation_accuracy": 0.6, "train_confidence": 0.9}),
    ]  # no ROC AUC and no temperature: no such panels
    accuracy, others = figures.path_curves(history).axes
    drawn = [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in (accuracy, others)]
    assert drawn[0] == {"labelled training images": [[2, 0.5]], "validation": [[2, 0.4], [3, 0.6]]}
    assert [list(points) for points in drawn[1].values()] == [[[3, 0.9]], [[2, 0.1]]]
    whole = [{**one, "teacher_path": {"validation_auc": 0.8, "temperature": 1.5}} for one in history]
    areas, temperature = figures.path_curves(whole).axes
    assert [line.get_label() for line in areas.lines] == ["reprogrammed teacher", "student"]
    assert areas.lines[1].get_ydata().tolist() == [one["validation"]["val_auc"] for one in history]
    assert temperature.lines[0].get_ydata().tolist() == [1.5] * 3


def test_slices_stand_in_the_order_of_their_studies() -> None:
    random = np.random.default_rng(0)
    scores = [random.uniform(size=4) for _ in range(50)]
    studies = [float(one.mean()) for one in scores]
    figure = figures.slice_scores(scores, studies, [0, 1] * 25, ["clear", "opacity"], "probability of opacity")
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(set(line.get_ydata())) == 1]
    heights = [float(line.get_ydata()[0]) for line in lines]
    assert heights == sorted(heights)
    assert len(heights) == 40
    assert (heights[0], heights[-1]) == (min(studies), max(studies))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["clear", "opacity"]
