"""A document that spells special tokens is text, whatever the tokenizer; each document has one end, at its end."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from data_prep.document import Document, write_documents
from data_prep.holdout import Holdout
from data_prep.shards import ShardError, ShardWriter, TokenShards, write_manifest
from data_prep.stage import Task
from data_prep.tokenise import work
from data_prep.tokenizer import TokenizerError
from tests.unit.data_prep.tokenizer_kinds import KINDS, SPECIAL, adopt

PIECES = [
    "the mill",
    " ",
    "\n",
    "</",
    "s>",
    "<",
    ">",
    "水車",
    "▁",
    "ß",
    "\U0001f600",
    "\u0301",
    "[SEP]",
    "<0x0A>",
    *SPECIAL,
    "</S>",
]


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return adopt(request.param, folder), Tokenizer.from_file(str(folder / "given.json"))


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=8).map("".join), max_size=4))
def test_no_text_becomes_a_special_token(pair, texts):
    opened, theirs = pair
    added = theirs.get_added_tokens_decoder().items()
    special = {index for index, token in added if token.special and token.content != "<unk>"} | {opened.eod_id}
    theirs.encode_special_tokens = True
    for text, ids in zip(texts, opened.encode(texts), strict=True):
        assert not special & set(ids.tolist())
        if not any(token.strip("</>") in text.lower() for token in SPECIAL):
            assert ids.tolist() == theirs.encode(text, add_special_tokens=False).ids


def test_shards_have_one_end_per_document(pair, tmp_path):
    opened, _ = pair
    texts = [f"{n} </s> the mill</s>{'</s>' * n} <s> <unk>" for n in range(20)]
    write_documents(tmp_path / "part-00000.jsonl.zst", [Document(f"a/{n}", text, "a") for n, text in enumerate(texts)])
    folder = opened.folder
    result = work(Task("part-00000", 1, (tmp_path / "part-00000.jsonl.zst", folder, 2**20, Holdout(0, 0, None))), tmp_path)
    write_manifest(tmp_path / "train", result["shards"]["train"])
    shards = TokenShards.open(tmp_path / "train")
    shards.verify_all()
    tokens = shards.read(0, shards.tokens)
    assert (tokens == opened.eod_id).sum() == shards.documents == 20


@pytest.mark.parametrize("ids", [[[1, 2, 0, 3], [4]], [[0], [0]], [[2], [1, 0]]])
def test_verify_counts_ends_against_documents(ids, tmp_path):
    with ShardWriter(tmp_path / "shard-00000-000.tokens", 9, 0, "0" * 64) as writer:
        for document in ids:
            writer.add(np.array(document, np.uint32), 1)
    write_manifest(tmp_path, ["shard-00000-000.tokens"])
    with pytest.raises(ShardError, match=r"end-of-document token \(0\) stands elsewhere than at the end of each of its 2"):
        TokenShards.open(tmp_path).verify_all()


def test_an_end_that_texts_are_made_of_is_refused(tmp_path):
    words = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, ".": 2}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(TokenizerError, match=r"'\.' is an ordinary piece of text"):
        _adopt(words, ".", tmp_path)
    with pytest.raises(TokenizerError, match=r"it makes '<unk>', the end of a document, of the text"):
        _adopt(words, "<unk>", tmp_path)


def test_a_tokenizer_that_cannot_encode_every_text_is_refused(tmp_path):
    bare = Tokenizer(models.Unigram([("a", -1.0), ("</s>", 0.0)]))
    bare.add_special_tokens(["</s>"])
    with pytest.raises(TokenizerError, match="cannot encode every text"):
        _adopt(bare, "</s>", tmp_path)


def _adopt(made, eod, folder):
    from data_prep import tokenizer

    (folder / "tokenizer.json").write_text(json.dumps(json.loads(made.to_str())))
    tokenizer.adopt(folder, eod, folder / "out")
