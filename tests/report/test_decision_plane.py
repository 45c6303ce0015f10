"""The plane through three images, on networks whose boundaries are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from monai_rd.report.decision_plane import decision_plane, plot_planes


def three(*shape: int) -> Tensor:
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))


def nearest(images: Tensor) -> nn.Module:
    """Classifies by the nearest of the three images: on their plane, by the nearest of three points."""

    class Nearest(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return -(torch.cdist(image.flatten(1), images.flatten(1)) ** 2)

    return Nearest().eval()


@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 3, 8, 8), (1, 8, 8, 8)])
def test_corners_keep_their_distances_and_regions_their_places(shape: tuple[int, ...]) -> None:
    images = three(*shape)
    plane = decision_plane({"nearest": nearest(images)}, images, resolution=21, batch_size=50)
    flat = images.flatten(1)
    torch.testing.assert_close(torch.cdist(plane.corners, plane.corners), torch.cdist(flat, flat), atol=1e-4, rtol=1e-4)
    grid = torch.stack(torch.meshgrid(plane.x, plane.y, indexing="xy"), dim=-1)
    distances = torch.cdist(grid.flatten(0, 1), plane.corners).view(21, 21, 3)
    sure = distances.sort(dim=-1).values.diff(dim=-1)[..., 0] > 1e-3
    assert torch.equal(plane.labels["nearest"][sure], distances.argmin(dim=-1)[sure])
    assert plane.probabilities["nearest"].shape == (21, 21, 3)
    span = plane.corners.max(dim=0).values - plane.corners.min(dim=0).values
    for axis, ticks in enumerate((plane.x, plane.y)):
        assert float(ticks[-1] - ticks[0]) == pytest.approx(1.2 * float(span[axis]), rel=1e-5)
        assert float(ticks[0]) == pytest.approx(float(plane.corners[:, axis].min() - 0.1 * span[axis]), abs=1e-4)


def test_the_three_images_are_points_of_the_plane() -> None:
    """With no margin and the third image above the first, three points of the grid are the images themselves."""
    images = torch.zeros(3, 1, 2, 2)
    images[1, 0, 0, 0], images[2, 0, 1, 1] = 0.5, 0.25
    seen = []
    decision_plane({"look": lambda x: seen.append(x) or torch.zeros(len(x), 2)}, images, resolution=3, extent=0)
    points = torch.cat(seen)
    for row, image in ((0, images[0]), (2, images[1]), (6, images[2])):
        torch.testing.assert_close(points[row], image)


def test_agreement_is_the_share_of_equal_labels() -> None:
    images = three(3, 8, 8)
    logits = nearest(images)
    networks = {
        "a": logits,
        "same": logits,
        "other": lambda x: logits(x).roll(1, dims=1),
        "first alone": lambda x: torch.eye(3)[torch.zeros(len(x), dtype=torch.long)],
    }
    plane = decision_plane(networks, images, resolution=20)
    assert plane.agreement("a", "same") == 1
    assert plane.agreement("a", "other") == 0
    share = float((plane.labels["a"] == 0).double().mean())
    assert plane.agreement("a", "first alone") == plane.agreement("first alone", "a") == share
    assert 0 < share < 1


def test_what_makes_no_plane_is_refused() -> None:
    images = three(3, 4, 4)
    network = nearest(images)
    with pytest.raises(ValueError, match="three images, got 2"):
        decision_plane({"n": network}, images[:2])
    for line in ((images[0], images[0], images[1]), (images[0], images[1], 2 * images[1] - images[0])):
        with pytest.raises(ValueError, match="on one line"):
            decision_plane({"n": network}, torch.stack(line))
    with pytest.raises(ValueError, match="eval mode first: n"):
        decision_plane({"n": nearest(images).train()}, images)
    with pytest.raises(ValueError, match="resolution"):
        decision_plane({"n": network}, images, resolution=1)


@pytest.mark.slow
def test_the_picture(tmp_path: Path) -> None:
    images = three(3, 8, 8)
    logits = nearest(images)
    networks = {"student": logits, "teacher": lambda x: logits(x) * torch.tensor([1.0, 1.0, 1.1])}
    planes = [decision_plane(networks, images, resolution=20), decision_plane(networks, images.flip(0), resolution=20)]
    png, svg = plot_planes(planes, tmp_path / "figure2", ["a", "b", "c"])
    assert len(np.unique(np.asarray(Image.open(png).convert("RGB")).reshape(-1, 3), axis=0)) > 100
    for text in ("student", "teacher", f"agrees on {planes[0].agreement('student', 'teacher'):.0%}"):
        assert text in svg.read_text()
    with pytest.raises(ValueError, match="same networks"):
        plot_planes([], tmp_path / "none", ["a"])
