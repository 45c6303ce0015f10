"""The trainings of each table of the paper: its rows, its columns, and the data lists that they share."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_rd.bundle import argument_pairs, bundle_config, parse_overrides
from monai_rd.datasets import DataList, write_datalist
from monai_rd.files import content_hash
from monai_rd.phantoms import phantom_cohort
from monai_rd.protocol.runs import Run, data_fingerprint
from monai_rd.pseudonyms import project_key

__all__ = [
    "SPLIT_SEED",
    "TABLES",
    "Column",
    "Experiment",
    "Row",
    "Table",
    "experiment",
    "part_of",
]

SHARES = (0.1, 0.25, 0.5, 1.0)
SPLIT_SEED = 0  # for data without an official split: the same split for all runs, whatever their seed


@dataclass(frozen=True)
class Row:
    """A row of a table: a method and its settings.

    Args:
        name: name in the table and in `--methods`.
        method: the bundle's `method`.
        options: options of the method, in JSON types (lists, no tuples).
        adapter: how the teacher is tuned; None: not at all.
        words: further arguments for the bundle.
        multi_label: for data with several labels an image only.
    """

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    adapter: str | None = None
    words: tuple[str, ...] = ()
    multi_label: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Args:
        title: what it shows.
        rows: all rows that `--methods` may name, in display order.
        shares: shares of the training list; with several, each gets a column.
        labels: whether the shares are of the labels only; the other training images are then unlabelled.
    """

    title: str
    rows: tuple[Row, ...]
    shares: tuple[float, ...] = (1.0,)
    labels: bool = False


_CE, _RD = Row("ce", "ce"), Row("rd", "rd")
_LABELLED = Row("rd_labelled", "rd", words=("--unlabelled_share", "0"))  # RD as published
_CUTMIX = ("--cutmix", "true")
# Explicit, not left to defaults: a changed default must not change the meaning of finished runs.
_SHARE = ("--unlabelled_share", "0.75")
_PUBLISHED = {"detach_teacher": False, "beta": [1.0, 0.0], "calibrated": False}
_DETACHED_CONSTANT = {**_PUBLISHED, "detach_teacher": True, "beta": [1.0, 1.0]}
_CALIBRATED = {**_DETACHED_CONSTANT, "calibrated": True}
_UNLABELLED_OPTIONS: dict[str, dict[str, Any]] = {
    "detached": {"detach_teacher": True},
    "constant_beta": {"beta": [1.0, 1.0]},
    "constant": {"alpha": [1.0, 1.0], "beta": [1.0, 1.0]},
    "detached_constant": _DETACHED_CONSTANT,
    "calibrated": _CALIBRATED,
    "calibrated_no_kd": {**_CALIBRATED, "kd": False},
    "calibrated_no_cka": {**_CALIBRATED, "cka": False},
    "temperature_4": {"temperature": 4.0},
    "unbiased_cka": {"estimator": "unbiased"},
    "whole_maps": {"grid": None},
    "no_kd": {"kd": False},
    "no_cka": {"cka": False},
}
_MIXED_OPTIONS: dict[str, dict[str, Any]] = {
    "cutmix": _PUBLISHED,
    "cutmix_detached_constant": _DETACHED_CONSTANT,
}
_SKEWED = {
    "rd": ("cross_entropy", "None"),
    "class_weights": ("cross_entropy", "balanced"),
    "sampling": ("cross_entropy", "sampling"),
    "logit_adjustment": ("logit_adjustment", "None"),
    "auc_margin": ("auc_margin", "None"),
    "focal": ("focal", "None"),
}
_FEATURES = ("hint", "at", "vid", "sp", "rkd", "semckd", "crd", "mgd", "norm", "drd")
_WITHOUT_LABELS = tuple(name for name in _FEATURES if name != "crd")  # CRD needs every item's label
_OF_THE_MEAN = ("kd", "pseudo", "rkd", "crd")  # methods that read only the mean of the teacher's map
_ADAPTERS = ("adaptformer", "lora", "vpt_shallow", "vpt_deep", "vqt", "lpt")

TABLES = {
    "table2": Table(
        "Ablation of RD",
        (
            _CE,
            Row("no_co_training", "rd", {"co_training": False}),
            Row("no_kd", "rd", {"kd": False}),
            Row("no_cka", "rd", {"cka": False}),
            Row("two_stages", "two_stages"),
            _RD,
        ),
    ),
    "table3": Table("Distillation methods", (_CE, *(Row(name, name) for name in _FEATURES), _RD)),
    "table4": Table("Teachers tuned by few parameters, then KD", (*(Row(a, "kd", {}, a) for a in _ADAPTERS), _RD)),
    "table5": Table("Size of the training set", (_CE, _RD), SHARES),
    "settings": Table(
        "RD's settings, one changed at a time",
        (
            _CE,
            Row("temperature_4", "rd", {"temperature": 4.0}),
            Row("detached", "rd", {"detach_teacher": True}),
            Row("unbiased_cka", "rd", {"estimator": "unbiased"}),
            Row("constant", "rd", {"alpha": [1.0, 1.0], "beta": [1.0, 1.0]}),
            Row("beta_5", "rd", {"beta": [5.0, 0.0]}),
            Row("small_phi", "rd", {"width": 128, "blocks": 1}),
            Row("whole_maps", "rd", {"grid": None}),
            _RD,
        ),
    ),
    "unlabelled": Table(
        "Few labels, and images without one",
        (
            _CE,
            _LABELLED,
            *(Row(name, name, words=_SHARE) for name in ("kd", "pseudo", *_WITHOUT_LABELS)),
            Row("rd_unlabelled", "rd", _PUBLISHED, words=_SHARE),
            Row("rd_calibrated", "rd", _CALIBRATED, words=_SHARE),
            Row("rd", "rd", _DETACHED_CONSTANT, words=(*_SHARE, *_CUTMIX)),
        ),
        (0.25,),
        labels=True,
    ),
    "unlabelled_settings": Table(
        "RD with unlabelled images, one setting changed at a time",
        (
            _CE,
            _LABELLED,
            Row("share_25", "rd", _PUBLISHED, words=("--unlabelled_share", "0.25")),
            Row("share_50", "rd", _PUBLISHED, words=("--unlabelled_share", "0.5")),
            *(Row(name, "rd", {**_PUBLISHED, **one}, words=_SHARE) for name, one in _UNLABELLED_OPTIONS.items()),
            Row("stored_views", "rd", _PUBLISHED, words=(*_SHARE, "--feature_views", "8")),
            Row("cutmix_ce", "ce", words=_CUTMIX),
            *(Row(name, "rd", one, words=(*_SHARE, *_CUTMIX)) for name, one in _MIXED_OPTIONS.items()),
            Row("rd", "rd", _PUBLISHED, words=_SHARE),
        ),
        (0.25,),
        labels=True,
    ),
    "skewed": Table(
        "RD and classes of unequal frequency",
        tuple(
            Row(name, "rd", words=("--criterion", criterion, "--class_weights", weights), multi_label=name == "focal")
            for name, (criterion, weights) in _SKEWED.items()
        ),
    ),
    "figure2": Table("Decision boundaries", (_CE, Row("kd_full", "kd", {}, "full"), _RD)),
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        teacher: name or file of the teacher; several teachers used together are separated by commas.
        student: name of the student.
        share: share of the training list, 0 to 1.
        training: number of training images.
    """

    teacher: str
    student: str
    share: float
    training: int

    @property
    def teacher_name(self) -> str:
        """The teacher's name for titles: the file name of a file; several are joined by "+"."""
        return "+".join(Path(name).name for name in self.teacher.split(","))


@dataclass(frozen=True)
class Experiment:
    """The grid of trainings of a table.

    Args:
        title: title of the table.
        rows: the rows in order.
        columns: the columns in order.
        seeds: number of seeds.
        runs: the runs by row, column and seed, in the order in which they are run: within a seed, methods that read a
            teacher's map come before those that read only its mean, which a feature store then has. A method without a
            teacher has the same run in the columns of all teachers.
        data: description of the data list, one sentence.
    """

    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    seeds: int
    runs: dict[tuple[Row, Column, int], Run]
    data: str


def experiment(
    table: Table,
    out: Path,
    dataset: str | None = None,
    bundle: str = "rd_ct",
    teachers: Sequence[str] = (),
    students: Sequence[str] = (),
    methods: Sequence[str] = (),
    seeds: int = 5,
    max_epochs: int | None = None,
    model_selection: str = "best",
    words: Sequence[str] = (),
    shares: Sequence[float] = (),
) -> Experiment:
    """Make the grid of a table, and write the data lists that its runs share into `out`.

    Args:
        table: one of `TABLES`.
        out: the benchmark's folder.
        dataset: folder of the data; None uses the bundle's phantoms, written into `out`.
        bundle: name of the bundle.
        teachers: the teachers, each with its own columns; empty uses the bundle's default.
        students: the students; empty uses the bundle's default.
        methods: names of rows; empty uses all that suit the data.
        seeds: number of seeds.
        max_epochs: epochs of each training; None uses the bundle's default.
        model_selection: "best" or "last".
        words: further arguments for the bundle.
        shares: shares of the training list, 0 to 1; empty uses the table's.

    Raises:
        ValueError: an unknown row, teacher or student, arguments that the protocol sets itself, shares outside 0 to 1,
            data that cannot be used, or `out` inside the data folder.
        FileNotFoundError: no such data, bundle or teacher file.
    """
    from monai_rd.methods import method_class
    from monai_rd.networks.student.students import student_dims
    from monai_rd.networks.teacher.zoo import check_teacher_name

    for teacher in teachers:
        check_teacher_name(teacher)
    dims = {student_dims(student) for student in students}  # raises an error for an unknown one
    if len(dims) > 1:
        raise ValueError(
            f"--students {','.join(students)}: networks of images and of volumes have no teacher in common"
        )
    unknown = sorted(set(methods) - {row.name for row in table.rows})
    if unknown:
        raise ValueError(f"--methods {','.join(unknown)}: there are {', '.join(row.name for row in table.rows)}")
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(f"--shares {','.join(map(str, shares))}: a share is above 0 and at most 1")
    overrides = parse_overrides(words)
    own = {"bundle_root", "output_dir", "dataset_dir", "student", "teacher", "method", "method_options", "adapter"}
    own |= {"seed", "max_epochs", "model_selection", "resume", "report_page"}
    if own & set(overrides):
        raise ValueError(f"--{sorted(own & set(overrides))[0]} is an option of the benchmark: put it before the --")
    if dataset is None:
        dataset = phantom_cohort(out, bundle.removeprefix("rd_"), volumes=dims == {3})
        if not table.labels and "unlabelled" not in overrides:
            words = (*words, "--unlabelled", "None")  # phantoms have unlabelled images by default
    if out.resolve().is_relative_to(Path(dataset).resolve()):
        raise ValueError(f"--out {out} lies in the data, which it would change: give another --out")
    data = data_fingerprint(dataset)
    out.mkdir(parents=True, exist_ok=True)
    key = project_key(out / "monai_rd.key")  # stored, so that the pseudonyms in the lists stay the same
    # Each training searches for further unlabelled images itself.
    known = {"dataset_dir": dataset, "seed": SPLIT_SEED, "data#key": key, "unlabelled": None}
    known |= {"student": students[0]} if students else {}
    config = bundle_config(bundle, {**overrides, **known})
    made: DataList = config.get_parsed_content("data")
    common: dict[str, Any] = {"bundle": bundle, "dataset_dir": dataset, "data": data, "max_epochs": max_epochs}
    rows = tuple(
        row for row in table.rows if (row.name in methods if methods else made.multi_label or not row.multi_label)
    )
    runs: dict[tuple[Row, Column, int], Run] = {}
    columns = tuple(
        Column(teacher, student, share, len(part_of(made, share, 0, table.labels).training))
        for teacher in teachers or (config.get_parsed_content("teacher"),)
        for student in students or (str(config["student"]),)
        for share in shares or table.shares
    )
    for column in columns:
        for seed in range(seeds):
            listed = _write_list(part_of(made, column.share, seed, table.labels), dataset, out, key)
            for row in sorted(rows, key=lambda row: row.method in _OF_THE_MEAN):
                runs[row, column, seed] = Run(
                    **common,
                    model_selection=model_selection,
                    teacher=column.teacher if row.adapter or method_class(row.method).needs_teacher else None,
                    student=column.student,
                    method=row.method,
                    method_options=row.options,
                    adapter=row.adapter,
                    seed=seed,
                    words=(*_without(words, "data_list"), *row.words, "--data_list", str(listed)),
                )
    return Experiment(table.title, rows, columns, seeds, runs, str(made))


def _without(words: Sequence[str], name: str) -> list[str]:
    return [text for one, value in argument_pairs(words) if one != name for text in (f"--{one}", value)]


def part_of(made: DataList, share: float, seed: int, labels: bool = False) -> DataList:
    """Return a data list with a share of the training list, stratified by class (the first of several classes).

    Larger shares contain the smaller ones. With `labels`, all other training images are kept as unlabelled ones.
    """
    if share == 1:
        return made
    random = np.random.default_rng(seed)
    order = random.permutation(len(made.training))
    classes: dict[tuple[int, ...], list[int]] = {}
    for index in order:
        classes.setdefault(made.classes(made.training[index])[:1], []).append(int(index))
    chosen = sorted(i for members in classes.values() for i in members[: max(round(share * len(members)), 1)])
    part = replace(made, training=[made.training[index] for index in chosen], groups=[])
    if not labels:
        return part
    rest = [item for index, item in enumerate(made.training) if index not in set(chosen)]
    return replace(part, unlabelled=[*made.unlabelled, *made.without_label(rest)])


def _write_list(made: DataList, dataset: str, out: Path, key: bytes) -> Path:
    """Write a data list below `out`, named by its content, so that equal lists have the same path."""
    unnamed = out / "lists" / f"{secrets.token_hex(4)}.json"
    write_datalist(made, dataset, unnamed, key)
    named = unnamed.with_name(f"{content_hash(unnamed)}.json")
    unnamed.replace(named)
    return named.resolve()
