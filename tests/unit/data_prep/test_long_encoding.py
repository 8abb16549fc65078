"""Long texts are encoded in pieces with the ids of the whole, whatever the tokenizer."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import document, long_encoding, long_text, tokenise
from data_prep.document import Document, write_documents
from data_prep.holdout import Holdout
from data_prep.long_text import LongText
from data_prep.shards import TokenShards, write_manifest
from data_prep.stage import Task
from tests.unit.data_prep.tokenizer_kinds import KINDS, adopt

WORDS = [
    "the",
    "mill",
    "turns",
    "42",
    "grains,",
    "in",
    "stone.",
    "das",
    "Wasser",
    "fließt",
    "水車が回る。",
    "x=1;",
    "😀",
    "naïve",
    "</s>",
    "▁",
]
WORDS += ["don't\n\n", "\t", "", "e\u0301"]


@pytest.fixture(scope="module", params=list(KINDS))
def opened(request, tmp_path_factory):
    return adopt(request.param, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def small_pieces(monkeypatch):
    for module in (long_encoding, long_text, document):
        monkeypatch.setattr(module, "PIECE_BYTES", 300)
    monkeypatch.setattr(long_encoding, "_NEAR", 400)
    monkeypatch.setattr(long_encoding, "CONTEXT_BYTES", 64)


def a_text(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


@pytest.mark.usefixtures("small_pieces")
@settings(max_examples=30, deadline=None, suppress_health_check=["function_scoped_fixture"])
@given(seed=st.integers(0, 10**6), words=st.integers(0, 700))
def test_ids_are_those_of_the_whole(opened, seed, words):
    text, before = a_text(seed, words), opened.forced_cuts
    pieces = list(opened.encode_long(LongText(text.encode())))
    assert np.concatenate([*pieces, np.empty(0, np.uint32)]).tolist() == opened.encode([text])[0].tolist()
    assert len(pieces) > 1 or words < 300
    assert opened.forced_cuts == before


@pytest.mark.usefixtures("small_pieces")
def test_cuts_that_never_hold_are_made_all_the_same_and_counted():
    forced = []
    text = "水車" * 1000

    def encode(texts):  # the first byte's id tells the length of the whole: nothing can be cut
        return [np.array([len(text), *text], np.uint32) for text in texts]

    pieces = list(long_encoding.encode_pieces(text.encode(), encode, lambda: forced.append(1)))
    assert len(forced) == len(pieces) - 1 > 3
    assert max(map(len, pieces)) < 1200


def test_shards_with_long_documents_are_those_of_whole_ones(opened, tmp_path, request):
    texts = ["short one", a_text(1, 900), "", a_text(2, 500), "two", "three"]
    write_documents(tmp_path / "part-00000.jsonl.zst", [Document(f"a/{n}", text, "a") for n, text in enumerate(texts)])

    def build(name):
        (tmp_path / name).mkdir()
        arguments = (tmp_path / "part-00000.jsonl.zst", opened.folder, 700, Holdout(0, 0, None))
        result = tokenise.work(Task("part-00000", 1, arguments), tmp_path / name)
        write_manifest(tmp_path / name / "train", result["shards"]["train"])
        shards = TokenShards.open(tmp_path / name / "train")
        histories = list(tokenise.documents_of(tmp_path / name / "train", result["shards"]["train"]))
        return shards.read(0, shards.tokens).tolist(), shards.document_starts().tolist(), histories, result["sources"]

    whole = build("whole")
    request.getfixturevalue("small_pieces")
    assert build("pieces") == whole
