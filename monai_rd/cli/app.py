"""The console command `monai-rd`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

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
from monai_rd.files import error_text, no_room
from monai_rd.streams import make_streams_robust
from monai_rd.text import printable, system_message

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
    make_streams_robust()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("highdicom").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # its messages contain addresses
    try:
        app()
    except Exception as error:
        if not isinstance(error, (ValueError, OSError)) and not no_room(error):
            raise
        print(f"monai-rd: {printable(_said(error, sys.argv[1:]))}", file=sys.stderr)
        sys.exit(2)


def _said(error: Exception, words: Sequence[str]) -> str:
    """Format an error; the path of a file in a system error is cut to the part that the user typed.

    Names below that part may be those of patients.
    """
    if not isinstance(error, OSError) or error.errno is None or error.filename is None or no_room(error):
        return error_text(error)
    file = os.path.abspath(os.fsdecode(error.filename))
    typed = [part for word in words for part in {word, word.partition("=")[2]} if part]
    known = [part for part in typed if Path(file).is_relative_to(os.path.abspath(part))]
    if not known:
        return f"{system_message(error)}: a file or folder below none of the paths typed"
    nearest = max(known, key=lambda part: len(os.path.abspath(part)))
    where = nearest if os.path.abspath(nearest) == file else f"something below {nearest}"
    return f"{system_message(error)}: {where}"
