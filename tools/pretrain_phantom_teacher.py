"""Pretrain the small teacher that the package ships, and write `monai_rd/networks/weights/phantom_ct.safetensors`.

    python tools/pretrain_phantom_teacher.py

The task is not the downstream one: on single slices of phantoms (of other seeds than the cohort's) the network says
which of nodule, emphysema, effusion and consolidation the slice shows, how high in the chest it lies and how noisy it
is. Ground-glass opacities, the cohort's classes, occur in half of the studies and are never labelled. Printed at the
end: the AUC of each finding on held-out studies.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from monai_rd.transforms.ct import WINDOWS
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.data.phantoms import OTHER_FINDINGS, draw_study
from monai_rd.networks.foundation_zoo import TEACHERS, save_teacher

OUTPUT = Path(__file__).parents[1] / "monai_rd" / "networks" / "weights" / "phantom_ct.safetensors"
SEED = 7_000_001  # far from the seeds of cohorts


def slices_of(studies: range) -> tuple[Tensor, Tensor, Tensor]:
    """Windowed slices `[N, 1, H, W]` in [0, 1], findings `[N, 4]` and height `[N, 1]` of freshly drawn studies."""
    centre, width = WINDOWS["lung"]
    images, findings, heights = [], [], []
    for number in studies:
        study = draw_study(np.random.default_rng([SEED, number]), opacity=bool(number % 2))
        volume = torch.from_numpy(study.hounsfield.astype(np.float32))
        images.append(((volume - centre) / width + 0.5).clamp(0, 1).unsqueeze(1))
        findings.append(torch.from_numpy(np.stack([study.findings[name] for name in OTHER_FINDINGS], axis=1)).float())
        heights.append(torch.linspace(-1, 1, len(volume)).unsqueeze(1))
    return torch.cat(images), torch.cat(findings), torch.cat(heights)


def main() -> None:
    """Draw, train, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=3000, help="studies to draw for training")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()

    entry = TEACHERS["phantom_ct"]
    torch.manual_seed(0)
    backbone = timm.create_model(entry.builder.removeprefix("timm:"), **entry.arguments)
    head = nn.Linear(entry.channels, len(OTHER_FINDINGS) + 1)
    images, findings, heights = slices_of(range(arguments.studies))
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=2e-3, weight_decay=0.02)
    batches = [
        batch for _ in range(arguments.epochs) for batch in torch.randperm(len(images)).split(96) if len(batch) == 96
    ]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=len(batches))

    def predict(batch: Tensor) -> Tensor:
        return head(backbone(entry.preprocessing(batch.expand(-1, 3, -1, -1))).mean(dim=(2, 3)))

    backbone.train()
    for step, batch in enumerate(batches):
        view = images[batch].flip(-1) if step % 2 else images[batch]
        output = predict(view)
        loss = F.binary_cross_entropy_with_logits(output[:, :-1], findings[batch])
        loss = loss + F.mse_loss(output[:, -1:], heights[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}/{len(batches)}  loss {loss.item():.4f}", flush=True)

    backbone.eval()
    images, findings, heights = slices_of(range(arguments.studies, arguments.studies + 200))
    with torch.no_grad():
        output = torch.cat([predict(batch) for batch in images.split(100)])
    for index, name in enumerate(OTHER_FINDINGS):
        print(f"{name:14s} AUC {roc_auc_score(findings[:, index], output[:, index]):.3f}")
    print(f"{'height':14s} RMS {F.mse_loss(output[:, -1:], heights).sqrt().item():.3f} (of -1 to 1)")
    save_teacher(arguments.output, backbone, entry)
    print(f"wrote {arguments.output.name}, {arguments.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
