"""One bad study among many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import DataLoader, MetaTensor

from monai_rd.data import StudyError, TolerantDataset, UnreadableImageError
from monai_rd.transforms import bag_collate


def load(item: dict[str, Any]) -> dict[str, Any]:
    if item["image"] == "bad":
        try:
            raise UnreadableImageError("it is torn; mend it")
        except UnreadableImageError as error:
            raise RuntimeError("applying transform") from error
    if item["image"] == "bug":
        raise RuntimeError("no such key")
    return {**item, "image": MetaTensor(torch.ones(4, 3, 8, 8), meta={"intensity": "HU"})}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_study_that_cannot_be_read_leaves_the_others_alone(num_workers: int) -> None:
    items = [{"image": name, "id": str(i)} for i, name in enumerate(["bad", "good", "bad", "good", "bad", "bad"])]
    loader = DataLoader(TolerantDataset(items, load, 8), batch_size=2, num_workers=num_workers, collate_fn=bag_collate)
    batches = list(loader)
    assert [batch["problem"] for batch in batches] == [["UNREADABLE_IMAGE", ""]] * 2 + [["UNREADABLE_IMAGE"] * 2]
    assert [batch["message"][0] for batch in batches] == ["it is torn; mend it"] * 3
    assert [batch["id"] for batch in batches] == [["0", "1"], ["2", "3"], ["4", "5"]]
    for batch in batches[:2]:
        assert batch["image"].shape == (2, 4, 3, 8, 8)
        assert batch["image"][0].max() == 0
        assert batch["image"][1].min() == 1


def test_any_other_error_is_raised() -> None:
    with pytest.raises(RuntimeError) as caught:
        TolerantDataset([{"image": "bug", "id": "0"}], load, 8)[0]
    assert "no such key" in f"{caught.value} {caught.value.__cause__}"


def test_every_reason_has_a_code_of_its_own() -> None:
    def below(kind: type[StudyError]) -> list[type[StudyError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    codes = [kind.code for kind in below(StudyError)]
    assert len(codes) == len(set(codes)) >= 13
