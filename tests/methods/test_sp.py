from __future__ import annotations

import torch
from torch import nn

from monai_rd.losses import similarity_loss
from monai_rd.methods import build_method
from monai_rd.methods.base import Step
from monai_rd.methods.sp import SimilarityPreserving
from monai_rd.networks import Student
from tests.methods.steps import Head, ends, learnt, taught, tiny_teacher


def test_rows_are_studies_and_the_last_map_is_taken() -> None:
    student, g = Student("resnet18"), nn.Linear(2, 2)
    method = build_method("sp", student, tiny_teacher(), [0, 1])
    assert [one.module for one in method.student_levels] == ["layer4"]
    torch.manual_seed(0)
    ours, tap = torch.randn(6, 3, 2, 2), torch.randn(2, 3, 5, 4, 4)  # two studies of three slices
    found = method(Step(learnt(torch.zeros(2, 2), g, (ours,)), taught(tap), Head(g), torch.zeros(2)))["sp"]
    torch.testing.assert_close(found, similarity_loss(ours.reshape(2, 36), tap.reshape(2, 240)) * 2 / 64)
    pooled, vectors = torch.randn(4, 2), torch.randn(4, 3, 5)  # a student without a last map, a teacher of vectors
    found = SimilarityPreserving(*ends())(Step(learnt(pooled, g), taught(vectors), Head(g), torch.zeros(4)))["sp"]
    torch.testing.assert_close(found, similarity_loss(pooled, vectors.flatten(1)) * 4 / 64)


def test_it_is_the_papers_in_a_batch_of_64_and_as_strong_in_any_other() -> None:
    torch.manual_seed(0)
    pooled, tap, method, g = torch.randn(64, 3), torch.randn(64, 5), SimilarityPreserving(*ends()), nn.Linear(3, 2)
    found = [
        method(Step(learnt(pooled[rows], g), taught(tap[rows]), Head(g), torch.zeros(len(rows))))["sp"]
        for rows in (torch.arange(64), torch.arange(64).repeat(3))  # alike rows, alike similarities
    ]
    torch.testing.assert_close(found[0], similarity_loss(pooled, tap))
    torch.testing.assert_close(found[1], found[0])
