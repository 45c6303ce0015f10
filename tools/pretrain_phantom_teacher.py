"""Pretrain the small teacher that the package ships, and write `monai_rd/networks/weights/phantom_ct.safetensors`.

    python tools/pretrain_phantom_teacher.py

The tasks are not the downstream one. On single noisy slices of phantoms (of another seed than the cohort's) the
network says which of nodule, emphysema, effusion and consolidation the slice shows, how high in the chest it lies, and,
for each cell of a 3 x 3 grid, which share of it had a density in each of eight HU ranges before noise was added.
Ground-glass opacities, the cohort's classes, occur in half of the studies and are never labelled. Printed at the end:
how well it does on held-out studies.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.data.phantoms import OTHER_FINDINGS, draw_study
from monai_rd.networks.foundation_zoo import TEACHERS, save_teacher
from monai_rd.transforms.ct import WINDOWS

OUTPUT = Path(__file__).parents[1] / "monai_rd" / "networks" / "weights" / "phantom_ct.safetensors"
SEED = 7_000_001  # far from the seeds of cohorts
RANGES, GRID = (-920.0, -860.0, -800.0, -720.0, -600.0, -450.0, -150.0), 3  # HU


def slices_of(studies: range) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slices of freshly drawn studies.

    Returns:
        Windowed slices `[N, 1, H, W]` in [0, 1]; findings `[N, 4]`; height `[N, 1]` from -1 to 1; shares of the
        densities `[N, 8, 3, 3]`.
    """
    centre, width = WINDOWS["lung"]
    images, findings, heights, shares = [], [], [], []
    for number in studies:
        study = draw_study(np.random.default_rng([SEED, number]), opacity=bool(number % 2))
        volume, clean = (torch.from_numpy(v.astype(np.float32)) for v in (study.hounsfield, study.noiseless))
        images.append(((volume - centre) / width + 0.5).clamp(0, 1).unsqueeze(1))
        findings.append(torch.from_numpy(np.stack([study.findings[name] for name in OTHER_FINDINGS], axis=1)).float())
        heights.append(torch.linspace(-1, 1, len(volume)).unsqueeze(1))
        inside = F.one_hot(torch.bucketize(clean, torch.tensor(RANGES)), len(RANGES) + 1).permute(0, 3, 1, 2)
        shares.append(F.adaptive_avg_pool2d(inside.float(), GRID))
    return torch.cat(images), torch.cat(findings), torch.cat(heights), torch.cat(shares)


def main() -> None:
    """Draw, train, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2400, help="studies to draw for training")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()

    entry = TEACHERS["phantom_ct"]
    torch.manual_seed(0)
    backbone = timm.create_model(entry.builder.removeprefix("timm:"), **entry.arguments)
    head, dense_head = nn.Linear(entry.channels, len(OTHER_FINDINGS) + 1), nn.Conv2d(entry.channels, len(RANGES) + 1, 1)
    images, *targets = slices_of(range(arguments.studies))
    parameters = [p for module in (backbone, head, dense_head) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.02)
    order = torch.cat([torch.randperm(len(images)) for _ in range(arguments.epochs)])
    batches = [batch for batch in order.split(96) if len(batch) == 96]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=len(batches))

    def predict(batch: Tensor) -> tuple[Tensor, Tensor]:
        features = backbone(entry.preprocessing(batch.expand(-1, 3, -1, -1)))
        return head(features.mean(dim=(2, 3))), dense_head(features)

    backbone.train()
    for step, batch in enumerate(batches):
        findings, height, shares = (target[batch] for target in targets)
        view = images[batch]
        if step % 2:  # mirrored
            view, shares = view.flip(-1), shares.flip(-1)
        output, dense = predict(view)
        loss = F.binary_cross_entropy_with_logits(output[:, :-1], findings) + F.mse_loss(output[:, -1:], height)
        loss = loss + F.cross_entropy(dense, shares)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}/{len(batches)}  loss {loss.item():.4f}", flush=True)

    backbone.eval()
    images, findings, height, shares = slices_of(range(arguments.studies, arguments.studies + 200))
    with torch.no_grad():
        parts = [predict(batch) for batch in images.split(100)]
    output, dense = (torch.cat(part) for part in zip(*parts, strict=True))
    for index, name in enumerate(OTHER_FINDINGS):
        print(f"{name:14s} AUC {roc_auc_score(findings[:, index], output[:, index]):.3f}")
    print(f"{'height':14s} RMS {F.mse_loss(output[:, -1:], height).sqrt().item():.3f} (of -1 to 1)")
    print(f"{'densities':14s} mean absolute error of a share {(dense.softmax(1) - shares).abs().mean().item():.4f}")
    save_teacher(arguments.output, backbone, entry)
    print(f"wrote {arguments.output.name}, {arguments.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
