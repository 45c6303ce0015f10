"""Table 6: the cost of the paper's teacher and students, in standard units, in the paper's units, and in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from monai_rd.networks.student.table import count_macs
from monai_rd.protocol.paper import TABLE_6
from monai_rd.protocol.tables import Grid, Report

__all__ = ["MODELS", "Cost", "cost_report", "count", "measure"]

CLASSES = 4  # any number from 2 to 7 gives the paper's figures
PAPER_PARAMETERS, PAPER_MACS = 2**21, 2**28  # the paper's "M" and "G"


class _LVMMed(nn.Module):
    """LVM-Med's classifier: SAM's ViT-B without position embeddings and with an unused neck; pooling, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        norm = partial(nn.LayerNorm, eps=1e-6)
        self.encoder = timm.create_model(
            "samvit_base_patch16", num_classes=0, use_abs_pos=False, img_size=1024, norm_layer=norm
        )
        self.classifier = nn.Linear(768, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.encoder.blocks(self.encoder.patch_embed(image))  # [B, h, w, 768]
        return self.classifier(F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), 1).flatten(1))


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        network: nn.Module = getattr(torchvision.models, name)(num_classes=CLASSES)
        return network

    return build


MODELS: dict[str, Callable[[], nn.Module]] = {
    "lvm_med_vit_b": _LVMMed,
    **{name: _torchvision(name) for name in ("resnet18", "shufflenet_v2_x1_0", "mobilenet_v2")},
}


@dataclass(frozen=True)
class Cost:
    """The cost of a network for one image of 224 x 224.

    Args:
        parameters: number of parameters.
        macs: multiply-accumulates of convolutions and matrix products.
        further: operations that fvcore counts in addition, per input element: 2 for a batch normalisation, 5 for a
            layer normalisation, 1 for an adaptive average pooling.
    """

    parameters: int
    macs: int
    further: int

    @property
    def as_in_paper(self) -> tuple[float, float]:
        """The paper's "Params (M)" and "FLOPs (G)", in its units."""
        return self.parameters / PAPER_PARAMETERS, (self.macs + self.further) / PAPER_MACS


class _Further(TorchFunctionMode):
    """Counts the operations that fvcore counts in addition to convolutions and matrix products."""

    EACH: ClassVar = {F.batch_norm: 2, F.layer_norm: 5, F.adaptive_avg_pool2d: 1}

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.EACH:
            self.count += self.EACH[func] * args[0].numel()
        return func(*args, **(kwargs or {}))


def count(name: str) -> Cost:
    """Count the cost of one of `MODELS`, on PyTorch's meta device, so that nothing is computed."""
    with torch.device("meta"):
        network, image = MODELS[name]().eval(), torch.empty(1, 3, 224, 224)
    with torch.no_grad(), _Further() as further:
        network(image)
    return Cost(sum(one.numel() for one in network.parameters()), count_macs(network, image), further.count)


@torch.inference_mode()
def measure(seconds: float, progress: Callable[[str], None] = lambda _: None) -> dict[str, list[float]]:
    """Measure the forward pass of one image on this CPU; every round runs all models once.

    Args:
        seconds: minimum duration; at least three rounds are run.
        progress: called with a text before each step.

    Returns:
        By model, the milliseconds of each round.
    """
    networks, image = {name: build().eval() for name, build in MODELS.items()}, torch.rand(1, 3, 224, 224)
    times: dict[str, list[float]] = {name: [] for name in MODELS}
    end, rounds = perf_counter() + seconds, 0
    while rounds < 3 or perf_counter() < end:
        rounds += 1
        for name, network in networks.items():
            progress(f"round {rounds}: {name}")
            network(image)  # warm-up: loads the weights into the caches
            start = perf_counter()
            network(image)
            times[name].append(1000 * (perf_counter() - start))
    return times


def cost_report(times: dict[str, list[float]], command: str, made: dict[str, str]) -> Report:
    """Make Table 6 from the counts and from the times of `measure`."""
    header = ["network", "parameters, M", "GMACs", "CPU, ms", "times faster"]
    rows, paper, records = [], [], []
    for name in MODELS:
        cost, (published_parameters, published_flops) = count(name), TABLE_6[name]
        parameters, flops = cost.as_in_paper
        faster = median(a / b for a, b in zip(times["lvm_med_vit_b"], times[name], strict=True))
        milliseconds = median(times[name])
        macs = f"{cost.macs / 1e9:.3f}"
        rows.append([name, f"{cost.parameters / 1e6:.2f}", macs, f"{milliseconds:.1f}", f"{faster:.1f}"])
        ours = [f"{parameters:.2f}", f"{flops:.2f}"]
        paper.append([name, ours[0], f"{published_parameters:.2f}", ours[1], f"{published_flops:.2f}"])
        records.append(
            {
                "network": name,
                "parameters": cost.parameters,
                "macs": cost.macs,
                "milliseconds": milliseconds,
                "times_faster": faster,
                "paper_units_parameters": parameters,
                "paper_parameters": published_parameters,
                "paper_units_flops": flops,
                "paper_flops": published_flops,
            }
        )
    rounds = len(times["lvm_med_vit_b"])
    threads = torch.get_num_threads()
    notes = [
        "One image of 224 x 224, a head of 4 classes. GMACs: multiply-accumulates of convolutions and matrix products, "
        "10^9.",
        f"CPU: float32, batch of 1, {threads} thread{'s' * (threads > 1)}, n = {rounds} interleaved rounds; median, "
        "and median of the rounds' ratios to lvm_med_vit_b.",
        'The paper\'s "M" is 2^21 parameters and its "G" 2^28 multiply-accumulates, of fvcore, which also counts '
        "normalisations and pooling; why is not known here. All eight of its numbers follow from these networks.",
        f"Command: `{command}`",
        f"Made with: {', '.join(f'{key} {value}' for key, value in made.items())}.",
    ]
    units = ["network", "ours, 2^21 parameters", "paper, Params (M)", "ours, 2^28 MACs", "paper, FLOPs (G)"]
    grids = [Grid("Cost", header, rows), Grid("In the paper's units", units, paper)]
    content = {"table": "table6", "command": command, "made_with": made, "rounds": rounds, "networks": records}
    return Report("table6", "Table 6: What the networks cost", grids, notes, content, records)
