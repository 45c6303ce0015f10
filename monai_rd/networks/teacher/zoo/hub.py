"""Files from the Hugging Face Hub, pinned to the commit and SHA-256 that are recorded at the first download."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from monai_rd.files import atomic_write, sha256
from monai_rd.networks.teacher.zoo.entry import Hub

__all__ = ["cache_folder", "fetch"]

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder of `downloads.json`: the environment variable MONAI_RD_CACHE, else `~/.cache/monai_rd`."""
    return Path(os.environ.get("MONAI_RD_CACHE") or Path.home() / ".cache" / "monai_rd")


def _read_ledger(ledger: Path) -> dict[str, dict[str, str]]:
    if not ledger.is_file():
        return {}
    try:
        records = json.loads(ledger.read_text(encoding="utf-8"))
        return {key: {word: str(record[word]) for word in ("commit", "sha256")} for key, record in records.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{ledger}: cannot be read ({error!r}). Mend it, or delete it to trust anew") from error


def fetch(hub: Hub, name: str) -> Path:
    """Download a file, or find it in the Hub's local cache.

    If the revision is a branch, its commit at the first download is used from then on.

    Args:
        hub: the file.
        name: the teacher's name, for errors.

    Returns:
        Path of the local file.

    Raises:
        OSError: no network, no such file, or no access to it; the message says how to get the file by hand.
        ValueError: the file's SHA-256 is not the recorded one.
    """
    ledger = cache_folder() / "downloads.json"
    known = _read_ledger(ledger)
    keys = {file: f"{hub.repo_type}s/{hub.repo}@{hub.revision}/{file}" for file in (hub.file, *hub.alternatives)}
    file = next((file for file, key in keys.items() if key in known), None)
    if file is not None:
        path = _download(hub, file, known[keys[file]]["commit"], name)
    else:
        file, path = _download_first(hub, list(keys), name)
    digest = sha256(path)
    record = known.get(keys[file]) or {"commit": _commit(path, hub), "sha256": digest}
    expected = hub.sha256 or record["sha256"]
    if digest != expected:
        raise ValueError(
            f"teacher '{name}': {path} has the SHA-256 {digest} and not {expected}"
            + ("" if hub.sha256 else f", which {ledger} holds from its first use")
            + ". It is damaged or was changed: delete it, and it is downloaded again"
            + ("" if hub.sha256 else f"; to trust it as it is, delete '{keys[file]}' from {ledger.name}")
        )
    if keys[file] not in known:
        atomic_write(json.dumps({**known, keys[file]: record}, indent=1, sort_keys=True) + "\n", ledger)
        logger.info("%s of %s: commit %s, SHA-256 %s, written to %s", file, hub.repo, *record.values(), ledger)
    return path


def _download_first(hub: Hub, files: list[str], name: str) -> tuple[str, Path]:
    """Download the file under the first of its names that exists on the Hub; return this name and the local path."""
    for file in files[:-1]:
        try:
            return file, _download(hub, file, hub.revision, name)
        except FileNotFoundError:
            continue
    return files[-1], _download(hub, files[-1], hub.revision, name)


def _download(hub: Hub, file: str, revision: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import HfHubHTTPError

    try:
        return Path(hf_hub_download(hub.repo, file, repo_type=hub.repo_type, revision=revision))
    except (HfHubHTTPError, OSError) as error:
        page = f"https://huggingface.co/{'datasets/' * (hub.repo_type == 'dataset')}{hub.repo}"
        answers = (getattr(one, "response", None) for one in (error, error.__cause__))
        status = next((answer.status_code for answer in answers if answer is not None), None)
        if status in (401, 403):
            reason = f"its owner gives it to those who asked: open {page}, agree to the terms, then `hf auth login`"
        elif status == 404:
            reason = "it is not there"
        elif status is not None:
            reason = f"the Hub answered {status}"
        else:
            reason = f"the Hub cannot be reached ({type(error).__name__})"
        raise (FileNotFoundError if status == 404 else OSError)(
            f"teacher '{name}': {file} was not downloaded: {reason}. By hand: get it from {page} and give it with "
            "--teacher_checkpoint FILE"
        ) from error


def _commit(path: Path, hub: Hub) -> str:
    """The commit of a file in the Hub's local cache: `.../models--ORG--NAME/snapshots/COMMIT/FILE`."""
    folder = f"{hub.repo_type}s--{hub.repo.replace('/', '--')}"
    return path.parts[path.parts.index(folder) + 2]
