"""Tokenizers: trained the same every time, adopted as they are, lossless."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from data_prep import tokenizer
from data_prep.shards import tokenizer_fingerprint
from data_prep.tokenizer import CorpusTokenizer, TokenizerError

TEXTS = [f"the mill turns, {n} grains in the stone and the river below" * 5 for n in range(50)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.train(TEXTS, 400, None, folder)
    return folder


def test_training_is_repeatable(folder, tmp_path):
    tokenizer.train(iter(TEXTS), 400, None, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    opened = CorpusTokenizer(folder)
    assert opened.vocab_size <= 400 and (opened.eod_token, opened.eod_id) == ("<|endoftext|>", 0)


@pytest.fixture(scope="module")
def opened(folder):
    return CorpusTokenizer(folder)


@settings(max_examples=200)
@given(text=st.text())
def test_any_text_comes_back(opened, text):
    (ids,) = opened.encode([text])
    assert opened.decode(ids) == text
    assert opened.eod_id not in ids


def test_a_special_token_spelt_in_a_text_is_only_text(folder):
    opened = CorpusTokenizer(folder)
    (ids,) = opened.encode(["a <|endoftext|> b"])
    assert opened.eod_id not in ids and opened.decode(ids) == "a <|endoftext|> b"


def test_transformers_load_the_folder(folder):
    theirs, opened = AutoTokenizer.from_pretrained(folder), CorpusTokenizer(folder)
    for text in TEXTS[:5]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == opened.encode([text])[0].tolist()
    assert (theirs.eos_token, theirs.eos_token_id) == ("<|endoftext|>", 0)


def test_an_existing_tokenizer_keeps_its_ids(folder, tmp_path):
    tokenizer.adopt(folder, None, tmp_path / "a")
    tokenizer.adopt(folder / "tokenizer.json", None, tmp_path / "b")
    for name in ("a", "b"):
        adopted = CorpusTokenizer(tmp_path / name)
        assert adopted.fingerprint == CorpusTokenizer(folder).fingerprint
        assert adopted.encode(TEXTS[:1])[0].tolist() == CorpusTokenizer(folder).encode(TEXTS[:1])[0].tolist()


def test_no_end_of_document_token(tmp_path):
    bare = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel()
    bare.add_special_tokens(["<pad>"])
    bare.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"declares no end-of-sequence token.*eod_token.*<pad>"):
        tokenizer.adopt(tmp_path, None, tmp_path / "out")
    with pytest.raises(TokenizerError, match='"<end>" is not in its vocabulary'):
        tokenizer.adopt(tmp_path, "<end>", tmp_path / "out")
    tokenizer.adopt(tmp_path, "<pad>", tmp_path / "out")
    assert CorpusTokenizer(tmp_path / "out").eod_id == 2


def test_what_is_no_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"no .*tokenizer\.json.*holds config\.json"):
        tokenizer.adopt(tmp_path, None, tmp_path / "out")
    (tmp_path / "tokenizer.json").write_text('{"model": "?"}')
    with pytest.raises(TokenizerError, match="not a tokenizer"):
        tokenizer.adopt(tmp_path, None, tmp_path / "out")


def test_the_fingerprint_is_that_of_the_ids(folder, tmp_path):
    content = json.loads((folder / "tokenizer.json").read_text())
    same = {**content, "truncation": {"max_length": 8}, "padding": None}
    (tmp_path / "same.json").write_text(json.dumps(same))
    other = {**content, "pre_tokenizer": None}
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert tokenizer_fingerprint(tmp_path / "same.json") == tokenizer_fingerprint(folder / "tokenizer.json")
    assert tokenizer_fingerprint(tmp_path / "other.json") != tokenizer_fingerprint(folder / "tokenizer.json")


MARKS = "".join(map(chr, [0x301, 0x323, 0x1DC4, 0x1AB0, 0x8D4, 0x16FF0, 0x11F41, 0x1E4EC, 0x10D69, 0xE0100]))
"""Combining marks of several Unicode versions, up to 16."""
COMPOSED = "".join(map(chr, [0xE9, 0x1E69, 0xAC01, 0x11938, 0x105C9, 0x16121, 0x113C5, 0x2F800, 0x1E030]))


@settings(max_examples=300)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(MARKS + COMPOSED + "a \n'1")), max_size=6)
)
@pytest.mark.parametrize("normalizer", [None, "NFC", "NFKC", "NFD"])
def test_ids_are_those_of_hugging_face_whatever_the_unicode_version(normalised, normalizer, texts):
    opened, theirs = normalised[normalizer]
    ids, offsets = opened.encode_batch([text.encode() for text in texts])
    for index, text in enumerate(texts):
        assert ids[offsets[index] : offsets[index + 1]].tolist() == theirs.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def normalised(folder, tmp_path_factory):
    """{normal form: (ours, Hugging Face's)} of a tokenizer that normalises its input."""
    found = {}
    for name in (None, "NFC", "NFKC", "NFD"):
        definition = json.loads((folder / "tokenizer.json").read_text())
        definition["normalizer"] = name and {"type": name}
        place = tmp_path_factory.mktemp(f"normalised-{name}")
        (place / "tokenizer.json").write_text(json.dumps(definition))
        (place / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
        theirs = Tokenizer.from_file(str(place / "tokenizer.json"))
        theirs.encode_special_tokens = True
        found[name] = CorpusTokenizer(place), theirs
        assert found[name][0].slow_because == "" or name in ("NFKC", "NFD")
    return found


def test_dropout_of_a_tokenizer_is_left_out(folder, tmp_path):
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["model"]["dropout"] = 0.5
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    (tmp_path / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    random, plain = CorpusTokenizer(tmp_path), CorpusTokenizer(folder)
    assert [ids.tolist() for ids in random.encode(TEXTS)] == [ids.tolist() for ids in plain.encode(TEXTS)]


def test_long_words_are_cut_for_training_alone(tmp_path):
    long = ["a" * 100_000, "x" * 700 + " " * 900 + "y" * 256, "9" * 300]
    assert tokenizer.train([*TEXTS, *long], 400, None, tmp_path) == 4  # a, x, the spaces, 9
    words = tokenizer.training_words()
    found = [word for text in [*TEXTS, *long] for word, _ in words.pre_tokenize_str(text)]
    assert max(map(len, found)) == tokenizer.MAX_WORD_BYTES
    definition = json.loads((tmp_path / "tokenizer.json").read_text())
    assert definition["pre_tokenizer"]["type"] == "ByteLevel"


def test_training_is_as_without_a_limit_where_no_word_is_long(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "training_words", lambda: pre_tokenizers.ByteLevel(add_prefix_space=False))
    assert tokenizer.train(TEXTS, 400, None, tmp_path) == 0
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_the_fingerprint_is_that_of_what_transformers_save_again(folder, tmp_path):
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    content = json.loads((folder / "tokenizer.json").read_text())
    template = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}}
    for post_processor in (saved["post_processor"], template, None):
        (tmp_path / "changed.json").write_text(json.dumps({**content, "post_processor": post_processor}))
        assert tokenizer_fingerprint(tmp_path / "changed.json") == tokenizer_fingerprint(folder / "tokenizer.json")
    template["single"].insert(0, {"SpecialToken": {"id": "<s>", "type_id": 0}})
    (tmp_path / "changed.json").write_text(json.dumps({**content, "post_processor": template}))
    assert tokenizer_fingerprint(tmp_path / "changed.json") != tokenizer_fingerprint(folder / "tokenizer.json")
