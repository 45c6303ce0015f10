"""What the name of a licence says of commercial use."""

from __future__ import annotations

import pytest

from monai_rd.licences import Origin, commercial_use_of, hub_licence, licences_in_words, strictest
from monai_rd.networks import TEACHERS


@pytest.mark.parametrize(
    ("text", "use", "identifier"),
    [
        ("MIT", "allowed", "mit"),
        ("Apache License 2.0", "allowed", "apache-2.0"),
        ("apache-2.0", "allowed", "apache-2.0"),
        ("CC BY 4.0", "allowed", "cc-by-4.0"),
        ("BSD 3-Clause", "allowed", "bsd-3-clause"),
        ("CC BY-NC 4.0", "forbidden", "cc-by-nc-4.0"),
        ("CC BY-NC-ND 4.0", "forbidden", "cc-by-nc-nd-4.0"),
        ("cc-by-nc-sa-4.0", "forbidden", "cc-by-nc-sa-4.0"),
        ("Research-only RAIL-M", "forbidden", "other"),
        ("for non-commercial use", "forbidden", "other"),
        ("Noncommercial licence of ours", "forbidden", "other"),
        ("CC BY-SA 4.0", "unverified", "cc-by-sa-4.0"),
        ("GPL-3.0", "unverified", "gpl-3.0"),
        ("MIT (code)", "unverified", "other"),
        ("ncls of somebody", "unverified", "other"),
        ("anything else", "unverified", "other"),
        ("", "unknown", "unknown"),
        ("Unknown", "unknown", "unknown"),
        ("not stated: ask where the checkpoint comes from", "unknown", "unknown"),
    ],
)
def test_names_of_licences(text: str, use: str, identifier: str) -> None:
    assert (commercial_use_of(text), hub_licence(text)) == (use, identifier)


def test_the_zoo_says_at_least_as_much_as_the_names_of_its_licences() -> None:
    for entry in TEACHERS.values():
        if commercial_use_of(entry.licence) == "forbidden":
            assert entry.non_commercial, entry.name


def test_the_strictest_rules() -> None:
    free, special, unknown, bound = (Origin("w", name, name) for name in ("MIT", "own", "", "CC BY-NC 4.0"))
    assert strictest([]) == strictest([free]) == "allowed"
    assert strictest([free, special]) == "unverified"
    assert strictest([special, unknown]) == "unknown"
    assert strictest([unknown, bound, free]) == "forbidden"
    words = licences_in_words([free, special, unknown, bound])
    assert [words.index(part) for part in ("forbidden", "no licence is known", "read the terms")] == sorted(
        words.index(part) for part in ("forbidden", "no licence is known", "read the terms")
    )
    assert "MIT" not in words
    assert licences_in_words([]) == "no weights of others were used"
