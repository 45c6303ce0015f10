"""A site of federated learning: MONAI's client, extended so that it can send its weights at any time."""

from __future__ import annotations

from typing import Any

from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

__all__ = ["SiteClient"]


class SiteClient(MonaiAlgo):
    """MONAI's `MonaiAlgo` that can also give the server the initial student, before the first round.

    `MonaiAlgo` sends differences from the weights that the server sent last, and fails if there are none yet. On a CPU
    it also sends the network's own tensors, which change as the training continues; this class sends copies.
    """

    send_weight_diff: bool

    def get_weights(self, extra: dict[str, Any] | None = None) -> ExchangeObject:
        """Return a copy of the student's weights.

        Args:
            extra: see `MonaiAlgo`.

        Returns:
            The differences from the server's last weights if `send_weight_diff` is set and the server has sent weights;
            otherwise the weights themselves. `weight_type` tells which.
        """
        asked = self.send_weight_diff
        self.send_weight_diff = asked and self.global_weights is not None
        try:
            sent = super().get_weights(extra)
        finally:
            self.send_weight_diff = asked
        if sent.weight_type == WeightType.WEIGHTS and ExtraItems.MODEL_TYPE not in (extra or {}):
            sent.weights = {name: value.clone() for name, value in sent.weights.items()}
        return sent
