"""From a sheet, a data list, class folders or COVID-CT as published to labelled items; what is wrong is collected."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from monai_rd.data.dicom import SeriesInfo, SeriesRule, choose_series, index_dicom, is_dicom
from monai_rd.data.errors import DicomSeriesError, NoDicomError, Policy, count_codes
from monai_rd.data.problems import DataListError, Problems
from monai_rd.data.pseudonyms import patient_pseudonym
from monai_rd.data.splits import SPLITS
from monai_rd.data.studies import Item, find_studies, item_of_file, items_of_series
from monai_rd.files import IMAGE_SUFFIXES, NIFTI_SUFFIXES, sha256

__all__ = ["EXCEL_SUFFIXES", "Found", "Reading", "from_class_folders", "from_covid_ct", "from_json", "from_sheet"]

logger = logging.getLogger(__name__)

EXCEL_SUFFIXES = (".xlsx", ".xlsm")
SPLIT_NAMES = {"train": "training", "val": "validation", "valid": "validation", "testing": "test"} | {
    s: s for s in SPLITS
}
# Columns by other names that sheets give them.
_COLUMNS = {
    "path": "image",
    "file": "image",
    "filename": "image",
    "seriesinstanceuid": "series",
    "series_uid": "series",
    "patientid": "patient",
    "patient_id": "patient",
    "lesion_id": "lesion",
    "class": "label",
}
# Names of the official split files of COVID-CT (github.com/UCSD-AI4H/COVID-CT).
COVID_CT = {"NonCOVID": "CT_NonCOVID", "COVID": "CT_COVID"}
COVID_CT_SPLITS = {"training": "train", "validation": "val", "test": "test"}
COVID_CT_COUNTS = {"training": (234, 191), "validation": (58, 60), "test": (105, 98)}


@dataclass
class Found:
    """Labelled items of a source.

    Attributes:
        items: `{"image": path or list of paths, "label": name, "id": UID or "", "series": UID or "", "patient":
            pseudonym or ""}`, and "site" where the source tells it.
        rows: of each item, for messages.
        splits: of each item; None where the source has none.
        lesions: of each item; None where the source has none.
        class_names: in the order of the source, None where it has none.
    """

    items: list[Item] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    splits: list[str] | None = None
    lesions: list[str] | None = None
    class_names: Sequence[str] | None = None


def _file_item(path: Path) -> Item:
    return {"image": str(path), "id": "", "series": "", "patient": ""}


class Reading:
    """A data set's folder, indexed when a row asks for DICOM, and how its series are to be taken.

    Args:
        root: folder of the data.
        policy: what follows from a series that cannot be read.
        rule: which series stands for a patient or a folder that holds several.
        key: of the patients' pseudonyms.
    """

    def __init__(self, root: Path, policy: Policy, rule: SeriesRule | None, key: bytes) -> None:
        self.root, self.policy, self.rule, self.key = Path(os.path.abspath(root)), policy, rule, key
        self.left_out: list[DicomSeriesError] = []
        self.offered: set[str] = set()  # UIDs that the rule chose among
        self.chosen: set[str] = set()

    @cached_property
    def series(self) -> list[SeriesInfo]:
        """Every DICOM series below the folder."""
        try:
            return index_dicom(self.root, key=self.key)
        except NoDicomError:
            return []

    @cached_property
    def _by_uid(self) -> dict[str, list[SeriesInfo]]:
        return {one.series_uid: [one] for one in self.series}

    @cached_property
    def _by_patient(self) -> dict[str, list[SeriesInfo]]:
        found: dict[str, list[SeriesInfo]] = {}
        for one in self.series:
            found.setdefault(one.patient_key, []).append(one)
        return found

    @cached_property
    def _by_folder(self) -> dict[Path, list[SeriesInfo]]:
        found: dict[Path, list[SeriesInfo]] = {}
        for one in self.series:
            for folder in {parent for file in one.files for parent in file.parents}:
                found.setdefault(folder, []).append(one)
        return found

    @cached_property
    def _by_hash(self) -> dict[str, Path]:
        """Image and NIfTI files by the sha256 of their content: read whole, so only for lists that name them so."""
        kinds = (*IMAGE_SUFFIXES, *NIFTI_SUFFIXES)
        files = sorted(path for path in self.root.rglob("*") if path.name.lower().endswith(kinds) and path.is_file())
        return {sha256(path): path for path in files}

    def series_of_uid(self, uid: str, row: int, problems: Problems) -> list[Item]:
        """Return the items of a series."""
        if uid not in self._by_uid:
            problems.add("no DICOM series with this SeriesInstanceUID below dataset_dir", row)
        return self._readable(self._by_uid.get(uid, []), row, problems)

    def series_of_patient(self, patient: str, row: int, problems: Problems) -> list[Item]:
        """Return the items of the series that stands for a patient, by the rule."""
        found = self._by_patient.get(patient_pseudonym(patient, self.key), [])
        if not found:
            problems.add("no DICOM series of this patient below dataset_dir", row)
            return []
        chosen = self._choose(found)
        if not chosen:
            codes = count_codes(one.code for each in found if (one := each.problem(self.policy)) is not None)
            problems.add(
                f"no series of this patient fits the rule and can be read{f' ({codes})' if codes else ''}", row
            )
        return [item for one in chosen for item in items_of_series(one)]

    def at_path(self, value: str, row: int, problems: Problems) -> list[Item]:
        """Return the items at a path: an image or volume file, a DICOM file, a folder of DICOM."""
        path = Path(os.path.abspath(self.root / value))
        if not value or not path.exists():
            problems.add("the image does not exist below dataset_dir", row)
            return []
        if not path.resolve().is_relative_to(self.root.resolve()):
            problems.add("the image lies outside dataset_dir", row)
            return []
        if path.is_file():
            return self._one_file(path, row, problems) if is_dicom(path) else [_file_item(path)]
        found = self._by_folder.get(path, [])
        if not found:
            problems.add("there is no DICOM image in this folder", row)
        if self.rule is not None and found:
            chosen = self._choose(found)
            if not chosen:
                problems.add("no series in this folder fits the rule and can be read", row)
            return [item for one in chosen for item in items_of_series(one)]
        if sum(one.problem(self.policy) is None for one in found) > 1:
            problems.add(f"the folder holds {len(found)} DICOM series: name one by its UID, or set a series rule", row)
            return []
        readable = [one for one in found if one.problem(self.policy) is None]
        return self._readable(readable or found, row, problems)

    def _choose(self, found: Sequence[SeriesInfo]) -> list[SeriesInfo]:
        chosen = choose_series(found, self.rule or SeriesRule(), self.policy)
        self.offered |= {one.series_uid for one in found}
        self.chosen |= {one.series_uid for one in chosen}
        return chosen

    def with_hash(self, digest: str, row: int, problems: Problems) -> list[Item]:
        """Return the item of a file by its content."""
        if digest not in self._by_hash:
            problems.add("no file with this sha256 below dataset_dir", row)
            return []
        return [_file_item(self._by_hash[digest])]

    def picture_of_uid(self, uid: str, sop_uid: str, row: int, problems: Problems) -> list[Item]:
        """Return the item of one file of a series."""
        for one in self._by_uid.get(uid, []):
            if sop_uid in one.sop_uids:
                return [item_of_file(one, one.sop_uids.index(sop_uid))]
        problems.add("no DICOM image with these SeriesInstanceUID and SOPInstanceUID below dataset_dir", row)
        return []

    def _one_file(self, path: Path, row: int, problems: Problems) -> list[Item]:
        """Return the item of one DICOM file: a picture, a multi-frame volume, or a single slice if the row says so."""
        for one in self._by_folder.get(path.parent, []):
            if path in one.files:
                return [item_of_file(one, one.files.index(path))]
        problems.add("the DICOM file holds no image", row)
        return []

    def _readable(self, found: Iterable[SeriesInfo], row: int, problems: Problems) -> list[Item]:
        items = []
        for one in found:
            problem = one.problem(self.policy)
            if problem is None:
                items += items_of_series(one)
            elif self.policy[problem.code] == "skip":
                self.left_out.append(problem)
            else:
                problems.add(f"{problem.code}: {problem}", row)
        return items


# ------------------------------------------------------------------------------------------------------- sheets


def from_sheet(path: Path, reading: Reading, problems: Problems) -> Found:
    """Read a CSV or Excel sheet; a row names its image by `image`, else `series`, else `patient`.

    Raises:
        DataListError: no sheet, or without the columns that are needed.
    """
    table = _read_table(path)
    names = [str(column).strip().lower() for column in table.columns]
    table.columns = pd.Index([_COLUMNS.get(name, name) for name in names])
    twice = sorted({column for column in table if list(table.columns).count(column) > 1})
    sources = [column for column in ("image", "series", "patient") if column in table]
    if twice or not sources or "label" not in table:
        has = f"more than one column of {', '.join(twice)}" if twice else f"{list(table.columns)}"
        raise DataListError(
            f"the sheet needs the columns 'label' and one of 'image', 'series' (SeriesInstanceUID), 'patient' "
            f"(PatientID), it has: {has}"
        )
    found = Found(splits=[] if "split" in table else None, lesions=[] if "lesion" in table else None)
    for row, record in enumerate(table.to_dict("records"), start=2):  # row 1 is the header
        cells = {str(column): str(value).strip() for column, value in record.items()}
        split = SPLIT_NAMES.get(cells.get("split", "").lower(), "")
        if not cells["label"]:
            problems.add("no label", row)
        if "split" in cells and not split:
            problems.add(f"the split is none of {', '.join(SPLITS)}", row)
        if "patient" in cells and not cells["patient"]:
            problems.add("no patient", row)
        if cells.get("image") or sources == ["image"]:
            items = reading.at_path(cells["image"], row, problems)
        elif cells.get("series") or sources[-1] != "patient":
            items = reading.series_of_uid(cells.get("series", ""), row, problems)
        else:
            items = reading.series_of_patient(cells["patient"], row, problems)
        patient = patient_pseudonym(cells.get("patient", ""), reading.key)
        for item in items:
            more = {"label": cells["label"], "patient": patient or item["patient"]}
            found.items.append(item | more | ({"site": cells["site"]} if "site" in cells else {}))
            found.rows.append(row)
            if found.splits is not None:
                found.splits.append(split)
            if found.lesions is not None:
                found.lesions.append(cells["lesion"])
    return found


def _read_table(path: Path) -> pd.DataFrame:
    """Read all cells of a sheet as text; commas, semicolons or tabs, UTF-8 or Windows-1252.

    Raises:
        DataListError: it cannot be read.
    """
    try:
        if path.suffix.lower() in EXCEL_SUFFIXES:
            return pd.read_excel(path, dtype=str, keep_default_na=False).fillna("")
        content = path.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
        first = text.split("\n", 1)[0]
        separator = max(",;\t", key=first.count)
        return pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    except Exception as error:  # each format fails in its own ways, and may quote a cell
        raise DataListError(
            f"the sheet '{path.name}' cannot be read ({type(error).__name__}): give a CSV, or Excel as .xlsx, with one "
            "header row"
        ) from None


# -------------------------------------------------------------------------------------------------------- JSON


def from_json(path: Path, reading: Reading, class_names: Sequence[str] | None, problems: Problems) -> Found:
    """Read MONAI's data list, as `write_datalist` writes it or as others do.

    Raises:
        DataListError: no data list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataListError(f"'{path.name}' is no JSON") from None
    if not isinstance(content, dict) or any(not isinstance(content.get(split), list) for split in SPLITS):
        raise DataListError(f"{path.name} needs the lists {', '.join(SPLITS)}, each of {{'image': ..., 'label': ...}}")
    names = content.get("class_names", class_names)
    found = Found(splits=[], class_names=None if names is None else [str(name) for name in names])
    for row, (split, entry) in enumerate(((s, e) for s in SPLITS for e in content[s]), start=1):
        if not isinstance(entry, dict) or "label" not in entry or not {"image", "series", "sha256"} & set(entry):
            problems.add("needs 'label' and one of 'image', 'series', 'sha256'", row)
            continue
        if "series" in entry and "sop" in entry:
            items = reading.picture_of_uid(str(entry["series"]), str(entry["sop"]), row, problems)
        elif "series" in entry:
            items = reading.series_of_uid(str(entry["series"]), row, problems)
        elif "sha256" in entry:
            items = reading.with_hash(str(entry["sha256"]), row, problems)
        else:
            items = reading.at_path(str(entry["image"]), row, problems)
        for item in items:
            more = {key: str(entry[key]) for key in ("patient", "site") if entry.get(key)}
            found.items.append(item | {"label": _label(entry["label"], found.class_names)} | more)
            found.rows.append(row)
            assert found.splits is not None
            found.splits.append(split)
    if found.class_names is None and all(str(item["label"]).isdecimal() for item in found.items):
        found.class_names = [str(n) for n in range(max((int(item["label"]) for item in found.items), default=0) + 1)]
    return found


def _label(value: Any, class_names: Sequence[str] | None) -> str:
    """Return a class name; a number is a class index where there are names and it is none of them."""
    text = str(value)
    if class_names is None or text in class_names or not text.isdecimal() or int(text) >= len(class_names):
        return text
    return class_names[int(text)]


# ----------------------------------------------------------------------------------------------------- folders


def from_class_folders(root: Path, reading: Reading, class_names: Sequence[str] | None) -> Found:
    """Take a folder of images or DICOM series for each class.

    Raises:
        DataListError: no two such folders, or series that the policy calls errors.
    """
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    found = Found()
    for folder in folders:
        if class_names is not None and folder.name not in class_names:
            continue
        rule: Mapping[str, Any] | None = None if reading.rule is None else vars(reading.rule)
        studies = find_studies(folder, False, reading.policy.actions, rule, reading.key)
        reading.left_out += studies.problems
        found.items += [item | {"label": folder.name} for item in studies.items]
    found.rows = list(range(1, len(found.items) + 1))
    if len({item["label"] for item in found.items}) < 2:
        raise DataListError(
            "dataset_dir holds no data list and no two class folders with images. Give one of: a CSV or Excel sheet "
            "with the columns image,label (as dataset_dir/labels.csv or --data_list FILE), a MONAI data-list JSON, a "
            "folder of images or DICOM series for each class, or COVID-CT as published"
        )
    return found


def from_covid_ct(root: Path, problems: Problems) -> Found:
    """The official split: one list of file names for each class and split. A duplicated line of the lists is kept."""
    found = Found(splits=[], class_names=tuple(COVID_CT))
    for split, short in COVID_CT_SPLITS.items():
        for index, name in enumerate(COVID_CT):
            listing = root / "Data-split" / name / f"{short}CT_{name}.txt"
            folders = [root / parent / COVID_CT[name] for parent in ("Images", "Images-processed", "")]
            folder = next((f for f in folders if f.is_dir()), None)
            if folder is None or not listing.is_file():
                missing = f"no folder of images {COVID_CT[name]}" if folder is None else f"no {listing.name}"
                problems.add(f"COVID-CT: {missing}")
                continue
            names = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
            absent = sum(not (folder / file).is_file() for file in names)
            if absent:
                problems.add(
                    f"COVID-CT: {absent} of the {len(names)} images of {listing.name} are not in {folder.name}"
                )
            assert found.splits is not None
            for file in names:
                found.items.append(_file_item(folder / file) | {"label": name})
                found.splits.append(split)
            expected = COVID_CT_COUNTS[split][index]
            if len(names) != expected:
                logger.warning("COVID-CT: %s lists %d images, the official one %d", listing.name, len(names), expected)
    found.rows = list(range(1, len(found.items) + 1))
    return found
