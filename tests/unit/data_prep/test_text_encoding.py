"""Encodings of text files: what is known holds, what is proven is UTF-8, what is guessed is said, what is none is set aside."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.document import Document, SetAside
from data_prep.sources import READERS
from data_prep.sources.files import Unreadable
from data_prep.sources.text_encoding import MARKS, Decoded, LineDecoder, decode
from strict_json import ConfigError, validate
from tests.unit.data_prep.test_sources import settings

RUSSIAN = "Мельница стояла у реки, и вода вращала большое колесо.\nМельник молол зерно для всей деревни.\n"
JAPANESE = "水車小屋は川のほとりに立っていた。粉屋は村のために穀物を挽いた。\n"
GREEK = "Ο μύλος στεκόταν δίπλα στο ποτάμι και ο μυλωνάς άλεθε το σιτάρι του χωριού.\n"
POLISH = "Młyn stał nad rzeką, a młynarz mełł zboże dla całej wsi. Źdźbło trawy rosło przy kole.\n"
GERMAN = "Die Mühle stand am Fluß, und der Müller mahlte das Korn für das ganze Dorf; schöne Zeiten!\n"
LEGACY = [
    (RUSSIAN, "cp1251"), (RUSSIAN, "koi8_r"), (RUSSIAN, "cp866"), (RUSSIAN, "iso8859_5"), (JAPANESE, "shift_jis"),
    (JAPANESE, "euc_jp"), (JAPANESE, "iso2022_jp"), (GREEK, "iso8859_7"), (POLISH, "cp1250"), (POLISH, "iso8859_2"),
    (GERMAN, "cp1252"), (GERMAN, "cp850"),
]  # fmt: skip


def read(base: Path, **values) -> tuple[list[Document], list[SetAside]]:
    source = settings(paths=["."], **values)
    reader = READERS[source.type]
    items = [item for piece in reader.pieces(source, base) for item in reader.read(piece, source)]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, SetAside)]


@pytest.mark.parametrize(("text", "encoding"), LEGACY, ids=[encoding for _, encoding in LEGACY])
def test_a_legacy_encoding_is_found_and_said(text, encoding):
    decoded = decode(text.encode(encoding))
    assert (decoded.text, decoded.assumed) == (text, True)
    assert decoded.facts["encoding_assumed"] is True


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_is_proven_is_not_assumed(encoding):
    decoded = decode(RUSSIAN.encode(encoding))
    assert (decoded.text, decoded.assumed) == (RUSSIAN, False)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_characters_without_a_mark(encoding):
    assert decode(GERMAN.encode(encoding)).text == GERMAN


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Co", "Cn"])))
def test_any_utf_8_is_itself(text):
    raw = text.encode()
    decoded = decode(raw, "utf-8")
    assert decoded.text == text.removeprefix("\ufeff") or any(raw.startswith(mark) for mark in MARKS)


def test_the_recipe_s_word_holds_and_bytes_that_do_not_fit_are_counted():
    assert decode(GERMAN.encode("cp850"), "cp850").assumed is False
    decoded = decode(b"caf\xe9 and \xff", "utf-8")
    assert (decoded.text, decoded.encoding, decoded.assumed) == ("caf\ufffd and \ufffd", "utf-8, 2 bytes replaced", True)


def test_what_a_file_declares_holds_where_the_bytes_fit():
    raw = POLISH.encode("iso8859_2")
    assert (decode(raw, declared="ISO-8859-2").text, decode(raw, declared="ISO-8859-2").assumed) == (POLISH, False)
    assert decode(POLISH.encode(), declared="ISO-8859-2").text == POLISH  # the header was not changed with the file
    assert decode(raw, declared="ASCII").assumed and decode(raw, declared="no such thing").assumed


def test_utf_8_with_a_few_bad_bytes_stays_utf_8():
    decoded = decode(RUSSIAN.encode() + b"\xff" + GREEK.encode())
    assert decoded.text == f"{RUSSIAN}\ufffd{GREEK}"
    assert (decoded.encoding, decoded.assumed) == ("utf-8, 1 bytes replaced", True)


def test_no_text_is_set_aside_with_the_way_out(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(128, 256)) * 3 + bytes(range(1, 32)) * 9)
    with pytest.raises(Unreadable, match='"encoding": "cp1251"'):
        decode((tmp_path / "a.txt").read_bytes())


def test_an_unknown_encoding_is_refused_with_the_recipe():
    from data_prep.recipe import Recipe

    recipe = {"output": "x", "tokenizer": {"vocab_size": 300}}
    recipe["sources"] = [{"type": "plaintext", "name": "s", "paths": ["."], "encoding": "latin-99"}]
    with pytest.raises(ConfigError, match=r'"latin-99" is no encoding that Python knows'):
        validate(Recipe, recipe, "r.json")


def test_every_source_of_text_files_takes_the_encoding(tmp_path):
    text = GERMAN.strip()
    files = {
        "plaintext": ("a.txt", text, {}),
        "gutenberg": (
            "b.txt",
            f"*** START OF THE PROJECT GUTENBERG EBOOK ***\n\n{text}\n\n*** END OF THE PROJECT",
            {},
        ),
        "jsonl": ("c.jsonl", json.dumps({"text": text}, ensure_ascii=False), {}),
        "csv": ("d.csv", f'text\n"{text}"\n', {}),
        "question_answer": ("e.json", json.dumps([{"question": "Wo?", "answer": text}], ensure_ascii=False), {}),
        "parallel_text": ("f.tsv", f"{text}\tthe mill\n", {"languages": ["de", "en"], "columns": [0, 1]}),
        "papers": ("g.md", text, {}),
    }
    takers = {name for name, reader in READERS.items() if "encoding" in settings_class(reader).model_fields}
    assert takers == set(files)
    for kind, (name, content, more) in files.items():
        for number, (written, asked, facts) in enumerate(encodings(kind)):
            folder = tmp_path / f"{kind}{number}"
            folder.mkdir()
            (folder / name).write_bytes(content.encode(written))
            documents, aside = read(folder, type=kind, encoding=asked, **more)
            assert aside == [] and len(documents) == 1, (kind, written)
            assert text in documents[0].text, (kind, written)
            found = {key: documents[0].metadata.get(key) for key in ("encoding", "encoding_assumed")}
            assert found["encoding_assumed"] == facts, (kind, written, found)


def encodings(kind: str) -> Iterator[tuple[str, str, bool | None]]:
    """(written in, setting, whether it is assumed)."""
    yield "utf-8", "auto", None
    yield "cp1252", "auto", True
    yield "cp850", "cp850", None
    yield "utf-16", "auto", None


def settings_class(reader):
    return next(
        v for v in vars(reader).values() if getattr(v, "__module__", "") == reader.__name__ and hasattr(v, "model_fields")
    )


def test_lines_are_read_in_one_encoding_for_all_that_are_no_utf_8(tmp_path):
    """A short line alone would be taken for another encoding."""
    rows = [{"text": line} for line in (RUSSIAN * 5).split("\n") if line]
    lines = [json.dumps(row, ensure_ascii=False).encode("cp1251") for row in rows]
    lines[1:1] = [
        json.dumps({"text": GREEK}, ensure_ascii=False).encode(),
        json.dumps({"text": "Да"}, ensure_ascii=False).encode("cp1251"),
    ]
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(b"\n".join(lines))
    documents, aside = read(tmp_path, type="jsonl")
    assert aside == []
    assert [document.text for document in documents] == [rows[0]["text"], GREEK, "Да", *(row["text"] for row in rows[1:])]
    assert documents[0].metadata == {"encoding": "cp1251", "encoding_assumed": True}


def test_a_line_that_is_no_text_costs_that_line(tmp_path):
    good = json.dumps({"text": GERMAN}, ensure_ascii=False).encode("cp1252")
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good, b'{"text": "\x81\x8d\x8f\x90\x9d\x01\x02\x03\x81\x8d"}', good]))
    documents, aside = read(tmp_path, type="jsonl")
    assert [document.text for document in documents] == [GERMAN] * 2
    assert [item.where.rpartition(":")[2] for item in aside] == ["2"]


def test_a_decoder_that_met_no_other_line_says_nothing(tmp_path):
    decoder = LineDecoder("auto", (tmp_path / "none").open)
    assert decoder.decode(GREEK.encode()).text == GREEK
    assert decoder.facts == {}


def test_gutenberg_s_own_header_is_respected(tmp_path):
    head = "Title: Der Müller\nCharacter set encoding: ISO-8859-2\n\n*** START OF THE PROJECT GUTENBERG EBOOK ***\n\n"
    (tmp_path / "a.txt").write_bytes((head + "Łódź i rzeka").encode("iso8859_2"))
    (document,), _ = read(tmp_path, type="gutenberg")
    assert document.text == "Łódź i rzeka"
    assert document.metadata["encoding"] == "iso8859-2" and "encoding_assumed" not in document.metadata


def test_long_lines_of_ascii_tell_nothing_and_cost_little():
    """Time that grows with the square of a line's length would be hours here."""
    lines = "Все люди рождаются свободными и равными в своем достоинстве и правах.\n" * 20
    text = f"{'x' * 3_000_000}\n{lines}{'x' * 3_000_000}"
    assert decode(text.encode("cp1251")) == Decoded(text, "cp1251", assumed=True)


@pytest.mark.parametrize("end", ["", "\n"], ids=["on the line", "on a line of its own"])
def test_a_word_far_from_the_beginning_is_looked_at(end):
    """Bytes that a guess has not seen would all be replaced."""
    raw = b"x" * 3_000_000 + f"{end}Größe{end}".encode("cp1252") + b"x" * 3_000_000
    decoded = decode(raw)
    assert decoded.assumed and "\ufffd" not in decoded.text and len(decoded.text) == len(raw)
