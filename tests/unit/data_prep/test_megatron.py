"""Megatron's .bin and .idx: read and written byte for byte as by megatron-core; what is damaged is refused."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shards import MegatronShards, MegatronWriter, ShardError, Windows, megatron_dtype, open_shards
from data_prep.shards.format import BLOCK_BYTES
from data_prep.shards.megatron_format import MegatronPair
from data_prep.shards.vocabulary import read_vocabulary
from tests.corpora import write_shards
from tests.megatron_files import CODES, EOD, GOLDEN, golden, write_pair, write_tokenizer, write_with_megatron

try:
    from megatron.core.datasets import indexed_dataset as megatron_core
except ImportError:  # the extra `bench` has it; without it the files that it wrote stand for it
    megatron_core = None
with_megatron = pytest.mark.skipif(megatron_core is None, reason="megatron-core is not installed")

READABLE = ["type_1", "type_2", "type_3", "type_4", "type_5", "type_8", "sentences", "empty_documents", "text_modes"]
sentences = st.lists(st.integers(1, 119), max_size=12)
corpora = st.lists(st.lists(sentences, max_size=3), min_size=1, max_size=9)
integer_codes = st.sampled_from([1, 2, 3, 4, 5, 8])


def with_ends(documents):
    """Each document that has a token gets its end; empty ones stay empty, as Megatron's --append-eod leaves them."""
    return [[*d[:-1], [*d[-1], EOD]] if any(d) else d for d in documents]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def flat(documents) -> list[list[int]]:
    return [ids for document in documents if (ids := [token for sequence in document for token in sequence])]


def check_stream(shards, documents: list[list[int]]) -> None:
    """The whole interface against the documents."""
    stream = [token for document in documents for token in document]
    starts = np.cumsum([0, *map(len, documents)])[:-1]
    assert (shards.tokens, shards.documents) == (len(stream), len(documents))
    assert shards.read(0, shards.tokens).tolist() == stream
    assert shards.document_starts().tolist() == starts.tolist()
    for most in (1, 2, 1000):
        parts = list(shards.document_lengths(most))
        assert [length for part in parts for length in part.tolist()] == [len(d) for d in documents]
        assert max(map(len, parts)) <= most
    for start in range(0, len(stream) + 1, 3):
        for stop in (start, start + 1, start + 7, len(stream)):
            assert shards.document_starts_in(start, stop).tolist() == [s for s in starts.tolist() if start <= s < stop]
            assert shards.read(start, min(stop, len(stream))).tolist() == stream[start:stop]
    shards.verify_all()


@pytest.mark.parametrize("name", READABLE)
def test_files_of_megatron_core_are_read(tokenizer, name):
    _, documents, _ = golden()[name]
    shards = open_shards(GOLDEN / name, tokenizer)
    check_stream(shards, flat(documents))
    assert shards.dtype == CODES[golden()[name][0]]
    assert shards.text_bytes is None and shards.eod_id == EOD and shards.vocab_size == 300
    spans = list(shards.document_spans(0, shards.tokens))
    assert [(n, i) for n, i, _, _ in spans] == [(name, i) for i, d in enumerate(documents) if any(d)]
    for _, number, start, stop in spans:
        assert shards.read(start, stop).tolist() == [token for sequence in documents[number] for token in sequence]
    assert [span[1] for span in shards.document_spans(5, 6)] == [n for _, n, start, stop in spans if start <= 5 < stop]


@pytest.mark.parametrize("name", golden())
def test_the_tests_write_as_megatron_core_does(tmp_path, name):
    code, documents, modes = golden()[name]
    write_pair(tmp_path / "x", documents, code, modes)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"x{suffix}").read_bytes() == (GOLDEN / f"{name}{suffix}").read_bytes()


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 8])
def test_ours_writes_as_megatron_core_does(tmp_path, code):
    documents = flat(golden()[f"type_{code}"][1])
    with MegatronWriter(tmp_path / "x", np.dtype(CODES[code]), len(documents)) as writer:
        for some in (documents[:4], [], documents[4:]):
            joined = np.array([token for document in some for token in document], np.int64)
            writer.add_many(joined, np.array([len(d) for d in some], np.int64))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"x{suffix}").read_bytes() == (GOLDEN / f"type_{code}{suffix}").read_bytes()


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    writer = MegatronWriter(tmp_path / "x", megatron_dtype(300), 1)
    with pytest.raises(ShardError, match="ids 1 to 65536 do not fit uint16"), writer:
        writer.add_many(np.array([1, 65_536]), np.array([2]))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path):
    """Closing a file writes what waits in its buffer, and fails again."""
    writer = MegatronWriter(tmp_path / "x", megatron_dtype(300), 1)
    with pytest.raises(OSError, match="No space left"), writer, Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), writer._bin.fileno())
        writer.add_many(np.array([1]), np.array([1]))
    assert not list(tmp_path.iterdir())


OPEN_MANY = """
import resource, sys
from data_prep.shards import open_shards
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
shards = open_shards(sys.argv[1], sys.argv[2])
shards.verify_all()
print(shards.read(0, shards.tokens).sum())
"""


def test_more_pairs_than_files_may_be_open(tmp_path, tokenizer):
    for number in range(60):
        write_pair(tmp_path / "many" / f"part{number}", [[[5, 6, EOD]]])
    command = [sys.executable, "-c", OPEN_MANY, tmp_path / "many", tokenizer]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "660\n"


@settings(max_examples=60, deadline=None)
@given(documents=corpora, code=integer_codes, length=st.integers(1, 20))
def test_any_corpus_is_read(tmp_path_factory, tokenizer, documents, code, length):
    documents = with_ends(documents)
    prefix = write_pair(tmp_path_factory.mktemp("any") / "a.b_text_document", documents, code)
    if not flat(documents):
        with pytest.raises(ShardError, match="no tokens"):
            open_shards(prefix, tokenizer)
        return
    shards = open_shards(prefix, tokenizer)
    check_stream(shards, flat(documents))
    assert len(Windows(shards, length)) == -(-(shards.tokens - 1) // length)
    pair = MegatronPair(prefix)
    assert [pair.sequence(i).tolist() for i in range(pair.header.sequences)] == [s for d in documents for s in d]


@settings(max_examples=30, deadline=None)
@given(first=corpora, second=corpora, third=corpora, codes=st.tuples(integer_codes, integer_codes, integer_codes))
def test_a_folder_is_one_stream_in_the_order_of_names(tmp_path_factory, tokenizer, first, second, third, codes):
    folder = tmp_path_factory.mktemp("folder")
    parts = [with_ends(part) for part in (first, second, third)]
    for name, part, code in zip("cab", parts, codes, strict=True):
        write_pair(folder / name, part, code)
    joined = [document for part in (parts[1], parts[2], parts[0]) for document in flat(part)]
    if joined:
        shards = open_shards(folder, tokenizer)
        check_stream(shards, joined)
        assert [name for name, _, _ in shards.shard_spans()] == [
            n for n, p in zip("abc", (parts[1], parts[2], parts[0]), strict=True) if flat(p)
        ]
        stream = np.array([token for document in joined for token in document])
        starts = np.arange(0, len(stream))
        sizes = np.minimum(3, len(stream) - starts)
        out = np.full(4 * len(stream), -1)
        shards.read_into(starts, sizes, out, 4 * starts)
        rows = out.reshape(-1, 4)
        assert all(
            row[:size].tolist() == stream[s : s + size].tolist() for row, s, size in zip(rows, starts, sizes, strict=True)
        )


@with_megatron
@settings(max_examples=40, deadline=None)
@given(documents=corpora, code=integer_codes)
def test_bytes_and_reads_equal_megatron_core(tmp_path_factory, tokenizer, documents, code):
    documents, folder = with_ends(documents), tmp_path_factory.mktemp("core")
    theirs = write_with_megatron(folder / "theirs", documents, code)
    ours = write_pair(folder / "ours", documents, code)
    for suffix in (".bin", ".idx"):
        assert Path(f"{ours}{suffix}").read_bytes() == Path(f"{theirs}{suffix}").read_bytes()
    if not flat(documents):
        return
    pair, core = MegatronPair(theirs), megatron_core.IndexedDataset(str(theirs))
    for index in range(len(core)):
        assert pair.sequence(index).dtype == core[index].dtype and pair.sequence(index).tobytes() == core[index].tobytes()
    shards, at = open_shards(theirs, tokenizer), 0
    for first, last in zip(core.document_indices[:-1].tolist(), core.document_indices[1:].tolist(), strict=True):
        whole = np.concatenate([np.empty(0, pair.header.dtype), *core[first:last]]) if last > first else np.empty(0)
        assert shards.read(at, at + len(whole)).tobytes() == whole.astype(pair.header.dtype).tobytes()
        at += len(whole)
    assert at == shards.tokens


@with_megatron
@pytest.mark.parametrize("vocabulary", [1, 65_499, 65_500, 65_501, 200_000])
def test_type_of_tokens_equals_megatron_core(vocabulary):
    assert megatron_dtype(vocabulary) == megatron_core.DType.optimal_dtype(vocabulary)


def read_all(prefix: Path, tokenizer: Path) -> tuple[list[int], list[int]]:
    shards = open_shards(prefix, tokenizer)
    read = shards.read(0, shards.tokens).tolist()  # lazily checked, as training reads
    starts = shards.document_starts().tolist()
    shards.verify_all()
    return read, starts


@pytest.mark.parametrize("name", ["type_8", "type_1", "sentences", "empty_documents", "text_modes"])
@pytest.mark.parametrize("suffix", [".idx", ".bin"])
def test_cut_short_anywhere_is_refused(tmp_path, tokenizer, name, suffix):
    for file in (".idx", ".bin"):
        shutil.copy(GOLDEN / f"{name}{file}", tmp_path / f"x{file}")
    whole, expected = (GOLDEN / f"{name}{suffix}").read_bytes(), read_all(GOLDEN / name, tokenizer)
    for size in range(len(whole)):
        (tmp_path / f"x{suffix}").write_bytes(whole[:size])
        if name == "text_modes" and suffix == ".idx" and size == len(whole) - 9:
            assert read_all(tmp_path / "x", tokenizer) == expected  # all nine modes cut off: another valid file of the same
            continue
        with pytest.raises(ShardError):
            read_all(tmp_path / "x", tokenizer)
    for tail in (b"\0", b"\1\2", whole):
        (tmp_path / f"x{suffix}").write_bytes(whole + tail)
        with pytest.raises(ShardError):
            read_all(tmp_path / "x", tokenizer)


@pytest.mark.parametrize("name", ["type_8", "type_3", "type_1", "sentences", "empty_documents", "text_modes"])
def test_flipped_bits_of_the_index_are_refused_or_harmless(tmp_path, tokenizer, name):
    """All tokens are what they were. Two documents may become one unseen: the format allows it, and has no checksum."""
    shutil.copy(GOLDEN / f"{name}.bin", tmp_path / "x.bin")
    whole, (expected, starts) = (GOLDEN / f"{name}.idx").read_bytes(), read_all(GOLDEN / name, tokenizer)
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            (tmp_path / "x.idx").write_bytes(changed)
            try:
                found = read_all(tmp_path / "x", tokenizer)
            except ShardError:
                continue
            assert found[0] == expected
            assert set(found[1]) <= set(starts)


@settings(max_examples=200, deadline=None)
@given(
    raw=st.binary(max_size=120), data=st.binary(max_size=40), header=st.booleans(), counts=st.tuples(*[st.integers(0, 3)] * 2)
)
def test_foreign_bytes_are_refused_or_read(tmp_path_factory, tokenizer, raw, data, header, counts):
    prefix = tmp_path_factory.mktemp("foreign") / "x"
    start = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, *counts) if header else b""
    Path(f"{prefix}.idx").write_bytes(start + raw)
    Path(f"{prefix}.bin").write_bytes(data)
    try:
        read_all(prefix, tokenizer)
    except ShardError:
        return


def change_idx(prefix: Path, offset: int, form: str, value: int) -> None:
    raw = bytearray(Path(f"{prefix}.idx").read_bytes())
    struct.pack_into(form, raw, offset, value)
    Path(f"{prefix}.idx").write_bytes(raw)


DOCUMENTS = [[[5, 6, EOD]], [[7, EOD]], [[8, 9, 10, EOD]], [[11, EOD]]]
REFUSALS = [
    (lambda p: Path(f"{p}.bin").unlink(), r"x.bin: .*No such file or directory. A Megatron corpus is a .bin and a .idx"),
    (lambda p: Path(f"{p}.idx").unlink(), r"x.idx: .*No such file or directory"),
    (lambda p: Path(f"{p}.idx").write_bytes(b"PK\3\4" * 99), "not a Megatron .idx"),
    (lambda p: change_idx(p, 9, "<Q", 2), "version 2; moenda reads version 1"),
    (lambda p: change_idx(p, 17, "B", 6), "float64"),
    (lambda p: change_idx(p, 17, "B", 99), "unknown type of tokens 99"),
    (lambda p: change_idx(p, 17, "B", 4), r"cut short or of another .idx: 22 bytes"),
    (lambda p: change_idx(p, 18, "<Q", 2**62), "cut short"),
    (lambda p: change_idx(p, 34 + 4, "<i", 1), "sequence 1 of 4 does not end where the next begins"),
    (lambda p: change_idx(p, 34 + 16 + 16, "<q", 12), "sequence 1 of 4 does not end where"),
    (lambda p: change_idx(p, 34 + 48, "<q", 1), "documents go from sequence 1 to 4"),
    (lambda p: write_pair(p, [[[5, 6]], [[7]]]), r"0 of 2 documents looked at end .* id 0, the others with 6, 7.*append-eod"),
    (lambda p: write_pair(p, [[[5, 9]], [[7, 9]]]), "If 9 is the end of documents"),
    (lambda p: write_pair(p, [[[5, 300, EOD]]]), "token 1 is 300, outside the tokenizer's vocabulary of 300 ids"),
    (lambda p: write_pair(p, [[[5, -1, EOD]]], code=4), "token 1 is -1, outside"),
    (lambda p: write_pair(p, DOCUMENTS, modes=[0, 0, 2, 0]), "sequence 2 has mode 2: it is not text"),
    (lambda p: write_pair(p, [[]]), "no tokens in 1 pairs"),
]


@pytest.mark.parametrize(("damage", "message"), REFUSALS)
def test_refusals_say_what_and_why(tmp_path, tokenizer, damage, message):
    prefix = write_pair(tmp_path / "x", DOCUMENTS)
    damage(prefix)
    with pytest.raises(ShardError) as refused:
        read_all(prefix, tokenizer)
    assert re.search(message, str(refused.value)), refused.value


def test_one_document_without_its_end_is_found_when_it_is_read(tmp_path, tokenizer):
    documents = [[[1 + n % 250] * 1000 + [EOD]] for n in range(400)]
    documents[129][0][-1] = 7
    shards = open_shards(write_pair(tmp_path / "x", documents), tokenizer)
    assert shards.read(0, 1000).tolist() == [1] * 1000
    block = 130 * 1001 * 2 // BLOCK_BYTES * BLOCK_BYTES // 2
    with pytest.raises(ShardError, match=r"document that ends at token 130,130 ends with id 7, not .* id 0"):
        shards.read(block, block + 1)
    with pytest.raises(ShardError, match="130,130"):
        shards.verify_all()
    assert len(MegatronShards.open(tmp_path / "x", tokenizer, verify=False).read(0, shards.tokens)) == 400 * 1001


def test_paths_that_name_a_corpus(tmp_path, tokenizer):
    prefix = write_pair(tmp_path / "corpus" / "my.corpus_text_document", DOCUMENTS)
    named = [open_shards(path, tokenizer) for path in (prefix, f"{prefix}.bin", f"{prefix}.idx", tmp_path / "corpus")]
    assert len({shards.fingerprint for shards in named}) == 1
    prefix.mkdir()  # a folder of the same name
    assert open_shards(prefix, tokenizer).fingerprint == named[0].fingerprint
    with pytest.raises(ShardError, match="does not say which tokenizer wrote it"):
        open_shards(prefix)
    with pytest.raises(ShardError, match=r"no manifest\.json|no such folder"):
        open_shards(tmp_path / "nothing", tokenizer)
    with pytest.raises(ShardError, match=r"no tokenizer\.json"):
        open_shards(prefix, tmp_path)
    ours = write_shards(tmp_path / "ours", 4)
    assert open_shards(ours).documents == 4


def test_the_fingerprint_follows_the_content_and_not_the_path(tmp_path, tokenizer):
    documents = [[[*range(1, 200), EOD]] for _ in range(2000)]
    prefix = write_pair(tmp_path / "a" / "x", documents)
    fingerprint = open_shards(prefix, tokenizer).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "x.bin").rename(tmp_path / "b" / "y.bin"), (tmp_path / "b" / "x.idx").rename(tmp_path / "b" / "y.idx")
    assert open_shards(tmp_path / "b" / "y", tokenizer).fingerprint == fingerprint
    documents[0], documents[1] = documents[1][:], [[*range(2, 200), EOD]]
    changed = {fingerprint}
    for change in (documents, documents[::-1], documents[:-1], [[[5, *d[0][1:]]] for d in documents]):
        changed.add(open_shards(write_pair(tmp_path / "c" / "x", change), tokenizer).fingerprint)
    changed.add(open_shards(write_pair(tmp_path / "c" / "x", documents, code=4), tokenizer).fingerprint)
    assert len(changed) == 6


@pytest.mark.parametrize(
    ("tokenizer_json", "config", "size", "eod"),
    [
        ('{"model": {"vocab": {"a": 0, "<|endoftext|>": 7}}}', None, 8, 7),
        ('{"model": {"vocab": [["<s>", 0.0], ["</s>", -1.5], ["a", -2]]}, "added_tokens": []}', None, 3, 1),
        (
            '{"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 9, "content": "END"}]}',
            '{"eos_token": "END"}',
            10,
            9,
        ),
        ('{"model": {"vocab": {"a": 0, "</s>": 1}}}', '{"eos_token": {"content": "a"}}', 2, 0),
        ('{"model": {"vocab": {"a": 0}}}', None, "declares no end-of-sequence token", None),
        ('{"model": {"vocab": {"a": "b"}}}', None, "no vocabulary can be read", None),
        ('{"model": {"vocab": 5}}', None, "no vocabulary can be read", None),
        ('{"model": []}', None, "no vocabulary can be read", None),
        ('{"model": {"vocab": {"a": 0}}}', "{", "not readable", None),
        ('{"model": {"vocab": {"a": 0}}}', "[]", "not readable", None),
    ],
)
def test_vocabulary_of_a_tokenizer_folder(tmp_path, tokenizer_json, config, size, eod):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json)
    if config:
        (tmp_path / "tokenizer_config.json").write_text(config)
    if eod is None:
        with pytest.raises(ShardError, match=size):
            read_vocabulary(tmp_path)
        return
    found = read_vocabulary(tmp_path)
    assert (found.size, found.eod_id) == (size, eod) and read_vocabulary(tmp_path / "tokenizer.json") == found
