"""The page `model_card.md`, from the facts of a model card and the words of those who trained the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from monai_rd.card.front_matter import NO_MODALITY, front_matter
from monai_rd.card.markdown import code, literal, measured, table
from monai_rd.inference.decision import PRESENCE
from monai_rd.report.metrics import METRIC_NAMES, OF_CLASSES

__all__ = ["NOTES", "page"]

NOTES = "model_card_notes.md"
_STATED = "Stated by"


def page(facts: Mapping[str, Any], notes: str = "") -> str:
    """Return the card as Markdown, with the metadata of the Hugging Face Hub in front.

    Args:
        facts: see `monai_rd.card.facts`.
        notes: Markdown of those who trained the student. It is the last section, so that whatever is in it changes
            nothing of the others.
    """
    metadata = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True, width=1000)
    sections = {
        "Licences": _licences,
        "Data": _data,
        "Input and preprocessing": _preprocessing,
        "Recipe": _recipe,
        "Results": _results,
        "Patient groups": _groups,
        "Calibration": _calibration,
        "Conformal sets": _sets,
        "Operating points": _points,
        "Limits": _limits,
        "Versions": _versions,
    }
    parts = [f"---\n{metadata}---", *_head(facts)]
    for title, make in sections.items():
        parts += [f"## {title}", *make(facts)]
    words = (
        notes.strip()
        or f"None. Write them into `{NOTES}` beside this file; `monai-rd card` and every training take them in."
    )
    return "\n\n".join([*parts, "## Words of those who trained it", words]) + "\n"


def _head(facts: Mapping[str, Any]) -> list[str]:
    model, data = facts["model"], facts["data"]
    classes = ", ".join(map(literal, data["class_names"]))
    how = "any number of the classes" if data["multi_label"] else "exactly one of the classes"
    phantoms = " Trained and tested on drawn phantoms, not on patients." if data["phantom"] else ""
    return [
        f"# Model card: {literal(model['student'])}, {literal(model['name'])}",
        f"**For research only, not for clinical use.{phantoms}**",
        f"**Licences: {literal(facts['licences']['in_words'])}.**",
        literal(facts["description"]),
        f"- Task: {literal(facts['task'])}\n"
        f"- Classes: {classes}; a study has {how}\n"
        f"- Intended use: {literal(facts['intended_use'])}\n"
        f"- Network: {literal(model['student'])}, {model['parameters']:,} parameters, {model['spatial_dims']}D\n"
        f"- SHA-256 of `model.pt`: {code(model['sha256'])}\n"
        f"- SHA-256 of the settings that its answers depend on: {code(model['settings_sha256'])}\n"
        f"- Written on {facts['written']} (UTC) by monai_rd {literal(facts['versions']['monai_rd'])}",
    ]


def _licences(facts: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            literal(one["step"]),
            literal(one["name"]) + (f", SHA-256 {code(one['sha256'])}" if one.get("sha256") else ""),
            literal(one["licence"] or "not known"),
            _source(one["source"]) + (f"; {_STATED.lower()} {literal(one['stated_by'])}" if one["stated_by"] else ""),
            literal(one["follows"]),
        ]
        for one in facts["licences"]["chain"]
    ]
    return [
        "Each step inherits from those above it. This is no legal advice.",
        table(["Step", "What", "Licence", "Source", "What follows for use"], rows),
    ]


def _source(source: str) -> str:
    plain = source.startswith("https://") and not set(source) & set(" <>|")
    return f"<{source}>" if plain else literal(source or "not known")


def _data(facts: Mapping[str, Any]) -> list[str]:
    data = facts["data"]
    rows = []
    for split, one in data["splits"].items():
        classes = [literal(f"{name}: {count}") for name, count in one.get("by_class", {}).items()]
        unknown = f" (not known of {one['without_patient']})" if one["without_patient"] else ""
        hashes = f"list {code(one['list_sha256'])}, images {code(one['images_sha256'] or '')}"
        rows.append([split, str(one["n"]), f"{one['patients']}{unknown}", ", ".join(classes) or "no labels", hashes])
    told = literal(data["in_words"])
    shared = data["patients_in_several_splits"]
    return [
        f"{told[:1].upper()}{told[1:]}.",
        table(["Split", "n (items)", "Patients", "Items by class", "SHA-256"], rows),
        f"Patients of validation or test that are in another split too: {shared}. "
        "The epoch, the temperature, the sets and the operating points were chosen on the validation set; the test set "
        "chose nothing.",
    ]


def _preprocessing(facts: Mapping[str, Any]) -> list[str]:
    given, scope = facts["input"], facts["scope"] or {}
    seen = [f"{name.replace('_', ' ')} {', '.join(scope[name])}" for name in scope if name != "levels" and scope[name]]
    told = f"; the training images' headers say: {literal('; '.join(seen))}" if seen else ""
    steps = [f"{number}. {literal(_step(one))}" for number, one in enumerate(facts["preprocessing"], start=1)]
    shape = " x ".join(map(str, given["shape"]))
    modality = "no DICOM modality" if given["modality"] == NO_MODALITY else given["modality"]
    return [
        f"Modality: {literal(modality)}{told}.",
        f"Input: {literal(shape)}, {literal(given['dtype'])}, values {literal(given['value_range'])}.",
        "\n".join(steps),
    ]


def _step(step: Mapping[str, Any]) -> str:
    """Return what a step does and the settings it does it with."""
    given = {name: value for name, value in step.items() if name not in ("step", "does") and value not in (None, False)}
    told = "; ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in given.items())
    return f"{step['does']} ({told})" if told else str(step["does"])


def _recipe(facts: Mapping[str, Any]) -> list[str]:
    recipe = {name: value for name, value in facts["recipe"].items() if value not in (None, {}, [])}
    rows = [[literal(name.replace("_", " ")), literal(_plain(value))] for name, value in recipe.items()]
    return [table(["Setting", "Value"], rows), "Settings without a value are not listed."]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _results(facts: Mapping[str, Any]) -> list[str]:
    found = facts["results"]
    shown = {key: name for key, name in METRIC_NAMES.items() if key in found["student"]}
    rows = [[name, str(one["n"]), *(measured(one.get(key)) for key in shown)] for name, one in found.items()]
    blocks = [
        "On the test set; in brackets 95 % intervals over studies, n is the number of studies.",
        table(["", "n", *shown.values()], rows),
    ]
    classes = found["student"]["classes"]
    of = {key: name for key, name in OF_CLASSES.items() if key in classes[0] and key not in ("items", "positives")}
    names = facts["data"]["class_names"]
    each = [
        [literal(name), str(one.get("items", one.get("positives"))), *(measured(_metric(one[key])) for key in of)]
        for name, one in zip(names, classes, strict=True)
    ]
    if facts["data"]["multi_label"]:
        blocks.append("Means over the classes that have test studies both with and without them.")
    elif len(names) > 2:
        blocks.append("The ROC AUC is the mean over classes, each against the rest.")
    else:
        blocks.append(f"Positive class, for sensitivity and specificity: {literal(names[1])}.")
    blocks += [
        "The student by class; n is the number of test studies of the class.",
        table(["", "n", *of.values()], each),
    ]
    if facts["unread"]:
        blocks.append(f"Left out because they cannot be read: {literal(facts['unread'])}.")
    return blocks


def _metric(found: Any) -> Mapping[str, Any] | None:
    return {"value": found} if isinstance(found, float) else found


def _groups(facts: Mapping[str, Any]) -> list[str]:
    found, known = facts["groups"]["metrics"], facts["groups"]["known"]
    told = ", ".join(f"{kind} of {count}" for kind, count in known.items())
    total = facts["calibration"]["n"]
    blocks = [f"Of n = {total} test studies are known: {told}. Groups of fewer than 5 studies are not shown."]
    if not found:
        return [*blocks, "There are no two groups to compare."]
    rows = [(kind, name, one) for kind, each in found.items() for name, one in each.items()]
    shown = {key: name for key, name in METRIC_NAMES.items() if any(key in one for *_, one in rows)}
    cells = [
        [kind, literal(name), str(one["n"]), *(measured(one.get(key)) for key in shown)] for kind, name, one in rows
    ]
    return [*blocks, table(["By", "Group", "n", *shown.values()], cells)]


def _calibration(facts: Mapping[str, Any]) -> list[str]:
    found = facts["calibration"]
    rows = [
        ["temperature", f"{found['temperature']:.3f}", str(found["fitted_on"]), "validation"],
        ["expected calibration error without it", f"{found['error_before']:.3f}", str(found["n"]), "test"],
        ["expected calibration error with it", f"{found['error']:.3f}", str(found["n"]), "test"],
    ]
    return [table(["", "Value", "n", "Measured on"], rows)]


def _sets(facts: Mapping[str, Any]) -> list[str]:
    found, decision = facts["sets"], facts["decision"]
    if found is None:
        return ["None: there were fewer than 9 validation studies."]
    n, names = facts["calibration"]["n"], facts["data"]["class_names"]
    numbers = {
        "coverage": "sets that hold the truth",
        "size": "answers in a set (mean)",
        "answered": "sets of one answer",
        "accuracy_of_answered": "of these right",
    }
    header = ["", "n", *numbers.values()]
    rows = [["all", str(n), *(measured(found.get(key)) for key in numbers)]]
    several, measured_on = facts["data"]["multi_label"], facts["results"]["student"]["classes"]
    for name, one, other in zip(names, found["classes"], measured_on, strict=True):
        of = n if several else other["items"]
        rows.append([literal(name), str(of), *(measured(one.get(key)) for key in numbers)])
    answers, label = (PRESENCE, ["Label"]) if several else (names, [])
    own = decision.get("of_groups", {})
    grouped = [decision["grouped_by"].capitalize()] if own else []
    limits = [
        [*group, *([literal(name)] if several else []), literal(answer), one["kind"], str(count), f"{limit:.4f}"]
        for group, sets in [
            *(([literal(key)], of) for key, of in own.items()),
            (["any other"] * len(grouped), decision["sets"]),
        ]
        for name, one in zip(names, sets, strict=False)
        for answer, count, limit in zip(answers, one["n"], one["limits"], strict=True)
    ]
    return [
        f"A set holds the answers that cannot be ruled out at {100 * decision['level']:.0f} %, for studies "
        "exchangeable with the validation set. On the test set:",
        table(header, rows),
        "An answer is in the set from this probability on; n is the number of its validation studies:",
        table([*grouped, *label, "Answer", "Kind", "n", "Limit"], limits),
    ]


def _points(facts: Mapping[str, Any]) -> list[str]:
    decision = facts["decision"]
    if not decision["operating_points"]:
        return ["None was asked for: the most probable class is said, or with several labels each from one half on."]
    rows = []
    for words, one in zip(decision["in_words"], decision["operating_points"], strict=True):
        if one is None:
            rows.append([literal(words), "-", "-", "-"])
            continue
        sides = [one["sensitivity"], one["specificity"]]
        counted = " and ".join(str(side["n"]) if side else "0" for side in sides)
        rows.append([literal(words), f"{one['threshold']:.4f}", counted, *(measured(side) for side in sides)])
    return [
        "Chosen on the validation set; n are its studies with and without the class.",
        table(["Asked", "Said from this probability on", "n", "Sensitivity there", "Specificity there"], rows),
    ]


def _limits(facts: Mapping[str, Any]) -> list[str]:
    return ["\n".join(f"- {literal(one)}" for one in facts["limits"])]


def _versions(facts: Mapping[str, Any]) -> list[str]:
    return [table(["What", "Version"], [[literal(name), literal(one)] for name, one in facts["versions"].items()])]
