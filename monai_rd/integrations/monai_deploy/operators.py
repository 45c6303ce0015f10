"""Operators for MONAI Deploy: from a folder of DICOM to scores and structured reports.

They replace the SDK's own operators where those would change the result or hide a defect: its loader drops slices at
the same position, its volume operator swaps row and column spacing and does not detect missing slices, and its bundle
operator names a wrong class. The SDK's own series selector runs between them.

    StudyIndexOperator -> DICOMSeriesSelectorOperator -> StudyLoaderOperator -> StudyInferenceOperator
        -> ClassifierOperator -> ReportWriterOperator

This module needs monai-deploy-app-sdk; the rest of the package does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.dicom_series_selection import StudySelectedSeries
from monai.deploy.core.domain.dicom_study import DICOMStudy
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from pydicom import dcmread

from monai_rd.datasets import Studies
from monai_rd.datasets.studies import Item, files_of_item
from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.dicom.values import known_uid
from monai_rd.errors import count_codes, reading_files
from monai_rd.inference import Predictor
from monai_rd.inference.predictor import without_paths
from monai_rd.integrations.archives.endpoints import write_object
from monai_rd.integrations.dicom_output import structured_report
from monai_rd.integrations.monai_deploy.app_log import keep_log_to_ourselves

__all__ = [
    "ClassifierOperator",
    "ReportWriterOperator",
    "StudyIndexOperator",
    "StudyInferenceOperator",
    "StudyLoaderOperator",
    "quiet_context",
]

logger = logging.getLogger(__name__)

SELECTED = "study_selected_series_list"  # the SDK's name


def quiet_context(arguments: list[str]) -> AppContext:
    """Make the SDK's context of an application, and filter its log from here on (`keep_log_to_ourselves`).

    Args:
        arguments: the application's command line, `Application.argv`.
    """
    logging.disable(logging.WARNING)  # creating the context logs paths, to new handlers
    try:
        context = Application.init_app_context(arguments)
    finally:
        logging.disable(logging.NOTSET)
    keep_log_to_ourselves()
    return context


Compute = Callable[[Any, Any, Any, Any], None]


def _nameless(compute: Compute) -> Compute:
    """Make an operator fail without the error's text, which Holoscan logs and which may contain a path."""

    @wraps(compute)
    def computed(self: Any, op_input: Any, op_output: Any, context: Any) -> None:
        try:
            compute(self, op_input, op_output, context)
        except Exception as error:
            raise RuntimeError(f"{type(self).__name__} failed with {without_paths(error)}") from None

    return computed


class StudyIndexOperator(DICOMDataLoaderOperator):
    """The SDK's loader based on this project's index: reads headers only, tolerates other files, reports defects.

    Named outputs:
        dicom_study_list: the `DICOMStudy` objects of all readable series, as the SDK's loader makes them, but without
            pixels.
        studies: `Studies`: the items to load, and why series were left out.

    Args:
        input_folder: the folder to search, with all its subfolders.
        predictor: the predictor, whose policy decides which defects are accepted.
    """

    def __init__(self, fragment: Fragment, *args: Any, input_folder: Path, predictor: Predictor, **kwargs: Any) -> None:
        self.predictor = predictor
        once = CountCondition(fragment, 1)  # otherwise Holoscan runs an operator without inputs forever
        super().__init__(fragment, once, *args, input_folder=input_folder, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the inputs and outputs."""
        super().setup(spec)
        spec.output("studies")

    @_nameless
    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Index the folder and emit the studies."""
        studies = self.predictor.find(self.input_path)
        op_output.emit(studies, "studies")
        op_output.emit(self._domain_objects(studies), self.output_name)

    @log_warnings_once()
    def _domain_objects(self, studies: Studies) -> list[DICOMStudy]:
        by_study: dict[str, DICOMStudy] = {}
        by_series: dict[str, DICOMSeries] = {}
        seen: set[Path] = set()  # one file may contain several volumes
        for item in (one for one in studies.items if one["series"]):
            with reading_files():
                headers = [dcmread(file, stop_before_pixels=True) for file in files_of_item(item) if file not in seen]
            seen |= set(files_of_item(item))
            if not headers:
                continue
            if item["study"] not in by_study:
                by_study[item["study"]] = DICOMStudy(item["study"])
                self.populate_study_attributes(by_study[item["study"]], headers[0])
            several = len(_series_of(item)) > 1
            for header in headers:
                uid = known_uid(header, "SeriesInstanceUID") if several else item["series"]
                if uid not in by_series:
                    series = by_series[uid] = DICOMSeries(uid)
                    self.populate_series_attributes(series, header)
                    by_study[item["study"]].add_series(series)
                by_series[uid].add_sop_instance(header)
        return list(by_study.values())


class _OfPredictor(Operator):
    """Base of the operators that use a predictor."""

    def __init__(self, fragment: Fragment, *args: Any, predictor: Predictor, **kwargs: Any) -> None:
        self.predictor = predictor
        super().__init__(fragment, *args, **kwargs)


class StudyLoaderOperator(_OfPredictor):
    """Loads and preprocesses the selected series and pictures for the network.

    A study of several roles is selected if all of its series are.

    Named inputs: `studies` of `StudyIndexOperator`, and the selector's `study_selected_series_list`.
    Named output: `images`, items with `image`, or with the code of a `problem` and its `message`.

    Args:
        predictor: the predictor whose preprocessing is used.
    """

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the inputs and outputs."""
        spec.input("studies")
        spec.input(SELECTED)
        spec.output("images")

    @_nameless
    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Load and emit the images."""
        studies: Studies = op_input.receive("studies")
        chosen = _uids(op_input.receive(SELECTED))
        images: list[dict[str, Any]] = [
            _left_out({"id": one.study_id, "series": one.series_uid or ""}, one.code, str(one))
            for one in studies.problems
        ]
        for item in (one for one in studies.items if one["series"]):
            if chosen.issuperset(_series_of(item)):
                images.append(self.predictor.classifier.prepare(item))
            else:
                images.append(_left_out(item, "NOT_SELECTED", "the selection rules do not take it"))
        op_output.emit(images, "images")


class StudyInferenceOperator(_OfPredictor):
    """Computes the student's calibrated probabilities for each study and its slices.

    Named input: `images`, see `StudyLoaderOperator`.
    Named output: `predictions`, pairs of an item and the result of `StudyClassifier.infer`, None if it has a problem.

    Args:
        predictor: the predictor whose network is used.
    """

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the inputs and outputs."""
        spec.input("images")
        spec.output("predictions")

    @_nameless
    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Run the network and emit the probabilities."""
        infer = self.predictor.classifier.infer
        images = op_input.receive("images")
        op_output.emit([(one, None if one["problem"] else infer([one])[0]) for one in images], "predictions")


class ClassifierOperator(_OfPredictor):
    """Converts the probabilities to predictions, writes them to `scores.csv` and `.json`, and emits them.

    Do not use the `result` of the SDK's bundle operator instead: it takes each probability for the index of a class.

    Named input: `predictions`, see `StudyInferenceOperator`.
    Named output: `answers`, a `Prediction` for each study.

    Args:
        predictor: the predictor whose classes are used.
        output_folder: where the scores are written, see `write_scores`.

    Attributes:
        scored: number of studies with a score, after a run.
    """

    def __init__(self, fragment: Fragment, *args: Any, output_folder: Path, **kwargs: Any) -> None:
        self.output_folder, self.scored = output_folder, 0
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the inputs and outputs."""
        spec.input("predictions")
        spec.output("answers")

    @_nameless
    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the scores and emit the predictions."""
        answers = [self.predictor.classifier.answer(*one) for one in op_input.receive("predictions")]
        self.predictor.write(answers, self.output_folder / "scores.csv")
        problems = [one.problem for one in answers if one.problem]
        self.scored = len(answers) - len(problems)
        logger.info("%d studies scored, %d left out (%s)", self.scored, len(problems), count_codes(problems) or "none")
        op_output.emit(answers, "answers")


class ReportWriterOperator(_OfPredictor):
    """Writes a DICOM structured report (TID 1500) for each scored study, see `structured_report`.

    Named input: `answers` of `ClassifierOperator`.

    Args:
        predictor: the predictor whose student the reports name.
        output_folder: where the reports are written, each named by its SOPInstanceUID.
    """

    def __init__(self, fragment: Fragment, *args: Any, output_folder: Path, **kwargs: Any) -> None:
        self.output_folder = output_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the input."""
        spec.input("answers")

    @_nameless
    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the reports; a study without a report does not affect the others."""
        failed = []
        for one in (one for one in op_input.receive("answers") if not one.problem):
            try:
                report = structured_report(one, self.predictor.algorithm)
            except Exception as error:
                failed.append(without_paths(error))
            else:
                write_object(report, self.output_folder / f"{report.SOPInstanceUID}.dcm")
        if failed:
            logger.warning("%d scored studies without a report, because of: %s", len(failed), count_codes(failed))


def _left_out(item: Mapping[str, Any], problem: str, message: str) -> dict[str, Any]:
    return {**item, "files": (), "problem": problem, "message": message}


def _series_of(item: Item) -> list[str]:
    """Return the SeriesInstanceUIDs of an item; a study of several roles may have several."""
    return item["series"].split("|")


def _uids(selected: Iterable[StudySelectedSeries]) -> set[str]:
    return {str(one.series.SeriesInstanceUID) for study in selected for one in study.selected_series}
