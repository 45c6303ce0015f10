"""The licence chain of a student: from what it is made of to what it writes, and what follows for use at each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_rd.card.origins import DATA, weights_of
from monai_rd.licences import Origin, hub_licence, licences_in_words, strictest

__all__ = ["licence_chain"]

_OWN = "Apache-2.0"  # of this package, and of the phantoms that it draws
_FOLLOWS = {
    "allowed": "Use is allowed, commercial use too; keep the notice of the licence.",
    "forbidden": "No commercial use. Whether a hospital's care of patients is commercial, the owner or a lawyer tells.",
    "unverified": "Terms of its own, or terms that nobody checked here: read them at the source before any use.",
    "unknown": "No permission is known, and none may be assumed: ask the owner before any use.",
}
_PARTS = {
    "nd": "Nothing derived may be passed on: ask the owner whether a student counts as derived.",
    "sa": "What is derived is passed on under the same licence.",
}


def licence_chain(origins: Sequence[Origin], student: str) -> dict[str, Any]:
    """Return the licence chain as a JSON object.

    Args:
        origins: of the student, see `find_origins`.
        student: name of the student.

    Returns:
        `commercial_use`, what the licences of all weights together say ("forbidden" if one forbids it, else "unknown",
        "unverified" or "allowed"); the same `in_words`; and the `chain`, one object a step.

    Example:
        >>> from monai_rd.card import licence_chain
        >>> from monai_rd.licences import Origin
        >>> found = licence_chain([Origin("teacher weights", "retfound", "CC BY-NC 4.0")], "resnet18")
        >>> found["commercial_use"], [one["step"] for one in found["chain"]]
        ('forbidden', ['teacher weights', 'software', 'student', 'exports', 'scores and reports'])
    """
    weights = weights_of(origins)
    use, words = strictest(weights), licences_in_words(weights)
    free = use == "allowed" and all(one.licence == _OWN for one in origins if one.what == DATA)
    chosen = (
        f"{_OWN}, as its data are" if free else "none chosen: whoever passes it on chooses one that all above allow"
    )
    inherits = f"It may inherit the conditions of every step above: {words}."
    if use == "allowed":
        inherits = f"Of the weights above: {words}."
    return {
        "commercial_use": use,
        "in_words": words,
        "chain": [
            *(_of(one) for one in origins),
            _step(
                "software",
                "monai_rd, which trained it",
                _OWN,
                "monai_rd developers",
                "monai_rd",
                "Sets no condition on the student; a bundle's file LICENSE is that of its configs. Other packages, "
                "listed under versions, have licences of their own.",
            ),
            _step(
                "student",
                f"{student}, models/model.pt",
                chosen,
                "this training",
                "",
                f"{inherits} Weights can also hold traces of training images: their owner decides who may have it.",
            ),
            _step(
                "exports",
                "TorchScript, ONNX, torch.export, TensorRT; MONAI Label and MONAI Deploy packages",
                "as of the student",
                "monai-rd export, label-app, deploy-app",
                "",
                "The same weights in another form: all that holds for the student holds for them. Each carries this "
                "chain in its manifest.",
            ),
            _step(
                "scores and reports",
                "scores.csv, DICOM structured reports, secondary captures",
                "as of the use of the student",
                "monai-rd predict, MONAI Label, MONAI Deploy",
                "",
                "Making them is using the student. They name it by its SHA-256, and structured reports say what its "
                "licences allow. They are data of patients, and for research only.",
            ),
        ],
    }


def _of(origin: Origin) -> dict[str, Any]:
    if origin.what == DATA:
        told = "Consent, ethics vote and data protection are the user's to know; this program checks none of them."
        follows = "Drawn by a program: nobody's data." if origin.stated_by == "monai_rd" else told
    else:
        parts = [_FOLLOWS[origin.commercial_use]]
        parts += [words for part, words in _PARTS.items() if part in hub_licence(origin.licence).split("-")]
        parts += [f"{origin.terms[:1].upper()}{origin.terms[1:]}."] if origin.terms else []
        follows = " ".join(parts)
    return {"step": origin.what, **{k: v for k, v in origin.told.items() if k != "what"}, "follows": follows}


def _step(step: str, name: str, licence: str, source: str, stated_by: str, follows: str) -> dict[str, Any]:
    told = {"step": step, "name": name, "licence": licence, "source": source, "stated_by": stated_by}
    return {**told, "follows": follows}
