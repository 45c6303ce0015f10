"""A small teacher of each kind, and its weights."""

from __future__ import annotations

import pytest
from torch import Tensor

from monai_rd.networks import FrozenFoundationModel
from tests.adapters.tiny import KINDS, teacher


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest) -> FrozenFoundationModel:
    return teacher(request.param)


@pytest.fixture
def w(base: FrozenFoundationModel) -> dict[str, Tensor]:
    return dict(base.backbone.network.state_dict())  # type: ignore[union-attr]
