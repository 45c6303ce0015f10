"""The metadata of a model card as the Hugging Face Hub reads them, from the facts of the card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from monai_rd.report.metrics import METRIC_NAMES

__all__ = ["NO_MODALITY", "front_matter"]

NO_MODALITY = "n/a"  # in metadata.json: the images are not of DICOM


def front_matter(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata, in the order in which they are written as YAML.

    The licence is "apache-2.0" where phantoms and free weights are all that the student was made of, "other" where the
    licence of weights forbids commercial use (their licence is named), and else "unknown": whoever publishes the
    student chooses one.
    """
    data, model = facts["data"], facts["model"]
    weights = [one for one in facts["licences"]["chain"] if "sha256" in one]
    bases = list(dict.fromkeys(one["hub"] for one in weights if one["hub"]))
    kinds = ["medical", "research-only", "knowledge-distillation", "monai", "monai_rd"]
    modality = re.sub(r"[^a-z0-9]+", "-", str(facts["input"]["modality"]).lower()).strip("-")
    found = facts["results"]["student"]
    metrics = [
        {
            "type": name,
            "value": round(found[name]["value"], 4),
            "name": f"{words}{_interval(found[name])} (n = {found[name]['n']})",
        }
        for name, words in METRIC_NAMES.items()
        if name in found
    ]
    dataset = {
        "type": "phantoms" if data["phantom"] else "own",
        "name": "phantoms drawn by monai_rd" if data["phantom"] else "data of those who trained it",
        "split": "test",
    }
    task = {"type": "image-classification", "name": "Image classification"}
    named = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model['student']).strip('-')}-{model['sha256'][:8]}"
    return {
        **_licence(facts, weights),
        "library_name": "monai",
        "pipeline_tag": "image-classification",
        "tags": [*kinds, *([] if facts["input"]["modality"] == NO_MODALITY else [modality])],
        **({"base_model": bases} if bases else {}),
        "metrics": [one["type"] for one in metrics],
        "model-index": [{"name": named, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}],
    }


def _licence(facts: Mapping[str, Any], weights: list[Mapping[str, Any]]) -> dict[str, str]:
    (student,) = (one for one in facts["licences"]["chain"] if one["step"] == "student")
    if student["licence"].startswith("Apache-2.0"):
        return {"license": "apache-2.0"}
    if facts["licences"]["commercial_use"] != "forbidden":
        return {"license": "unknown"}
    strict = [one for one in weights if one["commercial_use"] == "forbidden"]
    names = sorted({re.sub(r"[^a-z0-9.]+", "-", one["licence"].lower()).strip("-") for one in strict})
    link = next((one["source"].split()[0] for one in strict if one["source"].startswith("https://")), "")
    return {
        "license": "other",
        "license_name": "may-inherit-" + "-and-".join(names),
        **({"license_link": link} if link else {}),
    }


def _interval(metric: Mapping[str, Any]) -> str:
    found = metric.get("interval")
    return f", 95 % interval {found[0]:.3f} to {found[1]:.3f}" if found else ""
