"""Numbers that are none: found where they come in, and named, before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["NotFiniteError", "TermSums", "not_finite", "refuse_not_finite"]


class NotFiniteError(ValueError):
    """Values that are infinite or not a number."""


def not_finite(tensors: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that hold a value that is infinite or not a number; of each device one is waited for."""
    numbers = {
        name: one
        for name, one in tensors.items()
        if isinstance(one, Tensor) and one.is_floating_point() and one.numel()
    }
    if not numbers:
        return []
    device = next(iter(numbers.values())).device
    wrong = torch.stack([(~one.detach().isfinite()).any().to(device) for one in numbers.values()]).tolist()
    return [name for name, bad in zip(numbers, wrong, strict=True) if bad]


def refuse_not_finite(tensors: Mapping[str, Any], whose: str, remedy: str) -> None:
    """Refuse weights of which one is no number.

    Args:
        tensors: by name.
        whose: they are, for the error.
        remedy: what to do.

    Raises:
        NotFiniteError: with how many tensors, and the first by name.
    """
    if wrong := not_finite(tensors):
        raise NotFiniteError(
            f"{whose}: {len(wrong)} of {len(tensors)} tensors hold values that are infinite or not a number (NaN), the "
            f"first is {wrong[0]}: {remedy}"
        )


class TermSums:
    """Sums loss terms over an epoch, and finds the step in which one was first not finite.

    On a CPU that is found in the step itself. Reading a value of another device would wait for it in every step: there
    the place of the first is kept on the device, and read with the sums.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums = self._first = self._step = torch.zeros(0)

    def add(self, terms: Mapping[str, Tensor]) -> list[str]:
        """Add a step's terms; of a CPU, returns the names of those that are not finite."""
        values = torch.stack([term.detach().float() for term in terms.values()])
        if not self._names:
            self._names = tuple(terms)
            self._sums = self._first = self._step = torch.zeros_like(values)
        self._sums, self._step = self._sums + values, self._step + 1  # counted there too: a number of ours is a copy
        wrong = ~values.isfinite()
        if values.device.type == "cpu":
            return [name for name, bad in zip(terms, wrong.tolist(), strict=True) if bad]
        self._first = torch.where(wrong & (self._first == 0), self._step, self._first)
        return []

    def read(self) -> tuple[dict[str, float], int, list[str]]:
        """The sums; the number of the first step, from 1, with terms that were not finite, else 0; and their names."""
        sums, first = torch.stack([self._sums, self._first]).tolist()
        step = int(min((number for number in first if number), default=0))
        names = [name for name, number in zip(self._names, first, strict=True) if step and number == step]
        return dict(zip(self._names, sums, strict=True)), step, names
