"""A site of a federation: MONAI's client, asked for its weights at any time."""

from __future__ import annotations

from typing import Any

from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

__all__ = ["SiteClient"]


class SiteClient(MonaiAlgo):
    """MONAI's `MonaiAlgo`, from which a server can have the student that the first round starts from.

    `MonaiAlgo` sends differences from the weights that the server gave last, and fails where it gave none yet. And what
    it sends on a CPU is the network itself, which goes on learning.
    """

    send_weight_diff: bool

    def get_weights(self, extra: dict[str, Any] | None = None) -> ExchangeObject:
        """Give the student's weights, in memory of their own.

        Args:
            extra: see `MonaiAlgo`.

        Returns:
            Differences from the server's last weights where `send_weight_diff` says so and there are any; else, and
            before the first round, the weights themselves: `weight_type` tells.
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
