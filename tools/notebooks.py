"""A hook of MkDocs: with RUN_PAGES=1 it runs the pages of docs/start as notebooks and shows what their cells print.

A page is its notebook: jupytext makes a cell of every block of Python or bash, and text of everything else (the
commands that are not to be run are in blocks of the language "shell"). Each page runs in a new folder. A cell that
fails fails the site. The executed notebook lies next to its page in the site.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PAGES = "start/"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page's Markdown with the outputs of its cells; called by MkDocs for each page."""
    if not page.file.src_uri.startswith(PAGES) or os.environ.get("RUN_PAGES") != "1":
        return markdown
    import nbformat
    from mkdocs.structure.files import File

    notebook = executed(markdown)
    name = Path(page.file.src_uri).with_suffix(".ipynb")
    files.append(File.generated(config, name.as_posix(), content=nbformat.writes(notebook)))
    return f"{with_outputs(notebook)}\n\n[This page as a notebook with its outputs]({name.name})\n"


def executed(markdown: str) -> Any:
    """Run a page as a notebook, in a new folder that is removed afterwards.

    Args:
        markdown: the text of the page.

    Returns:
        The notebook with its outputs, in which the folder is called "work".

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the error shows the cell and what it printed.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.reads(markdown, fmt="md")
    commands = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # monai-rd of this environment
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, resources=place, kernel_name="python3", coalesce_streams=True)
        client.execute(env={**os.environ, "PATH": commands})
    places = re.compile("|".join(re.escape(str(place)) for place in (Path(folder).resolve(), Path(folder))))
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "text" in output:
            output["text"] = places.sub("work", output["text"])
    return notebook


def with_outputs(notebook: Any) -> str:
    """Return an executed notebook as Markdown, each cell followed by what it printed, drew or returned."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            parts.append(cell.source)
            continue
        language, source = ("bash", cell.source[7:]) if cell.source.startswith("%%bash\n") else ("python", cell.source)
        parts.append(f"```{language}\n{source}\n```")
        printed = "".join(output["text"] for output in cell.outputs if "text" in output)
        parts += [block(printed)] if printed.strip() else []
        parts += [shown(output["data"]) for output in cell.outputs if "data" in output]
    return "\n\n".join(parts)


def shown(data: dict[str, str]) -> str:
    """Return a picture, a table or else the text of an output as a block of HTML."""
    if "image/png" in data:
        return f'<img class="output" alt="what the cell draws" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        plain = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)  # the theme's own style instead
        return f'<div class="output">{re.sub("<table[^>]*>", "<table>", plain)}</div>'
    return block(data["text/plain"])


def block(text: str) -> str:
    """Return text as a fenced block, without the codes of its colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip()
    return f"```{{ .text .output }}\n{plain}\n```"
