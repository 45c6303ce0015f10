"""Write the pages of the reference that repeat what the code says: commands and ids.

    python tools/write_reference.py

A test compares them with the code.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from typer.main import get_command

from monai_rd.cli.app import app
from monai_rd.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"


def main() -> None:
    """Write both."""
    for name, text in pages().items():
        atomic_write(text, REFERENCE / name)


def pages() -> dict[str, str]:
    """The pages by their names."""
    return {"commands.md": commands(), "ids.md": ids()}


def commands() -> str:
    """Each command of the console with its arguments and options."""
    parts = ["# Commands", "What `monai-rd COMMAND --help` prints."]
    for name, command in sorted(_leaves("monai-rd", get_command(app))):
        usage = [name]
        rows = []
        for one in sorted(command.params, key=lambda one: (one.metavar or "").startswith("--")):
            if one.param_type_name == "argument":
                word = one.metavar or one.name
                usage.append(word if one.required else f"[{word}]")
                rows.append((f"`{word}`", one.help or "", ""))
            elif one.name != "help":
                default = getattr(one.default, "value", one.default)
                told = "" if default in (None, False, "", ()) or callable(default) else f"`{default}`"
                rows.append((f"`{' '.join([*one.opts, *one.secondary_opts])}`", one.help or "", told))
        sentences = re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join((command.help or "").split()))
        parts += [f"## {name}", "\n".join(textwrap.fill(one, 120) for one in sentences), f"    {' '.join(usage)}"]
        if rows:
            parts.append("\n".join(["| | | default |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join(parts) + "\n"


def _leaves(name: str, command: Any) -> list[tuple[str, Any]]:
    found = [leaf for key, one in getattr(command, "commands", {}).items() for leaf in _leaves(f"{name} {key}", one)]
    own = not hasattr(command, "commands") or command.invoke_without_command
    return [*found, *([(name, command)] if own else [])]


def ids() -> str:
    """The ids that may be set, from the README of the CT bundle."""
    page = (ROOT / "bundles" / "rd_ct" / "docs" / "README.md").read_text(encoding="utf-8")
    table = re.search(r"^\| id .*?\n\n", page, re.DOTALL | re.MULTILINE)
    assert table is not None
    here = table.group(0).replace("](../../../docs/", "](../")
    head = [
        "# Ids",
        "What may be set for `rd_ct`, as `--ID VALUE` or in a config of your own.\n"
        "The other bundles have the same ids but `windows`; `rd_mr` has `n4`.",
        here.strip(),
    ]
    return "\n\n".join(head) + "\n"


if __name__ == "__main__":
    main()
