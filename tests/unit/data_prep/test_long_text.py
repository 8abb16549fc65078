"""Long texts: held as UTF-8 once, written and read in pieces with the bytes of a whole one."""

from __future__ import annotations

import unicodedata

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import document, long_text
from data_prep.document import Document, read_documents, read_records, write_documents
from data_prep.long_text import JsonText, LongText, pieces

ANY_TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n\t \x00/u字é\U0001f600\u0301\u1161a'), max_size=80
)
"""Escapes, line ends, characters of every length, and such as join the one before."""


@pytest.fixture
def small_pieces(monkeypatch):
    for module in (long_text, document):
        monkeypatch.setattr(module, "PIECE_BYTES", 8)
    monkeypatch.setattr(long_text, "_NEAR", 4)


@settings(max_examples=300)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=4), steps=st.integers(1, 9))
def test_a_json_string_in_chunks(texts, steps):
    for text in texts:
        line = orjson.dumps(text)[1:] + b',"more":1}\n'
        reader, behind, place = JsonText(), None, 0
        while behind is None:
            behind = reader.feed(line[place : place + steps])
            place += steps
        assert reader.data.decode() == text
        assert behind + line[place:] == b',"more":1}\n'


@pytest.mark.usefixtures("small_pieces")
@settings(max_examples=300, suppress_health_check=["function_scoped_fixture"])
@given(text=ANY_TEXT)
def test_pieces_are_the_text_and_cut_at_boundaries_of_normal_forms(text):
    for given_as in (text, LongText(text.encode())):
        cut = list(pieces(given_as))
        assert "".join(cut) == text
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            assert "".join(unicodedata.normalize(form, piece) for piece in cut) == unicodedata.normalize(form, text)


@pytest.mark.usefixtures("small_pieces")
@settings(max_examples=200, suppress_health_check=["function_scoped_fixture"])
@given(text=ANY_TEXT, data=st.data())
def test_parts_by_characters(text, data):
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6).filter(lambda found: len(found) % 2 == 0)))
    spans = list(zip(places[::2], places[1::2], strict=True))
    assert list(LongText(text.encode()).between(spans)) == [text[start:stop].encode() for start, stop in spans]


@settings(max_examples=100, suppress_health_check=["function_scoped_fixture"])
@given(texts=st.lists(ANY_TEXT, max_size=5))
def test_parts_of_documents_are_the_same_bytes_in_pieces(texts, tmp_path, monkeypatch):
    documents = [Document(f"a/{i}", text, "a", {"text": text, "title": "t"}) for i, text in enumerate(texts)]
    write_documents(tmp_path / "whole", documents)
    with monkeypatch.context() as patch:
        for module in (long_text, document):
            patch.setattr(module, "PIECE_BYTES", 32)
        write_documents(tmp_path / "pieces", documents)
        encoded = [Document(d.id, LongText(d.text.encode()), d.source, d.metadata) for d in documents]
        write_documents(tmp_path / "encoded", encoded)
        assert list(read_documents(tmp_path / "whole")) == documents
        held = [(record["id"], str(record["text"])) for record in read_records(tmp_path / "whole", long_texts=True)]
    assert held == [(d.id, d.text) for d in documents]
    assert [*read_records(tmp_path / "pieces")] == [*read_records(tmp_path / "encoded")] == [*read_records(tmp_path / "whole")]
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "encoded").read_bytes()


def test_a_lone_surrogate_is_written_as_a_question_mark(tmp_path):
    text = "a\ud800b" * (long_text.PIECE_BYTES // 2)
    write_documents(tmp_path / "part", [Document("a", text, "s")])
    (read,) = read_documents(tmp_path / "part")
    assert read.text == text.replace("\ud800", "?")
