"""Writing a student's papers beside it: the model card, its facts, and MONAI's metadata filled from them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_rd.card.facts import Training, facts
from monai_rd.card.front_matter import front_matter
from monai_rd.card.page import NOTES, page
from monai_rd.export.manifest import network_metadata
from monai_rd.files import atomic_write, error_text, sha256
from monai_rd.inference.papers import CARD, CARD_JSON, read_card
from monai_rd.text import printable, read_text, system_message

__all__ = ["METADATA", "ModelCard", "rewrite", "write_page"]

logger = logging.getLogger(__name__)

METADATA = "metadata.json"


class ModelCard:
    """Writes the papers of a training that has ended.

    Into the folder of `model.pt`: `model_card.md`, with the user's own words from `model_card_notes.md` in the same
    folder; `model_card.json`, the same facts and the Hub's metadata under `hugging_face`; and `metadata.json`, the
    bundle's with what the training knows. None names a patient, a path or the data set's folder.

    Args:
        settings: see `Training`, whose arguments these are.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def write(self) -> Path | None:
        """Write the papers, and print where the card is.

        An error is logged and not raised, because what was trained is there already.

        Returns:
            The card; None if it could not be written.
        """
        try:
            training = Training(**self._settings)
            trained = training.trained
            found = facts(training)
            card = write_page(trained.model_path.parent, {**found, "hugging_face": front_matter(found)})
            metadata = json.dumps(network_metadata(training.trained), indent=4) + "\n"
            atomic_write(metadata, trained.model_path.with_name(METADATA))
        except Exception as error:  # hours of training must not end in an error because of their papers
            known = isinstance(error, (OSError, ValueError))
            words = "the model card could not be written (one that is there is of an earlier student): %s"
            logger.error(words, error_text(error), exc_info=not known)
            return None
        print(f"model card: {card}")
        return card


def write_page(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write `model_card.md` and `model_card.json` from facts and the user's words, and return the path of the first.

    A card that was edited by hand, or is none of this program's, is kept as `model_card_edited_N.md`.

    Args:
        folder: folder of the student's `model.pt`.
        found: the facts.

    Raises:
        OSError: a file cannot be written.
    """
    path = folder / CARD
    _keep_edited(path)
    text = page(found, _notes(folder / NOTES))
    atomic_write(text, path)
    content = {**found, "card_sha256": hashlib.sha256(text.encode()).hexdigest()}
    atomic_write(json.dumps(content, indent=2, ensure_ascii=False) + "\n", folder / CARD_JSON)
    return path


def rewrite(folder: Path) -> Path:
    """Write the card of a student anew from its facts, with the user's words as they are now.

    Raises:
        FileNotFoundError: no trained student.
        ValueError: there is no card of this student, see `read_card`.
    """
    return write_page(folder, read_card(folder / "model.pt"))


def _notes(path: Path) -> str:
    """Return the user's words; in place of those that cannot be read, why."""
    try:
        text = read_text(path) if path.exists() else ""
        return printable("\n".join(text.splitlines()).expandtabs(4))
    except OSError as error:
        reason = f"{NOTES} could not be read: {system_message(error)}"
        logger.warning("the model card is without your words: %s", reason)
        return f"({reason})"


def _keep_edited(path: Path) -> None:
    if not path.is_file() or sha256(path) == _last_written(path.with_name(CARD_JSON)):
        return
    number = 1
    while (kept := path.with_name(f"{path.stem}_edited_{number}.md")).exists():
        number += 1
    os.rename(path, kept)
    logger.warning(
        "%s was edited by hand: it is kept as %s. Write your own words into %s, which every card takes in",
        *(one.name for one in (path, kept)),
        NOTES,
    )


def _last_written(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["card_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
