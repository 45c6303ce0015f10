"""A student distilled with monai_rd as a MONAI Deploy application: DICOM in, scores.json and DICOM SR out.

Run it as `python app.py -i DICOM_FOLDER -o OUTPUT_FOLDER -m models`. Research use only, not for clinical use.
"""

import logging
import sys
from pathlib import Path

from monai.deploy.core import Application
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator

from monai_rd.inference import Predictor, TorchScriptFile
from monai_rd.integrations.monai_deploy.operators import (
    ClassifierOperator,
    ReportWriterOperator,
    StudyIndexOperator,
    StudyInferenceOperator,
    StudyLoaderOperator,
    quiet_context,
)

logger = logging.getLogger("monai_rd.integrations.monai_deploy.app")
RULES = Path(__file__).parent / "selection.json"  # in the format of DICOMSeriesSelectorOperator


class StudentApp(Application):
    """Classifies every series of a folder that matches the selection rules."""

    def compose(self) -> None:
        """Connect the operators."""
        context = quiet_context(self.argv)
        model = context.models.get() if context.models else None
        if model is None or model.model_type != "torch_script":
            raise ValueError("give the folder of the models, or the model's file, with -m")
        predictor, output = Predictor(TorchScriptFile(Path(model.path))), Path(context.output_path)

        index = StudyIndexOperator(self, input_folder=Path(context.input_path), predictor=predictor, name="index")
        select = DICOMSeriesSelectorOperator(
            self, rules=RULES.read_text(encoding="utf-8"), all_matched=True, name="select"
        )
        load = StudyLoaderOperator(self, predictor=predictor, name="load")
        infer = StudyInferenceOperator(self, predictor=predictor, name="infer")
        self.classify = ClassifierOperator(self, predictor=predictor, output_folder=output, name="classify")
        report = ReportWriterOperator(self, predictor=predictor, output_folder=output, name="report")

        self.add_flow(index, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(index, load, {("studies", "studies")})
        self.add_flow(select, load, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(load, infer, {("images", "images")})
        self.add_flow(infer, self.classify, {("predictions", "predictions")})
        self.add_flow(self.classify, report, {("answers", "answers")})


def main() -> None:
    """Run the application; exit code 1 if no study was scored."""
    app = StudentApp()
    app.run()
    if app.classify.scored == 0:
        logger.error("no study was scored: scores.json says why")
        sys.exit(1)


if __name__ == "__main__":
    main()
