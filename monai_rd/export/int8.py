"""Static int8 quantisation by ONNX Runtime (Jacob et al. 2018, arXiv 1712.05877)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monai_rd.export.manifest import manifest
from monai_rd.export.onnx_file import describe_onnx, needed, onnx_model, open_onnx
from monai_rd.export.program import Classify

if TYPE_CHECKING:
    from monai_rd.inference import TrainedBundle

__all__ = ["quantise", "write_int8"]

CALIBRATION = 128  # validation images at most
IN_FLOAT = (0.0, 0.25, 0.5, 0.75)  # shares of the graph, from the input on, that are tried
DIFFERENCE = 0.01  # largest mean change of a probability


def write_int8(trained: TrainedBundle, path: Path) -> None:
    """Write the student as ONNX in 8 bits, calibrated on validation images.

    Raises:
        ValueError: the data of the training are not available, or a package is missing.
    """
    needed("onnx", "onnxruntime", "onnxscript")
    if trained.of_other_data:
        raise ValueError("int8 is calibrated on validation images of the training's data: give -- --dataset_dir DIR")
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "float32.onnx"
        whole.write_bytes(onnx_model(trained))
        images = list(trained.images("validation", most=CALIBRATION))
        how = quantise(whole, path, images)
    describe_onnx(path, {**manifest(trained), "int8": how})


def quantise(whole: Path, to: Path, images: Sequence[Tensor]) -> dict[str, float]:
    """Quantise an ONNX file to 8 bits.

    Weights are int8 with one scale per output channel; activations are uint8 over their range of values on the images:
    the fastest combination on x86 (VNNI). If this changes the probabilities of these images too much, the first layers
    stay in float, because their errors affect all later layers (depthwise convolutions are the worst). The share kept
    in float is the smallest of `IN_FLOAT` with which the mean change of every class's probability is at most 0.01, or
    else the one with the smallest change. (The number of changed labels would tell less: it depends on the few images
    with a probability close to 0.5.)

    Args:
        whole: ONNX file of the network in float32.
        to: the file to write.
        images: images for the calibration, each as the network takes it.

    Returns:
        "share_in_float", the share of the graph's nodes that are in float, and "mean_difference" of the probabilities
        on the images (of the class that changes most).
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._images: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._images, None)
            return None if image is None else {"image": image.numpy()}

    def answers(run: Classify) -> Tensor:
        return torch.cat([run(image) for image in images])

    expected = answers(open_onnx(whole))
    tried: dict[float, tuple[float, bytes]] = {}
    with tempfile.TemporaryDirectory() as place:
        prepared, made = Path(place) / "prepared.onnx", Path(place) / "int8.onnx"
        quantization.quant_pre_process(whole, prepared, skip_symbolic_shape=True)  # it fails on graphs of PyTorch 2.10
        nodes = [node.name for node in onnx.load(prepared).graph.node]
        for share in IN_FLOAT:
            quantization.quantize_static(
                prepared,
                made,
                Reader(),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=nodes[: int(share * len(nodes))],
            )
            moved = (answers(open_onnx(made)) - expected).abs().mean(dim=0).max()  # of the class that changes most
            tried[share] = float(moved), made.read_bytes()
            if tried[share][0] <= DIFFERENCE:
                break
    best = min(tried, key=lambda share: tried[share][0])
    to.write_bytes(tried[best][1])
    return {"share_in_float": best, "mean_difference": tried[best][0]}
