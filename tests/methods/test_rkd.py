from __future__ import annotations

import torch
from torch import nn

from monai_rd.losses import angle_loss, distance_loss
from monai_rd.methods.base import Step
from monai_rd.methods.rkd import RelationalDistillation
from tests.methods.steps import Head, ends, learnt, taught


def test_terms_weights_and_the_option_to_normalise() -> None:
    torch.manual_seed(0)
    g, f_s, tap = nn.Linear(3, 2), torch.randn(4, 3), torch.randn(4, 2, 5, 3, 3)
    plain = RelationalDistillation(*ends())
    assert plain.weights(0.0) == plain.weights(1.0) == {"distance": 25.0, "angle": 50.0}
    vectors = tap.mean((1, 3, 4))
    terms = plain(Step(learnt(f_s, g), taught(tap), Head(g), torch.zeros(4)))
    torch.testing.assert_close(terms, {"distance": distance_loss(f_s, vectors), "angle": angle_loss(f_s, vectors)})
    f_s, vectors = f_s / f_s.norm(dim=1, keepdim=True), vectors / vectors.norm(dim=1, keepdim=True)
    normal = RelationalDistillation(*ends(), normalise=True)(
        Step(learnt(5 * f_s, g), taught(tap), Head(g), torch.zeros(4))
    )
    torch.testing.assert_close(normal, {"distance": distance_loss(f_s, vectors), "angle": angle_loss(f_s, vectors)})
