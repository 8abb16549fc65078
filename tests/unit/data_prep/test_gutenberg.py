"""Books of Project Gutenberg: markers of all years and languages, headers, prose joined and verse kept."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.document import Document, SetAside
from data_prep.recipe import Recipe
from data_prep.sources import READERS, gutenberg
from data_prep.sources.unwrapping import unwrap

BODY = "It rained on the hills all day, and nobody went out to see\nwhat the river did."
SMALL_PRINT = "\n".join(f"Line {number} of what a lawyer wrote in the year of this file." for number in range(200))
ENDINGS = [
    "*** END OF THE PROJECT GUTENBERG EBOOK, A TALE ***",
    "***END OF THIS PROJECT GUTENBERG EBOOK A TALE***",
    "End of Project Gutenberg's A Tale, by A. Writer",
    "End of the Project Gutenberg EBook of A Tale",
    "Ende dieses Projekt Gutenberg Etextes Eine Mär, von A. Schreiber",
    "Ende des Project Gutenberg Etexts von Eine Mär",
    "*** FIN DU PROJET GUTENBERG UN CONTE ***",
    "Fin de Projet Gutenberg Un conte, par A. Écrivain",
    "Fine del Progetto Gutenberg Una fiaba",
    "Einde van het Project Gutenberg E-Book van Een sprookje",
    "Fim do Projeto Gutenberg Um conto",
    "Fin del Proyecto Gutenberg Un cuento",
    "*** LOPPU PROJECT GUTENBERG EBOOK SATU ***",
]


def read(base: Path, name: str, text: str, **more) -> list[Document | SetAside]:
    (base / name).write_text(text, encoding="utf-8")
    source = {"type": "gutenberg", "name": "g", "paths": [name], **more}
    recipe = {"output": "x", "tokenizer": {"vocab_size": 300}, "sources": [source]}
    chosen = Recipe.model_validate_json(json.dumps(recipe)).sources[0]
    return [item for piece in READERS["gutenberg"].pieces(chosen, base) for item in READERS["gutenberg"].read(piece, chosen)]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("starting", ["*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***", "*END*THE SMALL PRINT! V.1*END*"])
def test_ends_in_many_languages(tmp_path, starting, ending):
    (document,) = read(tmp_path, "a.txt", f"Title: A Tale\n\n{starting}\n\n{BODY}\n\n{ending}\n\nLicence.\n")
    assert document.text == BODY.replace("\n", " ")


@pytest.mark.parametrize("paragraphs", [1, 700])
def test_a_small_print_behind_the_book_does_not_swallow_it(tmp_path, paragraphs):
    body = "\n\n".join([BODY] * paragraphs)
    text = (
        f"Title: A Tale\n\n*** START OF THE PROJECT GUTENBERG EBOOK, A TALE ***\n\n{body}\n\n*** END OF THE PROJECT GUTENBERG"
    )
    text += f" EBOOK, A TALE ***\n\n{SMALL_PRINT}\n\n*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n"
    (document,) = read(tmp_path, "a.txt", text)
    assert document.text == "\n\n".join([BODY.replace("\n", " ")] * paragraphs)
    front = (
        f"*** START OF THE PROJECT GUTENBERG EBOOK, A TALE ***\n{SMALL_PRINT}\n*END THE SMALL PRINT! FOR PUBLIC DOMAIN*END*\n\n"
    )
    (document,) = read(tmp_path, "b.txt", f"{front}{BODY}\n\nEnd of Project Gutenberg's A Tale\n")
    assert document.text == BODY.replace("\n", " ")


def test_a_book_without_text_is_named(tmp_path):
    (aside,) = read(
        tmp_path, "a.txt", "x\n*** START OF THE PROJECT GUTENBERG EBOOK A ***\n\n*** END OF THE PROJECT GUTENBERG EBOOK A ***\n"
    )
    assert isinstance(aside, SetAside) and "no text between" in aside.reason


HEADER = """The Project Gutenberg eBook of A Tale of Two Rivers

Title: A Tale of Two Rivers
       And of the Hills Between

Author: Ann Writer
        Ben Penman
Translator: C. Turner

Release date: May 3, 2008 [eBook #123]
                Most recently updated: June 4, 2023

Language: English, French

Credits: Somebody and others

*** START OF THE PROJECT GUTENBERG EBOOK A TALE OF TWO
RIVERS ***

"""


def test_headers(tmp_path):
    (document,) = read(tmp_path, "a.txt", f"{HEADER}{BODY}\n")
    expected = {
        "title": "A Tale of Two Rivers And of the Hills Between",
        "author": "Ann Writer; Ben Penman",
        "translator": "C. Turner",
        "date": "May 3, 2008",
        "updated": "June 4, 2023",
        "language": ["en", "fr"],
        "ebook": 123,
        "url": "https://www.gutenberg.org/ebooks/123",
    }
    assert {key: document.metadata[key] for key in expected} == expected and document.text == BODY.replace("\n", " ")
    two = HEADER.replace("        Ben Penman", "\nAuthor: Ben Penman").replace("English, French", "German")
    (document,) = read(tmp_path, "b.txt", f"{two}{BODY}\n")
    assert (document.metadata["author"], document.metadata["language"]) == ("Ann Writer; Ben Penman", "de")


WORDS = st.lists(st.text("abcdefghijklmnopqrstuvwxyzé,.", min_size=1, max_size=14), min_size=25, max_size=200)


@given(WORDS, st.integers(50, 90))
def test_prose_wrapped_at_any_width_comes_back(words, width):
    prose = " ".join(words)
    wrapped = textwrap.fill(prose, width, break_long_words=False, break_on_hyphens=False)
    assert unwrap(wrapped) == prose


VERSE = """The miller stands beside the mill
and listens to the stream;
the wheel has turned, the stones are still,
the flour is a dream.
And who will come to grind the corn
before the year is old?
The child that has not yet been born,
the king who has no gold."""
LONG_PROSE = " ".join(f"the {word} of the river was counted by the men who lived upon its banks and" for word in "abcdefghij")


@given(st.integers(60, 80), st.integers(2, 8), st.booleans())
def test_verse_comes_back_unchanged_alone_or_within_prose(width, lines, alone):
    verse = "\n".join(VERSE.split("\n")[:lines])
    if alone:
        assert unwrap("\n\n".join([verse, VERSE])) == f"{verse}\n\n{VERSE}"
    else:
        prose = textwrap.fill(LONG_PROSE, width)
        assert unwrap(f"{prose}\n\n{verse}\n\n{prose}") == f"{LONG_PROSE}\n\n{verse}\n\n{LONG_PROSE}"


def test_plays_lists_and_hyphens_keep_their_lines():
    prose = textwrap.fill(LONG_PROSE, 72)
    kept = [
        "MILLER. Who?\nKING. I, and no other man.\nMILLER. Enter.",
        "flour  2 lb\nsalt   1 oz\nwater  3 pt",
        "Head\n  and tail\n  of it",
    ]
    assert unwrap("\n\n".join([prose, *kept])).split("\n\n")[1:] == kept
    compound = "He went on to the meeting and heard what they had to say, and the after-\nlecture debates of the men."
    suspended = "He went on to the meeting and heard what they all had to say in two-\nand threefold ways."
    whole = unwrap("\n\n".join([prose, compound, suspended]))
    assert "the after-lecture debates" in whole and "two- and threefold" in whole


def test_chinese_is_joined_without_blanks():
    line = "天下大勢分久必合合久必分周末七國分爭并入於秦及秦滅之後楚漢分爭又并入於漢漢朝自高祖斬白蛇而起義"
    assert unwrap("\n".join([line] * 8)) == line * 8


def test_chapters_are_unwrapped_by_the_width_of_the_book():
    assert gutenberg.unwrap is unwrap
