"""Detection of NaN and infinite values in tensors and loss terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["NotFiniteError", "TermSums", "not_finite", "refuse_not_finite"]


class NotFiniteError(ValueError):
    """Values that are infinite or not a number (NaN)."""


def not_finite(tensors: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors with an infinite or NaN value; synchronises once with the device of finite ones.

    Args:
        tensors: by name; entries that are not floating-point tensors are ignored.
    """
    numbers = {
        name: one
        for name, one in tensors.items()
        if isinstance(one, Tensor) and one.is_floating_point() and one.numel()
    }
    if not numbers:
        return []
    # A sum is finite only if all its values are, and takes a tenth of the time of looking at each. It may overflow.
    device = next(iter(numbers.values())).device
    finite = torch.stack([one.detach().sum().isfinite().to(device) for one in numbers.values()]).tolist()
    suspects = [name for name, good in zip(numbers, finite, strict=True) if not good]
    return [name for name in suspects if not numbers[name].isfinite().all()]


def refuse_not_finite(tensors: Mapping[str, Any], whose: str, remedy: str) -> None:
    """Check that all values of tensors, such as the weights of a model, are finite.

    Args:
        tensors: by name.
        whose: name of their owner for the error message.
        remedy: advice for the error message.

    Raises:
        NotFiniteError: some are not; the message states the number of such tensors and the name of the first.
    """
    if wrong := not_finite(tensors):
        raise NotFiniteError(
            f"{whose}: {len(wrong)} of {len(tensors)} tensors hold values that are infinite or not a number (NaN), the "
            f"first is {wrong[0]}: {remedy}"
        )


class TermSums:
    """Sum loss terms over an epoch and find the first step in which one was not finite.

    On the CPU, `add` reports such terms at once. On other devices this would force a synchronisation in every step:
    there the number of the step is kept on the device and returned by `read`.

    Example:
        >>> import torch
        >>> from monai_rd.finite import TermSums
        >>> sums = TermSums()
        >>> sums.add({"ce": torch.tensor(1.5), "kl": torch.tensor(0.25)})
        []
        >>> sums.add({"ce": torch.tensor(0.5), "kl": torch.tensor(float("nan"))})
        ['kl']
        >>> sums.read()[0]
        {'ce': 2.0, 'kl': nan}
    """

    def __init__(self) -> None:
        # By the names of a step's terms, as not every step has all: their sums, and the first steps that were wrong.
        self._kinds: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self._steps = 0

    def add(self, terms: Mapping[str, Tensor]) -> list[str]:
        """Add the scalar terms of one step; on the CPU, return the names of those that are not finite, else []."""
        values = torch.stack([term.detach().float() for term in terms.values()])
        sums, first = self._kinds.get(tuple(terms)) or (torch.zeros_like(values), torch.zeros_like(values))
        self._steps += 1
        wrong = ~values.isfinite()
        on_cpu = values.device.type == "cpu"
        if not on_cpu:
            first = torch.where(wrong & (first == 0), self._steps, first)
        self._kinds[tuple(terms)] = sums + values, first
        return [name for name, bad in zip(terms, wrong.tolist(), strict=True) if bad] if on_cpu else []

    def read(self) -> tuple[dict[str, float], int, list[str]]:
        """Return the sums, the number of the first step with terms that were not finite (from 1; 0: none), their names.

        The step and names are found on devices other than the CPU only.
        """
        totals: dict[str, float] = {}
        first: dict[str, int] = {}
        for names, kept in self._kinds.items():
            for name, total, number in zip(names, *torch.stack(kept).tolist(), strict=True):
                totals[name] = totals.get(name, 0.0) + total
                first[name] = min(filter(None, (first.get(name, 0), int(number))), default=0)
        step = min(filter(None, first.values()), default=0)
        return totals, step, [name for name, number in first.items() if step and number == step]
