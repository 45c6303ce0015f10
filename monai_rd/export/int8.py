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
IN_FLOAT = (0.0, 0.25, 0.5, 0.75)  # shares of the network, from the input on, that are tried
DIFFERENCE = 0.01  # of a probability, on average


def write_int8(trained: TrainedBundle, path: Path) -> None:
    """Write the student as ONNX that computes in 8 bits, calibrated on validation images.

    Raises:
        ValueError: the training's data are not there, or a package is missing.
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
    """Write an ONNX file that computes in 8 bits.

    Weights are int8 with a scale for each output channel, activations uint8 between the least and the greatest value
    that they take on the images: the combination that x86 computes fastest (VNNI). Where probabilities of these images
    change much by it, the first layers, whose errors all later ones see (depthwise convolutions are the worst), stay in
    float: the smallest of `IN_FLOAT` by which no class's probability moves by more than 0.01 on average, else that by
    which it moves least. (How many labels change would tell less: it depends on the few images that are close to 0.5.)

    Args:
        whole: the network in float32.
        to: the file to write.
        images: what it is calibrated on, each as the network takes it.

    Returns:
        "share_in_float", of the graph's nodes, and "mean_difference" of the probabilities on the images.
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
        quantization.quant_pre_process(whole, prepared)  # folds constants and batch norms, infers shapes
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
            moved = (answers(open_onnx(made)) - expected).abs().mean(dim=0).max()  # of the class that moves most
            tried[share] = float(moved), made.read_bytes()
            if tried[share][0] <= DIFFERENCE:
                break
    best = min(tried, key=lambda share: tried[share][0])
    to.write_bytes(tried[best][1])
    return {"share_in_float": best, "mean_difference": tried[best][0]}
