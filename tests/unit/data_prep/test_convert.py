"""Megatron corpora to token shards and back: the same documents, and on the way back the same bytes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import convert, history, tokenizer
from data_prep.__main__ import main
from data_prep.shards import ShardError, ShardWriter, TokenShards, Windows, open_shards, write_manifest
from data_prep.stage import Runner, StageError
from data_prep.tokenizer import CorpusTokenizer
from tests.megatron_files import EOD, GOLDEN, golden, write_pair, write_tokenizer

TEXTS = [
    "The mill grinds slowly.",
    "No text?",
    "Straße, 中文 and \U0001f469‍\U0001f467.",
    "",
    "  spaces   \n and lines\n",
    "The mill.",
] * 3
documents_strategy = st.lists(st.lists(st.lists(st.integers(1, 299), max_size=9), max_size=3), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """A tokenizer of 300 words, the last of which are never seen."""
    return write_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def bpe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bpe") / "tokenizer"
    tokenizer.train(TEXTS, 320, None, folder)
    return folder


def to_ours(source: Path, output: Path, folder: Path, split: str = "train") -> dict:
    return convert.to_shards(source, output, folder, None, split, Runner(1))


def stream_of(shards) -> list[list[int]]:
    starts = [*shards.document_starts().tolist(), shards.tokens]
    return [shards.read(a, b).tolist() for a, b in pairwise(starts)]


def joined(documents) -> list[list[int]]:
    """What the shards are to hold: documents with a token, each with its end."""
    whole = [[token for sequence in document for token in sequence] for document in documents]
    return [ids if ids[-1] == EOD else [*ids, EOD] for ids in whole if ids]


@pytest.mark.parametrize(
    "name", ["type_1", "type_4", "type_5", "type_8", "sentences", "empty_documents", "without_eod", "text_modes"]
)
def test_files_of_megatron_core_become_shards(tmp_path, words, name):
    _, documents, _ = golden()[name]
    summary = to_ours(GOLDEN / name, tmp_path / "out", words)
    shards = TokenShards.open(tmp_path / "out" / "shards" / "train")
    shards.verify_all()
    assert stream_of(shards) == joined(documents)
    assert summary["ends_added"] == (9 if name == "without_eod" else 0)
    assert summary["empty"] == (2 if name == "empty_documents" else 0)
    assert shards.tokenizer_fingerprint == CorpusTokenizer(tmp_path / "out" / "tokenizer", fast=False).fingerprint
    numbers = [number for number, document in enumerate(documents) if any(document)]
    rows = list(history.documents(shards))
    assert [row["id"] for row in rows] == [f"{name}#{number}" for number in numbers]
    assert {row["source"] for row in rows} == {name}
    if name.startswith("type_"):
        pair = tmp_path / "back" / name
        convert.to_megatron(shards.folder, pair)
        if name == "type_8":  # Megatron's own type for 300 ids
            for suffix in (".bin", ".idx"):
                assert Path(f"{pair}{suffix}").read_bytes() == Path(f"{GOLDEN / name}{suffix}").read_bytes()
        assert stream_of(open_shards(pair, words)) == joined(documents)


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(documents_strategy, min_size=1, max_size=3), ended=st.booleans(), data=st.data())
def test_any_corpus_converts_there_and_back(tmp_path_factory, words, parts, ended, data):
    place = tmp_path_factory.mktemp("any")
    for index, documents in enumerate(parts):
        if ended:
            documents = [[*d[:-1], [*d[-1], EOD]] if any(d) else d for d in documents]
        write_pair(place / "in" / f"part{index}", documents, data.draw(st.sampled_from([3, 4, 5, 8])))
    wanted = joined([document for part in parts for document in part])
    if not wanted:
        return
    convert.to_shards(place / "in", place / "out", words, None, "train", Runner(1))
    shards = TokenShards.open(place / "out" / "shards" / "train")
    assert stream_of(shards) == wanted
    convert.to_megatron(shards.folder, place / "back" / "pair")
    back = open_shards(place / "back" / "pair", words)
    assert stream_of(back) == wanted and back.dtype == np.uint16
    ours, theirs = Windows(shards, 7, documents=True), Windows(back, 7, documents=True)
    everything = np.arange(-1, len(ours))
    for a, b in zip(vars(ours.read(everything)).values(), vars(theirs.read(everything)).values(), strict=True):
        assert np.array_equal(a, b)


def test_sequences_with_gaps_and_in_any_order_are_read_by_their_pointers(tmp_path, words):
    documents = [[[n + 1] * (n + 1), [EOD]] for n in range(20)]
    prefix = write_pair(tmp_path / "x", documents)
    raw = Path(f"{prefix}.bin").read_bytes()
    idx = bytearray(Path(f"{prefix}.idx").read_bytes())
    pointers = np.frombuffer(idx, "<i8", 40, 34 + 4 * 40).copy()
    lengths = np.frombuffer(idx, "<i4", 40, 34).copy()
    moved, data = pointers.copy(), b"xxxxxx"
    for sequence in np.random.default_rng(0).permutation(40):
        moved[sequence] = len(data)
        data += raw[pointers[sequence] : pointers[sequence] + 2 * lengths[sequence]] + b"??"
    idx[34 + 160 : 34 + 160 + 320] = moved.tobytes()
    Path(f"{prefix}.idx").write_bytes(idx), Path(f"{prefix}.bin").write_bytes(data)
    with pytest.raises(ShardError, match="python -m data_prep convert"):
        open_shards(prefix, words)
    to_ours(prefix, tmp_path / "out", words)
    assert stream_of(TokenShards.open(tmp_path / "out" / "shards" / "train")) == joined(documents)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(["type_8", "type_4", "sentences", "empty_documents"]), data=st.data())
def test_damaged_pairs_are_refused_or_converted(tmp_path_factory, words, name, data):
    place = tmp_path_factory.mktemp("damaged")
    (place / "x.bin").write_bytes((GOLDEN / f"{name}.bin").read_bytes())
    raw = bytearray((GOLDEN / f"{name}.idx").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (place / "x.idx").write_bytes(raw)
    try:
        to_ours(place / "x", place / "out", words)
    except ValueError:
        assert not (place / "out" / "shards" / "train" / "manifest.json").exists()
        return
    try:
        TokenShards.open(place / "out" / "shards" / "train").verify_all()
    except ShardError as error:  # lengths that are possible, but cut documents elsewhere: seen by where their ends are
        assert "end-of-document token" in str(error)


def write_text_shards(folder: Path, tokenizer_folder: Path) -> TokenShards:
    opened = CorpusTokenizer(tokenizer_folder, fast=False)
    folder.mkdir(parents=True)
    name = "shard-00000-000.tokens"
    with ShardWriter(folder / name, opened.vocab_size, opened.eod_id, opened.fingerprint) as writer:
        for text, ids in zip(TEXTS, opened.encode(TEXTS), strict=True):
            writer.add(ids, len(text.encode()))
    write_manifest(folder, [name])
    return TokenShards.open(folder)


def test_shards_come_back_identical(tmp_path, bpe):
    """Text bytes too, which the pair does not carry: they are those of the decoded text."""
    before = write_text_shards(tmp_path / "in" / "shards" / "train", bpe)
    assert main(["convert", str(before.folder), str(tmp_path / "pair"), "--to", "megatron"]) == 0
    assert main(["convert", str(tmp_path / "pair"), str(tmp_path / "out"), "--tokenizer", str(bpe), "--workers", "1"]) == 0
    after = TokenShards.open(tmp_path / "out" / "shards" / "train")
    assert after.fingerprint == before.fingerprint and after.text_bytes == sum(len(text.encode()) for text in TEXTS)
    table = pq.read_table(after.folder / "documents-00000-000.parquet")
    assert table["text_bytes"].to_pylist() == [len(text.encode()) for text in TEXTS]


def test_text_bytes_without_a_byte_level_tokenizer_are_those_of_the_text(tmp_path, words, bpe):
    tokenizer.adopt(words, None, tmp_path)
    plain, fast = CorpusTokenizer(tmp_path, fast=False), CorpusTokenizer(bpe, fast=False)
    ids, offsets = np.array([5, 17, 299, 3]), np.array([0, 2, 2, 4])
    assert plain.text_bytes(ids, offsets).tolist() == [len("t5 t17"), 0, len("t299 t3")]
    ids, offsets = fast.encode_batch([text.encode() for text in TEXTS])
    by_table = fast.text_bytes(ids, offsets)
    fast.__dict__["_token_bytes"] = None
    assert by_table.tolist() == fast.text_bytes(ids, offsets).tolist() == [len(text.encode()) for text in TEXTS]


def test_an_interrupted_conversion_goes_on(tmp_path, words, monkeypatch):
    monkeypatch.setattr(convert, "TOKENS_PER_SHARD", 40)
    rng = np.random.default_rng(1)
    documents = [[rng.integers(1, 299, 15).tolist()] for _ in range(30)]
    prefix = write_pair(tmp_path / "x", documents)
    to_ours(prefix, tmp_path / "whole", words)
    work, done = convert._convert, []

    def fails(task, folder):
        if len(done) == 4:
            raise OSError("disk full")
        done.append(task.name)
        return work(task, folder)

    monkeypatch.setattr(convert, "_convert", fails)
    with pytest.raises(OSError, match="disk full"):
        to_ours(prefix, tmp_path / "out", words)
    with pytest.raises(ShardError, match="its build did not finish"):
        TokenShards.open(tmp_path / "out" / "shards" / "train")
    done.clear()
    monkeypatch.setattr(convert, "_convert", lambda task, folder: (done.append(task.name), work(task, folder))[1])
    to_ours(prefix, tmp_path / "out", words)
    shards = [TokenShards.open(tmp_path / name / "shards" / "train") for name in ("whole", "out")]
    assert len(list(shards[0].shard_spans())) > 8 and "part-00000" not in done
    assert stream_of(shards[0]) == joined(documents) and shards[0].fingerprint == shards[1].fingerprint
    write_pair(prefix, documents[:-1])
    with pytest.raises(StageError, match="--rebuild"):
        to_ours(prefix, tmp_path / "out", words)


def test_two_splits_share_a_tokenizer(tmp_path, words, bpe):
    prefix = write_pair(tmp_path / "x", [[[5, EOD]], [[6, EOD]]])
    to_ours(prefix, tmp_path / "out", words)
    assert convert.to_shards(prefix, tmp_path / "out", None, None, "validation", Runner(1))["tokens"] == 4
    with pytest.raises(convert.ConvertError, match="another tokenizer"):
        to_ours(prefix, tmp_path / "out", bpe, "validation")
    with pytest.raises(convert.ConvertError, match="--tokenizer"):
        convert.to_shards(prefix, tmp_path / "new", None, None, "train", Runner(1))
    assert not (tmp_path / "new" / "shards").exists()


def test_commands_take_a_megatron_corpus(tmp_path, words, capsys):
    """verify, peek, pack, trace and takedown, with what they write beside the pair."""
    documents = [[[n + 1, n + 2, EOD]] if n != 4 else [[]] for n in range(9)]
    prefix = write_pair(tmp_path / "x", documents)
    named = ["--tokenizer", str(words)]
    assert main(["verify", str(prefix), *named]) == 0
    assert "24 tokens, 8 documents" in capsys.readouterr().out
    assert main(["peek", f"{prefix}.idx", "--skip", "1", "--count", "1", *named]) == 0
    assert capsys.readouterr().out == "document 1: tokens 3 to 6, first ids [2, 3, 0]\nt2 t3\n\n"
    assert main(["pack", str(prefix), "--length", "7", *named]) == 0
    assert (tmp_path / "x.moenda" / "plans").is_dir()
    assert Windows(open_shards(prefix, words), 7, "best_fit").tokens == 24
    assert main(["takedown", str(prefix), "x#3", "--reason", "asked", *named]) == 0
    capsys.readouterr()
    assert main(["trace", str(prefix), "--window", "1", "--length", "8", *named]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0:3:2] for line in lines] == [["1", "x#2"], ["3", "x#3"], ["3", "x#5"], ["1", "x#6"]]
    assert ["TAKEN DOWN" in line for line in lines] == [False, True, False, False]
    assert main(["takedown", str(prefix), "x#4", "--reason", "empty, so not there", *named]) == 2
    batch = Windows(open_shards(prefix, words), 8).read(np.array([1]))
    assert batch.inputs[0].tolist() == [0, 0, 0, 0, 6, 7, 0, 7] and batch.real[0].tolist() == [False] * 3 + [True] * 5
    assert main(["verify", str(prefix)]) == 2 and "--tokenizer" in capsys.readouterr().err


def test_what_was_taken_down_does_not_leave(tmp_path, words):
    documents = [[[n + 1, n + 2, EOD]] for n in range(9)]
    to_ours(write_pair(tmp_path / "x", documents), tmp_path / "out", words)
    folder = tmp_path / "out" / "shards" / "train"
    assert main(["takedown", str(folder), "x#3", "x#8", "--reason", "asked"]) == 0
    assert convert.to_megatron(folder, tmp_path / "y.bin")["taken_down"] == 2
    assert sorted(path.name for path in tmp_path.glob("y*")) == ["y.bin", "y.idx"]
    assert stream_of(open_shards(tmp_path / "y", words)) == joined([d for n, d in enumerate(documents) if n not in (3, 8)])


def test_what_was_taken_down_of_a_pair_does_not_come_along(tmp_path, words, capsys):
    documents = [[[n + 1, n + 2, EOD]] if n != 4 else [[]] for n in range(9)]
    prefix = write_pair(tmp_path / "x", documents)
    arguments = ["convert", str(prefix), str(tmp_path / "out"), "--tokenizer", str(words), "--workers", "1"]
    assert main(arguments) == 0
    assert main(["takedown", str(prefix), "x#3", "x#8", "--reason", "asked", "--tokenizer", str(words)]) == 0
    assert main(arguments) == 2
    assert "taken_down" in capsys.readouterr().err
    assert main([*arguments, "--rebuild"]) == 0
    out = capsys.readouterr().out
    assert "2 documents that were taken down are left out" in out and "1 documents were empty" in out
    shards = TokenShards.open(tmp_path / "out" / "shards" / "train")
    assert stream_of(shards) == joined([d for n, d in enumerate(documents) if n not in (3, 8)])
    assert [row["id"] for row in history.documents(shards)] == [f"x#{n}" for n in (0, 1, 2, 5, 6, 7)]


def test_takedowns_of_a_folder_of_pairs_are_those_of_the_named_pair(tmp_path, words):
    documents = [[[n + 1, n + 2, EOD]] for n in range(4)]
    for name in ("a", "b"):
        write_pair(tmp_path / "in" / name, documents)
    history.take_down(tmp_path / "in", ["b#1"], [], "asked", words)
    assert to_ours(tmp_path / "in", tmp_path / "out", words)["taken_down"] == 1
    shards = TokenShards.open(tmp_path / "out" / "shards" / "train")
    assert stream_of(shards) == joined([*documents, documents[0], *documents[2:]])


def test_refusals(tmp_path, words, bpe, capsys):
    prefix = write_pair(tmp_path / "x", [[[5, 400, EOD]]])
    for arguments, message in (
        ([prefix, tmp_path / "out", "--tokenizer", words], "hold ids 5 to 400, outside the tokenizer's vocabulary of 300"),
        ([GOLDEN / "image_modes", tmp_path / "images", "--tokenizer", words], "sequence 4 has mode 1: it is not text"),
        ([GOLDEN / "floats", tmp_path / "floats", "--tokenizer", words], "float32"),
        ([tmp_path / "nothing", tmp_path / "no", "--tokenizer", words], "No such file"),
        ([prefix, tmp_path / "out", "--to", "megatron"], "not a folder of token shards"),
        ([prefix, tmp_path / "out", "--tokenizer", tmp_path], "tokenizer.json is needed"),
    ):
        assert main(["convert", *map(str, arguments), "--workers", "1"]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))
    shards = write_text_shards(tmp_path / "shards", bpe)
    assert main(["convert", str(shards.folder), str(prefix)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["convert", str(shards.folder), str(tmp_path / "y"), "--to", "moenda"]) == 2
    (tmp_path / "built" / "shards").mkdir(parents=True)
    (tmp_path / "built" / "shards" / "stage.json").write_text("{}")
    with pytest.raises(convert.ConvertError, match="a recipe builds"):
        to_ours(GOLDEN / "type_8", tmp_path / "built", words)


def test_another_tokenizer_is_noticed(tmp_path, bpe):
    """Ids that decode to text which encodes otherwise: the merges are another tokenizer's."""
    opened = CorpusTokenizer(bpe, fast=False)
    ids = opened.encode(["The mill grinds slowly. " * 9])[0]
    prefix = write_pair(tmp_path / "x", [[[*ids.tolist(), opened.eod_id]] for _ in range(12)])
    other = tmp_path / "other"
    other.mkdir()
    described = json.loads((bpe / "tokenizer.json").read_text())
    tokens = sorted(described["model"]["vocab"], key=described["model"]["vocab"].get)
    described["model"]["vocab"] = {token: index for index, token in enumerate([tokens[0], *tokens[:0:-1]])}
    (other / "tokenizer.json").write_text(json.dumps(described))
    assert to_ours(prefix, tmp_path / "right", bpe)["same"] == 12
    with pytest.raises(convert.ConvertError, match="of 12 sequences decoded and encoded again, none"):
        to_ours(prefix, tmp_path / "wrong", other)
