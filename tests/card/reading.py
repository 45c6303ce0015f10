"""A model card read as a stranger would who trusts no number alone and no licence untold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import yaml
from huggingface_hub import ModelCard

# Hugging Face Hub, "Licenses": identifiers that the metadata may have and that these tests meet.
HUB_LICENCES = {"apache-2.0", "mit", "other", "unknown"}
_MEASURED = ("Results", "Patient groups", "Conformal sets", "Operating points", "Calibration")
_INTERVAL = re.compile(r"\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)")
_DECIMAL = re.compile(r"\d+\.\d+")


def front(card: str) -> dict[str, Any]:
    """The metadata of a card."""
    return yaml.safe_load(card.split("---\n")[1])


def sections(card: str) -> dict[str, list[str]]:
    """The lines of each section by its heading; those before the first heading under ""."""
    found: dict[str, list[str]] = {"": []}
    for line in card.split("\n---\n", 1)[1].splitlines():
        if line.startswith("## "):
            found[line[3:]] = []
        else:
            found[list(found)[-1]].append(line)
    return found


def tables(lines: list[str]) -> Iterator[list[dict[str, str]]]:
    """The tables among lines, each a list of rows by column; a row of another length raises."""
    left = iter(lines)
    for line in left:
        if line.startswith("|"):
            rows = [cells(one) for one in (line, *takewhile(lambda one: one.startswith("|"), left))]
            yield [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def cells(line: str) -> list[str]:
    return [one.strip() for one in re.split(r"(?<!\\)\|", line)[1:-1]]


def bare_numbers(card: str) -> list[str]:
    """Measured numbers that have neither an interval nor an n: cells of tables, and lines of text.

    Where the header has an n each row must have one, and a metric an interval, too, but for what has none.
    """
    found = []
    without_interval = {"n", "Value", "Limit", "average precision", "Said from this probability on"}
    names = {"", "Group", "Label", "Answer", "Asked"}
    for title in _MEASURED:
        lines = sections(card)[title]
        for row in (row for table in tables(lines) for row in table):
            counted = bool(re.fullmatch(r"[1-9]\d*( and \d+)?", row.get("n", "")))
            for column in row.keys() - names:
                known = bool(_INTERVAL.fullmatch(row[column])) or column in without_interval
                if _DECIMAL.search(row[column]) and not (known and counted):
                    found.append(f"{title}, {column}: {row[column]}")
        for line in lines:
            if not line.startswith("|") and _DECIMAL.search(_INTERVAL.sub("", line)) and "n = " not in line:
                found.append(f"{title}: {line}")
    metrics = front(card)["model-index"][0]["results"][0]["metrics"]
    return found + [one["name"] for one in metrics if not re.search(r"\(n = [1-9]\d*\)$", one["name"])]


def licence_faults(card: str) -> list[str]:
    """Steps of the chain without a licence, a source or what follows, and an unknown licence that the top hides."""
    (chain,) = tables(sections(card)["Licences"])
    found = [row["Step"] for row in chain if not all(row.values())]
    weights = [row for row in chain if "weights" in row["Step"]]
    if any(row["Licence"] == "not known" for row in weights) and "no licence is known" not in card.split("## ")[0]:
        found.append("unknown, and not said at the top")
    steps = [row["Step"] for row in chain]
    for needed in ("training images and labels", "software", "student", "exports", "scores and reports"):
        if needed not in steps:
            found.append(f"no {needed}")
    return found


def hub_faults(card: str) -> list[str]:
    """What the Hugging Face Hub would refuse, as far as can be told without it."""
    data, metadata = ModelCard(card).data, front(card)
    found = [] if data.to_dict().keys() >= metadata.keys() - {"model-index"} else ["keys are lost"]
    results = data.eval_results or []
    wanted = [one["value"] for one in metadata["model-index"][0]["results"][0]["metrics"]]
    if [one.metric_value for one in results] != wanted or not wanted:
        found.append("model-index cannot be read")
    if metadata["license"] not in HUB_LICENCES:
        found.append(f"license {metadata['license']}")
    if metadata["license"] == "other" and not metadata.get("license_name"):
        found.append("license other without license_name")
    if not all(re.fullmatch(r"[\w.-]+/[\w.-]+", one) for one in metadata.get("base_model", [])):
        found.append("base_model")
    if not all(isinstance(one, str) for one in metadata["tags"]):
        found.append("tags")
    return found
