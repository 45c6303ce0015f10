"""Static int8 quantisation by ONNX Runtime (Jacob et al. 2018, arXiv 1712.05877)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["quantise"]


def quantise(whole: Path, to: Path, images: Iterable[Tensor]) -> None:
    """Write an ONNX file that computes in 8 bits.

    Weights are int8 with a scale for each output channel, activations uint8 between the least and the greatest value
    that they take on the images: the combination that x86 computes fastest (VNNI).

    Args:
        whole: the network in float32.
        to: the file to write.
        images: what it is calibrated on, batches as the network takes them.
    """
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._images: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._images, None)
            return None if image is None else {"image": image.numpy()}

    with tempfile.TemporaryDirectory() as place:
        prepared = Path(place) / "prepared.onnx"
        quantization.quant_pre_process(whole, prepared)  # folds constants and batch norms, infers shapes
        quantization.quantize_static(
            prepared,
            to,
            Reader(),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
