"""Deduplication decides the same of a text whether it is held whole or as UTF-8 in pieces."""

from __future__ import annotations

import random

import numpy as np
import pytest

from data_prep import document, long_text
from data_prep.dedup import decontaminate, exact, lines, minhash, signatures
from data_prep.document import Document, read_records, write_documents
from data_prep.long_text import LongText
from data_prep.stage import Parts, Runner

WORDS = [f"{a}{b}" for a in ("mill", "stone", "Wasser", "río", "水車", "🌊river") for b in ("", "s", "ing", "\u0301", "。")]
FACT = "the wheel of the upper mill was made of oak in the spring of that year by three brothers from the hills"


def a_text(seed: int, words: int = 900) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + (f" {rng.randrange(999)}\n" if i % 9 == 0 else "") for i in range(words))


@pytest.fixture
def long_texts(monkeypatch):
    """Texts of more than 1,000 bytes are long."""
    for module in (long_text, document):
        monkeypatch.setattr(module, "PIECE_BYTES", 1000)
    monkeypatch.setattr(signatures, "SHINGLES_AT_ONCE", 64)


def corpus() -> list[Document]:
    notice = "\n\nThis notice of the publisher stands under every page of it\n\n"
    texts = [a_text(n) + notice for n in range(6)]
    texts += [texts[1].replace("mill ", "mills ", 2), " \n" + texts[2].replace(" ", "  ") + "\n", texts[3] + " end"]
    texts += [a_text(20)[:3000] + f" {FACT.upper()} " + a_text(21) + FACT + "." + a_text(22), FACT, notice * 60]
    return [Document(f"a/{i}", text, "a", {"url": str(i)}) for i, text in enumerate(texts)]


def steps(folder):
    """Name -> function of (runner, parts)."""
    (folder / "sets.txt").write_text(FACT)
    settings = decontaminate.DecontaminationSettings(paths=["sets.txt"])
    repeated = lines.RepeatedTextSettings(max_documents=3)
    paragraphs = lines.RepeatedTextSettings(max_documents=3, unit="paragraph", keep_first=False)
    return {
        "exact": lambda runner, parts, to: exact.run(runner, to, parts),
        "lines": lambda runner, parts, to: lines.run(runner, to, parts, repeated),
        "paragraphs": lambda runner, parts, to: lines.run(runner, to, parts, paragraphs),
        "minhash": lambda runner, parts, to: minhash.run(runner, to, parts, minhash.MinHashSettings(), 0),
        "decontaminate": lambda runner, parts, to: decontaminate.run(runner, to, parts, settings, folder),
    }


@pytest.mark.parametrize("step", ["exact", "lines", "paragraphs", "minhash", "decontaminate"])
def test_the_same_documents_are_kept_and_dropped(step, tmp_path, request):
    part = tmp_path / "part-00000.jsonl.zst"
    write_documents(part, corpus())

    def records(name):
        with Runner(1) as runner:
            steps(tmp_path)[step](runner, Parts.of_files([part]), tmp_path / name)
        return [list(read_records(path)) for path in sorted((tmp_path / name / "documents").glob("*.zst"))]

    whole = records("whole")
    request.getfixturevalue("long_texts")
    in_pieces = records("pieces")
    assert in_pieces == whole
    kept = {record["id"]: record["text"] for record in next(records for records in whole if len(records) > 5)}
    assert kept != {document.id: document.text for document in corpus()}


@pytest.mark.usefixtures("long_texts")
@pytest.mark.parametrize("text", [a_text(1), "水車" * 2000, "a b c d", "", "x" * 5000, " \n" * 3000])
def test_a_signature_and_a_hash_of_a_text_in_pieces(text):
    long = LongText(text.encode())
    assert exact.text_hash(long) == exact.text_hash(text)
    assert long.strip().data.decode() == text.strip() and len(long) == len(text)
    words = text.split()
    if max(map(len, words), default=0) < 1000:  # no word is cut
        (hashes, bounds), (known, known_bounds) = signatures.shingles([long], 5), signatures.shingles([text], 5)
        assert hashes.tolist() == known.tolist() and bounds.tolist() == known_bounds.tolist()
        assert np.array_equal(signatures.sign(hashes, bounds, 60, 3), signatures.sign(known, known_bounds, 60, 3))
