"""What all sources of labelled items share: the items found, and a reader of the data set's folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from monai_rd.datasets.near_matches import near_ids, near_paths, would_match
from monai_rd.datasets.problems import DataListError, Problems
from monai_rd.datasets.studies import (
    Item,
    id_of_file,
    item_of_file,
    item_of_image,
    item_of_study,
    items_of_series,
    reason_unread,
)
from monai_rd.dicom import RoleRule, SeriesInfo, SeriesRule, choose_roles, choose_series, index_dicom, is_dicom
from monai_rd.dicom.values import known_uid_of
from monai_rd.errors import NoDicomError, NoRoleError, Policy, StudyError, count_codes
from monai_rd.files import READ_SUFFIXES, sha256
from monai_rd.pseudonyms import patient_pseudonym
from monai_rd.walk import walk

__all__ = ["Found", "Reading"]


@dataclass
class Found:
    """The labelled items of a source. Every list has one entry per item.

    Attributes:
        items: `{"image": path or list of paths, "label": class name, "id": UID or "", "series": UID or "", "patient":
            pseudonym or ""}`; see `Studies` for the other keys. In a multi-label source "label" is a tuple of any
            number of names.
        rows: row numbers, for messages.
        splits: one of `SPLITS`, `DEVELOPMENT`, or "" for an unknown name; None where the source has no splits.
        lesions: lesion IDs; None where the source has none.
        copies: a value that equal files share; None where files were not compared.
        class_names: class names in the order of the source; None where it defines none.
        multi_label: whether an item may have several classes or none.
    """

    items: list[Item] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    splits: list[str] | None = None
    lesions: list[str] | None = None
    copies: list[str] | None = None
    class_names: Sequence[str] | None = None
    multi_label: bool = False

    def picked(self, indices: Sequence[int]) -> Found:
        """Return the items at these positions."""
        splits, lesions, copies = (
            None if column is None else [column[i] for i in indices]
            for column in (self.splits, self.lesions, self.copies)
        )
        items, rows = [self.items[i] for i in indices], [self.rows[i] for i in indices]
        return replace(self, items=items, rows=rows, splits=splits, lesions=lesions, copies=copies)

    def classes(self, item: Item) -> tuple[str, ...]:
        """Return the class names of an item; empty where it has no label."""
        return item["label"] if self.multi_label else (item["label"],) if item["label"] else ()


class Reading:
    """Finds the items that the rows of a list name in a data set's folder; indexes DICOM only when a row needs it.

    Args:
        root: folder of the data.
        policy: how to handle series that cannot be read.
        rule: which series to take for a patient or a folder with several; None for no rule. See also `take_roles`.
        key: key of the patient pseudonyms.
    """

    def __init__(self, root: Path, policy: Policy, rule: SeriesRule | None, key: bytes) -> None:
        self.root, self.policy, self.rule, self.key = Path(os.path.abspath(root)), policy, rule, key
        self.left_out: list[StudyError] = []
        self.offered: set[str] = set()  # IDs of the series that the rule chose from
        self.chosen: set[str] = set()
        # What rows name that was not found, by row.
        self._no_path: dict[int, str] = {}
        self._no_patient: dict[int, str] = {}
        self._no_series: dict[int, str] = {}

    def take_roles(self, names: Collection[str]) -> None:
        """Make the roles that a list names those of the rule.

        Raises:
            DataListError: the rule has none, or not these.
            ValueError: a name that no role can have.
        """
        if not names:
            return
        if self.rule is None:
            self.rule = SeriesRule(roles=dict.fromkeys(names))
        if self.rule.roles is None:
            raise DataListError("the list names images by role, and the series rule has no roles: leave the rule out")
        if unknown := [name for name in names if name not in self.rule.roles]:
            raise DataListError(f"the list names the role '{unknown[0]}'; the roles are {', '.join(self.rule.roles)}")

    @cached_property
    def series(self) -> list[SeriesInfo]:
        """Every DICOM series below the folder."""
        try:
            found = index_dicom(self.root, key=self.key)
        except NoDicomError:
            return []
        return [one for one in found if one.is_image]  # without reports, segmentations and other non-images

    @cached_property
    def _by_uid(self) -> dict[str, list[SeriesInfo]]:
        return self._grouped("series_uid")

    @cached_property
    def _by_patient(self) -> dict[str, list[SeriesInfo]]:
        return self._grouped("patient_key")

    @cached_property
    def _by_study(self) -> dict[str, list[SeriesInfo]]:
        return self._grouped("study_uid")

    def _grouped(self, attribute: str) -> dict[str, list[SeriesInfo]]:
        """Return the series by an attribute."""
        found: dict[str, list[SeriesInfo]] = {}
        for one in self.series:
            found.setdefault(getattr(one, attribute), []).append(one)
        return found

    @cached_property
    def _by_folder(self) -> dict[Path, list[SeriesInfo]]:
        found: dict[Path, list[SeriesInfo]] = {}
        for one in self.series:
            real = {Path(os.path.realpath(folder)) for folder in {file.parent for file in one.files}}
            for folder in {each for own in real for each in (own, *own.parents)}:
                found.setdefault(folder, []).append(one)
        return found

    @cached_property
    def _by_file(self) -> dict[str, list[tuple[SeriesInfo, int]]]:
        """Series and position in it of each file, by real path, so that links are found too."""
        found: dict[str, list[tuple[SeriesInfo, int]]] = {}
        for one in self.series:
            for number, file in enumerate(one.files):
                found.setdefault(os.path.realpath(file), []).append((one, number))
        return found

    @cached_property
    def _by_hash(self) -> dict[str, Path]:
        """Image and volume files by the SHA-256 of their content; reads all files, so only used if a list needs it."""
        files = [path for path in walk(self.root).files if path.name.lower().endswith(READ_SUFFIXES)]
        found: dict[str, Path] = {}
        for path in files:
            with suppress(OSError):  # a row that names it is reported as not found
                found[sha256(path)] = path
        return found

    def series_of_uid(self, uid: str, row: int, problems: Problems, volume: str = "") -> list[Item]:
        """Return the items of a series; if it has several volumes, those of the volume named or chosen by the rule."""
        if self._needs_studies(row, problems):
            return []
        found = self._of_uid(uid)
        if not found:
            self._no_series[row] = uid
            problems.add("no DICOM series with this SeriesInstanceUID below dataset_dir", row)
        if not volume:
            return self._of_one_series(found, row, problems)
        named = [one for one in found if one.volume == volume]
        if found and not named:
            problems.add(f"the series holds no volume of this name; {_volumes_of(found)}", row)
        return self._readable(named, row, problems)

    def _of_uid(self, uid: str) -> list[SeriesInfo]:
        """Return the series with a UID, given as in the header or as this project's lists write it."""
        return self._by_uid.get(uid) or self._by_uid.get(known_uid_of(uid), [])

    def _of_one_series(self, found: Sequence[SeriesInfo], row: int, problems: Problems) -> list[Item]:
        """Return the items of a series, given all of its volumes."""
        if sum(one.problem(self.policy) is None for one in found) < 2:
            return self._readable(found, row, problems)
        if self.rule is None:
            problems.add(f"{_volumes_of(found)}: name one as 'series_volume', or set a series rule", row)
            return []
        return self._by_rule(found, row, problems, "the series")

    def series_of_study(self, uid: str, row: int, problems: Problems) -> list[Item]:
        """Return the items of the study's series that the rule chooses; the item of the study if the rule has roles."""
        found = self._by_study.get(uid) or self._by_study.get(known_uid_of(uid), [])
        if not uid or not found:
            problems.add("no DICOM series with this StudyInstanceUID below dataset_dir", row)
            return []
        return self._by_rule(found, row, problems, "this study")

    def _needs_studies(self, row: int, problems: Problems) -> bool:
        """Record a problem for a row that names a single image although the rule has roles."""
        if self.rule is None or self.rule.roles is None:
            return False
        problems.add(
            f"names one image, and there are the roles {', '.join(self.rule.roles)}: of DICOM name the study, the "
            "patient or a folder, of other files one for each role",
            row,
        )
        return True

    def series_of_patient(self, patient: str, row: int, problems: Problems) -> list[Item]:
        """Return the items of the patient's series that the rule chooses."""
        found = self._by_patient.get(patient_pseudonym(patient, self.key), [])
        if not found:
            self._no_patient[row] = patient
            problems.add("no DICOM series of this patient below dataset_dir", row)
            return []
        return self._by_rule(found, row, problems, "this patient")

    def at_path(self, value: str, row: int, problems: Problems) -> list[Item]:
        """Return the items at a path: an image or volume file, a DICOM file, or a folder of DICOM files."""
        path = self._placed(value, row, problems)
        if path is None:
            return []
        if not os.path.isdir(path):
            return self._one_file(path, row, problems)
        found = self._by_folder.get(Path(os.path.realpath(path)), [])
        if not found:
            problems.add("there is no DICOM image in this folder", row)
        if self.rule is not None and found:
            return self._by_rule(found, row, problems, "this folder")
        if len({one.series_uid for one in found}) == 1:
            return self._of_one_series(found, row, problems)
        if sum(one.problem(self.policy) is None for one in found) > 1:
            count = len({one.series_uid for one in found})
            problems.add(f"the folder holds {count} DICOM series: name one by its UID, or set a series rule", row)
            return []
        readable = [one for one in found if one.problem(self.policy) is None]
        return self._readable(readable or found, row, problems)

    def _placed(self, value: str, row: int, problems: Problems) -> Path | None:
        """Return the file or folder that a row names; None if there is none."""
        path = Path(os.path.abspath(self.root / value))
        if not value or not os.path.lexists(path):
            self._no_path[row] = value
            problems.add("the image does not exist below dataset_dir", row)
            return None
        if not path.is_relative_to(self.root):
            problems.add("the image lies outside dataset_dir", row)
            return None
        return path

    def study_of_files(
        self, images: Mapping[str, str], hashes: Mapping[str, str], row: int, problems: Problems
    ) -> list[Item]:
        """Return the item of a study whose images are files, none of them DICOM.

        Args:
            images: the path of each role that the study has.
            hashes: in place of it, the SHA-256 of its file.
            row: see `at_path`.
            problems: see `at_path`.
        """
        found = {role: self._placed(path, row, problems) for role, path in images.items()}
        found |= {role: self._of_hash(digest, row, problems) for role, digest in hashes.items()}
        order = self.rule.roles if self.rule is not None and self.rule.roles is not None else found
        files = {role: file for role in order if (file := found.get(role)) is not None}
        if len(files) < len(found):
            return []
        for file in files.values():
            if os.path.isdir(file) or is_dicom(file):
                problems.add("a role names DICOM: name its study, and give a --series_rule with the roles", row)
                return []
            if (reason := reason_unread(file)) is not None:
                self._refuse(reason, row, problems)
                return []
        if not files:
            self._refuse(NoRoleError("names no image for any role"), row, problems)
        elif len(set(map(os.path.realpath, files.values()))) < len(files):
            problems.add("one file is named for two roles", row)
        else:
            return [item_of_image(files)]
        return []

    def advise(self, problems: Problems) -> None:
        """Record what would make rows without a match find one (see `near_matches`), without quoting their values."""
        studies = {one.study_uid for one in self.series} if self._no_series else set()
        uids = near_ids(self._no_series.values(), self._by_uid.__contains__) if self._no_series else {}
        uids |= dict.fromkeys(
            studies.intersection(self._no_series.values()), "as a StudyInstanceUID: name it as 'study'"
        )
        patients = near_ids(self._no_patient.values(), lambda one: patient_pseudonym(one, self.key) in self._by_patient)
        paths = near_paths(self._no_path.values(), self._relative_paths()) if self._no_path else {}
        for found, rows in ((uids, self._no_series), (patients, self._no_patient), (paths, self._no_path)):
            for how, which in would_match(found, rows).items():
                problems.add(f"{len(which)} of the rows that match nothing would match {how}")

    def _relative_paths(self) -> list[str]:
        """Relative paths of all files below the folder, and of the folders that hold them."""
        files = [path.relative_to(self.root) for path in walk(self.root).files]
        return [path.as_posix() for path in {*files, *(parent for file in files for parent in file.parents)}]

    def _by_rule(self, found: Sequence[SeriesInfo], row: int, problems: Problems, where: str) -> list[Item]:
        """Return the items of the series or, if the rule has roles, of the studies that the rule chooses."""
        if self.rule is not None and self.rule.roles is not None:
            if None in self.rule.roles.values():
                problems.add("names DICOM, and the roles of this list are named by files", row)
                return []
            return self._by_roles(found, self.rule.role_rules(), row, problems, where)
        chosen = choose_series(found, self.rule or SeriesRule(), self.policy)
        self.offered |= {one.id for one in found}
        self.chosen |= {one.id for one in chosen}
        if not chosen:
            codes = count_codes(one.code for each in found if (one := each.problem(self.policy)) is not None)
            problems.add(f"no series of {where} fits the rule and can be read{f' ({codes})' if codes else ''}", row)
        return [item for one in chosen for item in items_of_series(one)]

    def _by_roles(
        self, found: Sequence[SeriesInfo], roles: Mapping[str, RoleRule], row: int, problems: Problems, where: str
    ) -> list[Item]:
        """Return the items of the studies; what cannot be read is no missing role, and is treated by the policy."""
        studies = choose_roles(found, roles, self.policy)
        fit = (one for one in found if any(rule.accepts(one) for rule in roles.values()))
        for problem in (*(one.problem(self.policy) for one in fit), *(study.problem for study in studies)):
            if problem is not None:
                self._refuse(problem, row, problems)
        usable = [study for study in studies if study.problem is None]
        self.offered |= {one.id for one in found}
        self.chosen |= {one.id for study in usable for one, _ in study.images.values()}
        if not studies:
            problems.add(f"no series of {where} can be read", row)
        return [item_of_study(study) for study in usable]

    def with_hash(self, digest: str, row: int, problems: Problems) -> list[Item]:
        """Return the item of the file whose content has this SHA-256."""
        if self._needs_studies(row, problems):
            return []
        file = self._of_hash(digest, row, problems)
        return [] if file is None else [item_of_image(file)]

    def _of_hash(self, digest: str, row: int, problems: Problems) -> Path | None:
        file = self._by_hash.get(digest)
        if file is None:
            problems.add("no file with this sha256 below dataset_dir", row)
        return file

    def picture_of_uid(self, uid: str, sop_uid: str, row: int, problems: Problems) -> list[Item]:
        """Return the item of one file of a series, by the UIDs of both."""
        if self._needs_studies(row, problems):
            return []
        wanted = (sop_uid, known_uid_of(sop_uid))
        for one in self._of_uid(uid):
            for number in range(len(one.files)):
                if id_of_file(one, number) in wanted:
                    return [item_of_file(one, number)]
        problems.add("no DICOM image with these SeriesInstanceUID and SOPInstanceUID below dataset_dir", row)
        return []

    def _one_file(self, path: Path, row: int, problems: Problems) -> list[Item]:
        """Return the item of one file; for DICOM that is a picture, a multi-frame volume, or the single slice named."""
        if self._needs_studies(row, problems):
            return []
        if not is_dicom(path):
            reason = reason_unread(path)
            if reason is not None:
                self._refuse(reason, row, problems)
            return [item_of_image(path)] if reason is None else []
        found = self._by_file.get(os.path.realpath(path), [])
        if not found:
            problems.add("the DICOM file holds no image", row)
        if len(found) > 1:
            return self._of_one_series([one for one, _ in found], row, problems)
        return [item_of_file(*own) for own in found]

    def _refuse(self, problem: StudyError, row: int, problems: Problems) -> None:
        """Leave out what a row names, or record it as a problem, as the policy says."""
        if self.policy[problem.code] == "skip":
            self.left_out.append(problem)
        else:
            problems.add(f"{problem.code}: {problem}", row)

    def _readable(self, found: Iterable[SeriesInfo], row: int, problems: Problems) -> list[Item]:
        items = []
        for one in found:
            problem = one.problem(self.policy)
            if problem is None:
                items += items_of_series(one)
            else:
                self._refuse(problem, row, problems)
        return items


def _volumes_of(found: Sequence[SeriesInfo]) -> str:
    names = [one.volume for one in found]
    return f"the series holds {len(names)} volumes ({'; '.join(names[:8])}{'; ...' if len(names) > 8 else ''})"
