"""Pretrain the small 3D teacher that the package ships: `monai_rd/networks/teacher/weights/phantom_ct_3d.safetensors`.

    python tools/pretrain_phantom_volumes.py

The task is not the downstream one, but a part of it. In noisy volumes of phantoms (of another seed than the cohorts')
the network estimates, for each cell of 20 mm, how much of it is tissue within the lungs that lies also 6 mm above or
below, and how much is tissue that does not. The cohorts' own classes occur as often as there and are never labelled.
Printed at the end: how well the estimates correlate with the truth on held-out studies.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.networks.teacher.zoo import TEACHERS, save_teacher
from monai_rd.phantoms import ct_3d
from monai_rd.transforms.regions import COARSE_MM, find_region
from monai_rd.transforms.resampling import resampled

WEIGHTS = Path(__file__).parents[1] / "monai_rd" / "networks" / "teacher" / "weights"
SEED = 7_000_001  # far from the seeds of cohorts
FIELD_MM, STEP_MM = (200.0, 160.0, 220.0), 5.0  # as the bundle's for phantoms, along D, H and W
CELL = 4  # voxels of an edge of a cell: the stride of the network's last level
BATCH = 8


def structures(clean: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Tissue within the lungs: its parts in a slice that are no larger than 7 cm2."""
    found = np.zeros(clean.shape, dtype=bool)
    for plane, tissue in zip(found, clean > -300, strict=True):
        parts, _ = ndimage.label(tissue)
        area = np.bincount(parts.ravel()) * ct_3d.PIXEL_MM**2
        small = (area >= 20) & (area < 700)
        small[0] = False  # no tissue
        plane[:] = small[parts]
    return found


def draw(numbers: range) -> tuple[Tensor, Tensor]:
    """Draw studies anew.

    Returns:
        Volumes `[N, 1, D, H, W]` in HU; shares `[N, 2, D / 4, H / 4, W / 4]` of tissue that continues 6 mm above or
        below and of tissue that does not.
    """
    spacing = (ct_3d.SLICE_MM, ct_3d.PIXEL_MM, ct_3d.PIXEL_MM)
    sides = [count * mm for count, mm in zip((ct_3d.SLICES, ct_3d.MATRIX, ct_3d.MATRIX), spacing, strict=True)]
    coarse = [round(side / COARSE_MM) for side in sides]
    size = [round(mm / STEP_MM) for mm in FIELD_MM]
    apart = round(6 / ct_3d.SLICE_MM)
    volumes, shares = [], []
    for number in numbers:
        study = ct_3d.draw_study(np.random.default_rng([SEED, number]), ct_3d.CLASS_NAMES[number % 2])
        image = torch.from_numpy(study.image.astype(np.float32))
        small = resampled(image, spacing, [0.0] * 3, sides, coarse, -1024)
        lungs = find_region(
            small.numpy(), [side / count for side, count in zip(sides, coarse, strict=True)], "lung", True
        )
        assert lungs is not None
        starts = [(a + b - mm) / 2 for a, b, mm in zip(lungs.starts, lungs.ends, FIELD_MM, strict=True)]
        tissue = structures(study.clean)
        continued = np.zeros_like(tissue)
        continued[apart:] |= tissue[:-apart]
        continued[:-apart] |= tissue[apart:]
        volumes.append(resampled(image, spacing, starts, FIELD_MM, size, -1024))
        parts = [torch.from_numpy(part.astype(np.float32)) for part in (tissue & continued, tissue & ~continued)]
        parts = [resampled(part, spacing, starts, FIELD_MM, size, 0) for part in parts]
        shares.append(F.avg_pool3d(torch.stack(parts), CELL))
    return torch.stack(volumes).unsqueeze(1), torch.stack(shares)


def main() -> None:
    """Draw, train, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="studies to draw for training")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--output", type=Path, default=WEIGHTS / "phantom_ct_3d.safetensors")
    arguments = parser.parse_args()

    entry = TEACHERS["phantom_ct_3d"]
    assert entry.window is not None
    low, high = entry.window
    volumes, shares = draw(range(arguments.studies))
    print(f"drawn: {len(volumes)} studies", flush=True)
    torch.manual_seed(0)
    backbone = SegResEncoder(**entry.arguments)
    # Linear in the features, so that their mean over positions holds the mean of the shares.
    head = nn.Conv3d(entry.channels, 2, 1)
    classes = nn.Conv3d(entry.channels, 3, 1)
    parameters = [p for module in (backbone, head, classes) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=arguments.steps)
    spread = shares.std(dim=(0, 2, 3, 4), keepdim=True)

    def features(batch: Tensor) -> Tensor:
        return backbone(entry.preprocessing(((batch - low) / (high - low)).clamp(0, 1)))[-1]

    backbone.train()
    for step in range(arguments.steps):
        chosen = torch.randint(len(volumes), (BATCH,))
        view, wanted = volumes[chosen], shares[chosen]
        if step % 2:  # mirrored
            view, wanted = view.flip(-1), wanted.flip(-1)
        found = features(view)
        given, scaled = head(found), wanted / spread
        total = F.mse_loss(given.mean(dim=(2, 3, 4)), scaled.mean(dim=(2, 3, 4)))
        three = torch.cat([1 - wanted.sum(dim=1, keepdim=True), wanted], dim=1)
        loss = F.mse_loss(given, scaled) + 2 * total + 5 * F.cross_entropy(classes(found), three)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}/{arguments.steps}  loss {loss.item():.4f}", flush=True)

    backbone.eval()
    volumes, shares = draw(range(arguments.studies, arguments.studies + 40))
    with torch.no_grad():
        given = torch.cat([head(features(batch)) for batch in volumes.split(BATCH)]) * spread
    for index, name in enumerate(("continued", "not continued")):
        pairs = np.corrcoef(given[:, index].flatten(), shares[:, index].flatten())
        totals = np.corrcoef(given[:, index].mean(dim=(1, 2, 3)), shares[:, index].mean(dim=(1, 2, 3)))
        print(f"{name:14s} correlation with the truth {pairs[0, 1]:.3f} per cell, {totals[0, 1]:.3f} per study")
    save_teacher(arguments.output, backbone, entry)
    print(f"wrote {arguments.output.name}, {arguments.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
