"""The survey's word lists on old and new prose, and what it says of languages nobody looked for."""

from __future__ import annotations

import pytest

from data_prep import survey


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("Her gay laughter rang through the queer old house.", {"women"}),
        ("They were gay and merry, blind to the danger and deaf to advice.", set()),
        ("Gay and lesbian couples may now marry.", {"LGBT"}),
        ("He is openly gay.", {"men", "LGBT"}),
        ("Homosexuality was a crime until 1967.", {"LGBT"}),
        ("A school for blind children and deaf people.", {"disability"}),
        ("The engineer was born deaf.", {"disability"}),
    ],
)
def test_groups_that_a_text_names(text, groups):
    assert {name for name, pattern in survey._GROUPS.items() if pattern.search(text)} == groups


@pytest.mark.parametrize(
    ("metadata", "language"),
    [
        ({"language": "en"}, "en"),
        ({"language": "en-US", "language_found": "de"}, "de"),
        ({"language": "und"}, "no words to judge"),
        ({}, "not declared, and no language filter in the recipe looked"),
    ],
)
def test_language_of_a_document(metadata, language):
    assert survey._language(metadata) == language
