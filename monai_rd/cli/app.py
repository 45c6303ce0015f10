"""The console command `monai-rd`."""

from __future__ import annotations

import sys

import typer

from monai_rd.cli import (
    audit,
    benchmark,
    bundles,
    card,
    datalist,
    deploy_app,
    drift,
    export,
    features,
    index,
    label_app,
    predict,
    serve,
    teachers,
)
from monai_rd.cli import students as student_table
from monai_rd.console import message_of, start_logging
from monai_rd.text import printable

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(index.index)
app.command()(datalist.datalist)
app.command()(audit.audit)
for command in (bundles.train, bundles.evaluate, bundles.score):
    app.command(context_settings=bundles.WORDS_FOLLOW)(command)
app.command()(predict.predict)
app.command()(serve.serve)
app.command()(card.card)
app.command()(drift.drift)
app.command("export")(export.export_command)
app.command("label-app")(label_app.label_app)
app.command("deploy-app")(deploy_app.deploy_app)
app.add_typer(teachers.app, name="teachers")
app.command()(student_table.students)
app.add_typer(features.app, name="features", help="Compute a teacher's features beforehand, check, list, remove them.")
app.add_typer(benchmark.app, name="benchmark", help="Run the paper's experiments and make its tables.")


def main() -> None:
    """Run the command; wrong input ends with a one-line message that says what to do."""
    start_logging()
    try:
        app()
    except Exception as error:
        message = message_of(error, sys.argv[1:])
        if message is None:
            raise
        print(f"monai-rd: {printable(message)}", file=sys.stderr)
        sys.exit(2)
