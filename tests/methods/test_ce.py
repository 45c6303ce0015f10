from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_rd.methods import build_method
from monai_rd.methods.base import Step
from monai_rd.methods.ce import CrossEntropyAlone
from monai_rd.networks import Student
from tests.methods.steps import Head, ends, learnt, taught


def test_it_adds_nothing_to_the_students_own_cross_entropy() -> None:
    method, g = CrossEntropyAlone(*ends()), nn.Linear(7, 2)
    assert method.weights(0.0) == method.weights(1.0) == {}
    assert method(Step(learnt(torch.randn(3, 7), g), taught(torch.randn(3, 5, 2, 2)), Head(g), torch.zeros(3))) == {}
    assert not list(method.parameters())


def test_it_needs_no_teacher_and_takes_no_options() -> None:
    student = Student("shufflenet_v2_x1_0")
    assert isinstance(build_method("ce", student, None, [0, 1]), CrossEntropyAlone)
    with pytest.raises(ValueError, match="the method 'ce' has no option width; it takes none"):
        build_method("ce", student, None, [0, 1], {"width": 8})
