"""Pretrain a small teacher that the package ships: `monai_rd/networks/teacher/weights/phantom_MODALITY.safetensors`.

    python tools/pretrain_phantom_teacher.py --modality ct

The tasks are not the downstream one. On single noisy slices or pictures of phantoms (of another seed than the
cohorts') the network says which of the findings that occur in every class it shows (`OTHER_FINDINGS`), of a volume how
high the slice lies, and, for each cell of a grid, which share of it had a density, signal, echo or pigment in
each of several ranges before noise was added. The cohorts' own classes occur as often as there and are never labelled.
Printed at the end: how well it does on held-out studies.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from monai.data import MetaTensor
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.networks.teacher.zoo import TEACHERS, save_teacher
from monai_rd.phantoms import MODALITIES
from monai_rd.transforms import ColourConstancyd, MRIntensityd
from monai_rd.transforms.ct import WINDOWS

WEIGHTS = Path(__file__).parents[1] / "monai_rd" / "networks" / "teacher" / "weights"
SEED = 7_000_001  # far from the seeds of cohorts


def window(image: Tensor) -> Tensor:
    """HU to the lung window, as the bundle does."""
    centre, width = WINDOWS["lung"]
    return ((image - centre) / width + 0.5).clamp(0, 1)


def standardise(image: Tensor) -> Tensor:
    """MR signal `[S, H, W]` to [0, 1], as the bundle does."""
    volume = MetaTensor(image.permute(2, 1, 0)[None])
    return MRIntensityd("image")({"image": volume})["image"].as_tensor()[0].permute(2, 1, 0)


def constant_colours(image: Tensor) -> Tensor:
    """Pictures `[1, H, W, 3]` as under white light, as the bundle does."""
    picture = MetaTensor(255 * image[0].permute(2, 1, 0), meta={"intensity": "display"})
    return ColourConstancyd("image")({"image": picture})["image"].as_tensor().permute(2, 1, 0)[None]


@dataclass(frozen=True)
class Pretext:
    """What is asked of a modality's slices.

    Attributes:
        show: a study's image to the bundle's intensities, 0 to 1.
        pixels: rows and columns the networks see; the bundles' default runs show 64, the teacher of CT saw 96.
        cells: rows and columns of the grid, a multiple of the 3 of the network's last feature map.
        ranges: of each property of the study's `clean`, the limits between the ranges.
        studies: how many are drawn for training.
        epochs: how often each is seen.
    """

    show: Callable[[Tensor], Tensor]
    pixels: int
    cells: int
    ranges: tuple[tuple[float, ...], ...]
    studies: int
    epochs: int


PRETEXTS = {
    "ct": Pretext(window, 96, 3, ((-920.0, -860.0, -800.0, -720.0, -600.0, -450.0, -150.0),), 2400, 3),
    "mr": Pretext(standardise, 64, 12, ((0.1, 0.3, 0.42, 0.54, 0.66, 0.8),), 1200, 3),
    "us": Pretext(torch.Tensor.clone, 64, 12, ((-28.0, -22.0, -17.0, -13.0, -9.0, -5.0, 0.0),), 12000, 6),
    "xray": Pretext(torch.Tensor.clone, 64, 12, ((0.1, 0.24, 0.3, 0.36, 0.42, 0.5, 0.6, 0.75),), 5000, 8),
    "derm": Pretext(constant_colours, 64, 12, ((0.3, 0.6, 0.9, 1.3), (0.15, 0.3, 0.6), (0.1, 0.4)), 4000, 8),
}


def slices_of(modality: str, studies: range) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Slices of freshly drawn studies.

    Returns:
        Images `[N, 1 or 3, H, W]` in [0, 1]; findings `[N, F]`; height from -1 to 1 `[N, 1]`, of pictures `[N, 0]`;
        shares of each property's ranges, `[N, ranges, cells, cells]` each.
    """
    kind, pretext = MODALITIES[modality], PRETEXTS[modality]
    images, findings, heights = [], [], []
    shares: list[list[Tensor]] = [[] for _ in pretext.ranges]
    for number in studies:
        label = kind.CLASS_NAMES[number % len(kind.CLASS_NAMES)]
        study = kind.draw_study(np.random.default_rng([SEED, number]), label)
        image, clean = (torch.from_numpy(v.astype(np.float32)) for v in (study.image, study.clean))
        image = pretext.show(image)
        image = image.permute(0, 3, 1, 2) if image.ndim == 4 else image.unsqueeze(1)
        if image.shape[-1] != pretext.pixels:
            image = F.interpolate(image, (pretext.pixels, pretext.pixels), mode="bilinear", antialias=True)
        images.append(image)
        findings.append(torch.from_numpy(np.stack([study.findings[n] for n in kind.OTHER_FINDINGS], axis=1)).float())
        heights.append(torch.linspace(-1, 1, len(image)).unsqueeze(1) if len(image) > 1 else torch.empty(1, 0))
        properties = clean.unbind(-1) if clean.ndim == 4 else (clean,)
        for found, values, limits in zip(shares, properties, pretext.ranges, strict=True):
            found.append(shares_of(values.numpy(), limits, pretext.cells))
    return torch.cat(images), torch.cat(findings), torch.cat(heights), [torch.cat(found) for found in shares]


def shares_of(values: np.ndarray, limits: tuple[float, ...], cells: int) -> Tensor:
    """Which share of each cell of a grid lies in each range: `[S, H, W]` to `[S, ranges, cells, cells]`."""
    slices, height, width = values.shape
    rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
    cell = (np.arange(slices)[:, None, None] * cells + rows[:, None]) * cells + columns
    ranges = len(limits) + 1
    where = cell * ranges + np.searchsorted(limits, values)
    counts = np.bincount(where.ravel(), minlength=slices * cells**2 * ranges)
    counts = counts.reshape(slices, cells, cells, ranges).transpose(0, 3, 1, 2)
    return torch.from_numpy((counts / counts.sum(axis=1, keepdims=True)).astype(np.float32))


def main() -> None:
    """Draw, train, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", choices=list(PRETEXTS), default="ct")
    parser.add_argument("--studies", type=int, help="studies to draw for training")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    modality, pretext = arguments.modality, PRETEXTS[arguments.modality]
    studies, epochs = arguments.studies or pretext.studies, arguments.epochs or pretext.epochs
    output = arguments.output or WEIGHTS / f"phantom_{modality}.safetensors"
    names, ranges = MODALITIES[modality].OTHER_FINDINGS, [len(limits) + 1 for limits in pretext.ranges]

    entry = TEACHERS[f"phantom_{modality}"]
    images, findings, heights, shares = slices_of(modality, range(studies))
    torch.manual_seed(0)
    backbone = timm.create_model(entry.builder.removeprefix("timm:"), **entry.arguments)
    head = nn.Linear(entry.channels, len(names) + heights.shape[1])
    finer = pretext.cells // 3
    dense_head = nn.Conv2d(entry.channels, sum(ranges) * finer**2, 1)
    parameters = [p for module in (backbone, head, dense_head) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.02)
    order = torch.cat([torch.randperm(len(images)) for _ in range(epochs)])
    batches = [batch for batch in order.split(96) if len(batch) == 96]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=len(batches))

    def predict(batch: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        features = backbone(entry.preprocessing(batch.expand(-1, 3, -1, -1)))
        output, dense = head(features.mean(dim=(2, 3))), F.pixel_shuffle(dense_head(features), finer)
        return output[:, : len(names)], output[:, len(names) :], dense.split(ranges, dim=1)

    backbone.train()
    for step, batch in enumerate(batches):
        view, wanted = images[batch], [share[batch] for share in shares]
        if step % 2:  # mirrored
            view, wanted = view.flip(-1), [share.flip(-1) for share in wanted]
        found, height, dense = predict(view)
        loss = F.binary_cross_entropy_with_logits(found, findings[batch])
        if heights.shape[1]:
            loss = loss + F.mse_loss(height, heights[batch])
        for given, share in zip(dense, wanted, strict=True):
            loss = loss + F.cross_entropy(given, share)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}/{len(batches)}  loss {loss.item():.4f}", flush=True)

    backbone.eval()
    images, findings, heights, shares = slices_of(modality, range(studies, studies + 200))
    with torch.no_grad():
        parts = [predict(batch) for batch in images.split(100)]
    found, height = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    for index, name in enumerate(names):
        print(f"{name:14s} AUC {roc_auc_score(findings[:, index], found[:, index]):.3f}")
    if heights.shape[1]:
        print(f"{'height':14s} RMS {F.mse_loss(height, heights).sqrt().item():.3f} (of -1 to 1)")
    for index, share in enumerate(shares):
        given = torch.cat([part[2][index] for part in parts]).softmax(1)
        print(f"{f'ranges {index}':14s} mean absolute error of a share {(given - share).abs().mean().item():.4f}")
    save_teacher(output, backbone, entry)
    print(f"wrote {output.name}, {output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
