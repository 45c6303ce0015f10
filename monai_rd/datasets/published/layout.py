"""The description of a published data set: how its folder is recognised and read, and the counts it should have."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monai_rd.datasets.lists import DataList
from monai_rd.datasets.problems import Problems
from monai_rd.datasets.reading import Found, Reading
from monai_rd.datasets.splits import DEVELOPMENT, SPLITS
from monai_rd.files import IMAGE_SUFFIXES
from monai_rd.walk import walk

__all__ = ["ALL", "Published", "images_in"]

logger = logging.getLogger(__name__)

# In place of a split, where the publisher defines none.
ALL = "all"


@dataclass(frozen=True)
class Published:
    """A public data set in its publisher's layout.

    Attributes:
        name: name of the data set.
        class_names: class names by class index.
        counts: published number of items of each class, by split, or under `ALL` where there are no splits.
        is_in: whether a folder holds this data set; looks at names only.
        read: reads the items of such a folder, their splits and what must stay together; where there is a test set but
            no validation set, the other items have the split `DEVELOPMENT`.
        note: what a user should know, in one sentence.
        sizes: published number of items of each split, for multi-label data sets, where the counts do not give it.

    Example:
        >>> from monai_rd.datasets.published import PUBLISHED
        >>> btc = next(one for one in PUBLISHED if one.name == "BTC")
        >>> btc.class_names[:2], sum(btc.counts["training"]), sum(btc.counts["test"])
        (('glioma_tumor', 'meningioma_tumor'), 2870, 394)
    """

    name: str
    class_names: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    is_in: Callable[[Path], bool]
    read: Callable[[Path, Reading, Problems], Found]
    note: str
    sizes: Mapping[str, int] = field(default_factory=dict)

    def found(self, place: Path, reading: Reading, problems: Problems) -> Found:
        """Read the folder; warn if this copy differs from what was published."""
        found = self.read(place, reading, problems)
        found.class_names = self.class_names
        found.rows = list(range(1, len(found.items) + 1))
        differing = "; ".join(self._differing(found))
        if differing:
            logger.warning("%s: this copy differs from the published one: %s", self.name, differing)
        return found

    def _differing(self, found: Found) -> Iterator[str]:
        splits = found.splits if found.splits is not None else [ALL] * len(found.items)
        official = ["training" if split == DEVELOPMENT else split for split in splits]
        counts = Counter(
            (split, name) for item, split in zip(found.items, official, strict=True) for name in found.classes(item)
        )
        sizes = Counter(official)
        for split in self.counts:
            if split == "validation" and not sizes[split] and DEVELOPMENT in splits:
                continue  # published separately, and later replaced
            for name, published in zip(self.class_names, self.counts[split], strict=True):
                if counts[split, name] != published:
                    yield f"{counts[split, name]} of {name} in {split} (published {published})"
            if split in self.sizes and sizes[split] != self.sizes[split]:
                yield f"{sizes[split]} items in {split} (published {self.sizes[split]})"

    def log(self, found: Found, made: DataList) -> None:
        """Log which data set was recognised, and how the lists follow from the published splits."""
        training, validation, test = (len(made[split]) for split in SPLITS)
        if found.splits is None:
            how = f"{training + validation + test} published without a split, split here by the seed"
        elif DEVELOPMENT in found.splits:
            how = f"published training set {training + validation}, of which {validation} validate; test set {test}"
        else:
            how = f"published split {training} / {validation} / {test}"
        logger.info("%s: %s. %s", self.name, how, self.note)


def images_in(folder: Path) -> list[Path]:
    """Return the image files in a folder, sorted; an empty list if there is no such folder.

    Files that cannot be opened are included: loading them reports why.
    """
    found = walk(folder, below=False)
    return sorted(path for path in (*found.files, *found.unreadable) if path.suffix.lower() in IMAGE_SUFFIXES)
