"""The shard format: what is written is read, and nothing else."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shards import ShardError, ShardHeader, ShardWriter, TokenShards, token_dtype, write_manifest
from data_prep.shards.blocks import BlockChecksums
from data_prep.shards.format import BLOCK_BYTES, HEADER_BYTES, INDEX, MANIFEST, manifest_text
from data_prep.shards.index import index_bytes
from tests.corpora import FINGERPRINT, synthetic_manifest, write_shards

ROOT = Path(__file__).resolve().parents[3]
ids = st.integers(1, 299)
documents = st.lists(st.lists(ids, max_size=40), min_size=1, max_size=12)


def write(folder: Path, parts: list[list[list[int]]], vocab_size: int = 300) -> np.ndarray:
    """Write shards of documents and return the stream that a reader must see."""
    stream, names = [], []
    for index, part in enumerate(parts):
        names.append(f"shard-{index:05d}.tokens")
        with ShardWriter(folder / names[-1], vocab_size, eod_id=0, tokenizer_fingerprint=FINGERPRINT) as writer:
            for document in part:
                writer.add(np.array(document, dtype=np.int64), text_bytes=len(document))
                stream += [*document, 0]
    write_manifest(folder, names)
    return np.array(stream)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(documents, min_size=1, max_size=4), data=st.data(), wide=st.booleans())
def test_round_trip(tmp_path_factory, parts, data, wide):
    folder = tmp_path_factory.mktemp("shards")
    stream = write(folder, parts, vocab_size=70_000 if wide else 300)
    shards = TokenShards.open(folder)
    shards.verify_all()
    assert shards.dtype == (np.uint32 if wide else np.uint16)
    assert shards.tokens == len(stream)
    assert shards.documents == sum(map(len, parts))
    assert np.array_equal(shards.read(0, len(stream)), stream)
    start = data.draw(st.integers(0, len(stream)))
    stop = data.draw(st.integers(start, len(stream)))
    assert np.array_equal(shards.read(start, stop), stream[start:stop])
    starts = shards.document_starts().tolist()
    lengths = [len(document) + 1 for part in parts for document in part]
    assert starts == np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist()
    assert shards.document_starts_in(start, stop).tolist() == [place for place in starts if start <= place < stop]
    for most in (1, 3, 1 << 20):
        found = list(shards.document_lengths(most))
        assert np.concatenate(found).tolist() == lengths and max(map(len, found)) <= most


def test_a_full_disk_leaves_nothing(tmp_path):
    """Closing the file writes what waits in its buffer, and fails again."""
    writer = ShardWriter(tmp_path / "shard-00000.tokens", 300, 0, FINGERPRINT)
    with pytest.raises(OSError, match="No space left"), writer, Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), writer._file.fileno())
        writer.add(np.array([1]), 1)
    assert not list(tmp_path.iterdir())


def test_a_manifest_lists_each_shard_once_and_none_that_is_empty(tmp_path):
    write(tmp_path, [[[1, 2]], [[3]]])
    names = ["shard-00000.tokens", "shard-00001.tokens"]
    with pytest.raises(ShardError, match=r"shard-00000\.tokens is listed 2 times"):
        write_manifest(tmp_path, [*names, names[0]])
    with ShardWriter(tmp_path / "shard-00002.tokens", 300, 0, FINGERPRINT):
        pass
    with pytest.raises(ShardError, match=r"shard-00002\.tokens: holds no token"):
        write_manifest(tmp_path, [*names, "shard-00002.tokens"])


def test_blocks_are_split_and_joined_exactly(tmp_path):
    tokens = np.arange(3 * BLOCK_BYTES // 2 + 7) % 299 + 1
    stream = write(tmp_path, [[tokens.tolist(), [5]], [tokens[:100].tolist()]])
    shards = TokenShards.open(tmp_path)
    border = BLOCK_BYTES // 2
    for start, stop in ((border - 1, border + 1), (0, border), (border, 2 * border), (len(tokens) - 2, len(tokens) + 40)):
        assert np.array_equal(shards.read(start, stop), stream[start:stop])


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("small") / "shards", documents=4, shards=1)


def damaged_copy(small: Path, tmp_path_factory, change) -> Path:
    folder = tmp_path_factory.mktemp("damaged") / "shards"
    shutil.copytree(small, folder)
    change(folder)
    return folder


def assert_refused(folder: Path) -> ShardError:
    with pytest.raises(ShardError) as refused:
        TokenShards.open(folder).verify_all()
    return refused.value


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_detected(small, tmp_path_factory, data):
    name = data.draw(st.sampled_from(["shard-00000.tokens", MANIFEST, INDEX]))
    size = (small / name).stat().st_size
    # the header's zero padding is large: draw half of the places elsewhere
    offset = data.draw(st.one_of(st.integers(0, size - 1), st.integers(min(HEADER_BYTES, size - 1), size - 1)))
    bit = 1 << data.draw(st.integers(0, 7))

    def flip(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        raw[offset] ^= bit
        (folder / name).write_bytes(raw)

    assert_refused(damaged_copy(small, tmp_path_factory, flip))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_truncation_or_extension_is_detected(small, tmp_path_factory, data):
    name = data.draw(st.sampled_from(["shard-00000.tokens", MANIFEST, INDEX]))
    whole = (small / name).read_bytes()
    kept = data.draw(st.integers(0, len(whole) - 1))
    tail = data.draw(st.binary(min_size=0, max_size=3))
    if whole[:kept] + tail == whole:
        return
    folder = damaged_copy(small, tmp_path_factory, lambda folder: (folder / name).write_bytes(whole[:kept] + tail))
    assert_refused(folder)
    longer = damaged_copy(small, tmp_path_factory, lambda folder: (folder / name).write_bytes(whole + b"\n"))
    assert_refused(longer)


def test_reading_a_damaged_block_raises_and_the_others_are_served(tmp_path):
    tokens = (np.arange(3 * BLOCK_BYTES // 2) % 299 + 1).tolist()
    stream = write(tmp_path, [[tokens]])
    path = tmp_path / "shard-00000.tokens"
    raw = bytearray(path.read_bytes())
    raw[HEADER_BYTES + BLOCK_BYTES + 10] ^= 1
    path.write_bytes(raw)
    shards = TokenShards.open(tmp_path)
    assert np.array_equal(shards.read(0, 100), stream[:100])
    with pytest.raises(ShardError, match=r"block 1 of 4 .* is damaged"):
        shards.read(BLOCK_BYTES // 2, BLOCK_BYTES // 2 + 1)
    assert len(TokenShards.open(tmp_path, verify=False).read(0, len(stream))) == len(stream)


def old_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(manifest_text(manifest | {"version": 1, "shards": []}))


def replace_shard(folder: Path) -> None:
    write_shards(folder / "other", documents=4, shards=1, seed=9)
    (folder / "other" / "shard-00000.tokens").replace(folder / "shard-00000.tokens")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / MANIFEST).unlink(), "build did not finish"),
        (lambda f: (f / "shard-00000.tokens").unlink(), r"1 of 1 shards are missing, first shard-00000.tokens"),
        (lambda f: (f / "shard-00000.tokens").write_bytes(bytes(9000)), "header was never written"),
        (lambda f: (f / "shard-00000.tokens").write_bytes(b"PK" * 9000), "not a moenda token shard"),
        (lambda f: (f / "shard-00000.tokens").write_bytes(b""), "0 bytes, less than the 4096"),
        (lambda f: (f / INDEX).unlink(), r"shards.index: cannot be read: No such file"),
        (lambda f: (f / INDEX).write_bytes((f / INDEX).read_bytes()[:-8]), r"shards.index: .* truncated, or of another build"),
        (lambda f: old_manifest(f), r"format version 1; this moenda reads version 2. Build the shards anew"),
        (lambda f: replace_shard(f), "not the shard that the manifest lists"),
    ],
)
def test_refusals_say_what_and_why(small, tmp_path_factory, change, message):
    error = assert_refused(damaged_copy(small, tmp_path_factory, change))
    assert re.search(message, str(error)), error


def test_shards_of_two_tokenizers_do_not_make_a_manifest(tmp_path):
    write_shards(tmp_path / "a", 4, shards=1)
    write_shards(tmp_path / "b", 4, shards=1, fingerprint="cd" * 32)
    (tmp_path / "b" / "shard-00000.tokens").rename(tmp_path / "a" / "shard-00001.tokens")
    with pytest.raises(ShardError, match="tokenizer_fingerprint"):
        write_manifest(tmp_path / "a", ["shard-00000.tokens", "shard-00001.tokens"])


def test_order_and_content_decide_the_fingerprint(tmp_path):
    write_shards(tmp_path / "a", 4, shards=2)
    one = write_manifest(tmp_path / "a", ["shard-00000.tokens", "shard-00001.tokens"])["fingerprint"]
    other = write_manifest(tmp_path / "a", ["shard-00001.tokens", "shard-00000.tokens"])["fingerprint"]
    again = write_manifest(tmp_path / "a", ["shard-00000.tokens", "shard-00001.tokens"])["fingerprint"]
    assert one == again != other


def test_a_failed_write_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path / "shard-00000.tokens", 300, 0, FINGERPRINT)
    with pytest.raises(ShardError, match="outside the vocabulary of 300"), writer:
        writer.add(np.array([1, 300]), 2)
    assert list(tmp_path.iterdir()) == []


def test_manifest_cannot_lead_out_of_its_folder(small, tmp_path_factory):
    """Neither written so, nor read from an index that was made by hand, with true checksums."""
    with pytest.raises(ShardError, match="not a name for a shard"):
        index_bytes(["../x.tokens"], ["00" * 16], np.ones(1), np.ones(1), np.ones(1))

    def escape(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        body = (folder / INDEX).read_bytes()[:-8].replace(b"shard-00000.tokens", b"../d/shard0.tokens")
        checksums = BlockChecksums()
        checksums.add(body)
        (folder / INDEX).write_bytes(body + checksums.table())
        manifest["index_checksum"] = xxhash.xxh3_128_hexdigest(checksums.table())
        (folder / MANIFEST).write_text(manifest_text(manifest))

    assert "is not the name of a shard in this folder" in str(assert_refused(damaged_copy(small, tmp_path_factory, escape)))


def test_dtype_by_vocabulary():
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.uint32
    header = ShardHeader(10, 1, 5, 65_537, 0, FINGERPRINT)
    assert header.token_bytes == 40


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(documents, min_size=1, max_size=5), wide=st.booleans(), data=st.data())
def test_many_spans_at_once(tmp_path_factory, parts, wide, data):
    """Against slices of the whole stream, across shard borders, in any order and at any places."""
    folder = tmp_path_factory.mktemp("spans")
    stream = write(folder, parts, vocab_size=70_000 if wide else 300)
    shards = TokenShards.open(folder)
    borders = st.sampled_from([first for _, first, _ in shards.shard_spans()] + [len(stream)])
    pairs = st.tuples(borders | st.integers(0, len(stream)), borders | st.integers(0, len(stream))).map(sorted)
    spans = data.draw(st.lists(pairs, max_size=8))
    gaps = data.draw(st.lists(st.integers(0, 2), min_size=len(spans), max_size=len(spans)) | st.just([0] * len(spans)))
    starts = np.array([start for start, _ in spans], np.int64)
    sizes = np.array([stop - start for start, stop in spans], np.int64)
    places = np.cumsum(sizes + gaps) - sizes
    expected = np.full(int((sizes + gaps).sum()) + 3, -1)
    out = expected.copy()
    for start, size, place in zip(starts, sizes, places, strict=True):
        expected[place : place + size] = stream[start : start + size]
    shards.read_into(starts, sizes, out, places)
    assert np.array_equal(out, expected)
    own = np.zeros(len(out), shards.dtype)
    shards.read_into(starts, sizes, own, places)
    assert np.array_equal(own, np.where(expected < 0, 0, expected))
    shard, offset = shards.locate(np.arange(len(stream)))
    spans = list(shards.shard_spans())
    assert [spans[i][1] + o for i, o in zip(shard.tolist(), offset.tolist(), strict=True)] == list(range(len(stream)))
    assert all(offset < [spans[i][2] - spans[i][1] for i in shard.tolist()])


def test_what_is_not_in_the_stream_is_refused(small):
    shards, one = TokenShards.open(small), np.array([1])
    out = np.zeros(10, np.int64)
    for start, size in ((-1, 2), (shards.tokens, 1), (shards.tokens - 1, 2), (3, -1)):
        with pytest.raises(IndexError):
            shards.read_into(np.array([start]), np.array([size]), out, one)
    with pytest.raises(IndexError):
        shards.locate(np.array([shards.tokens]))


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(documents, min_size=1, max_size=4), stride=st.integers(1, 5), data=st.data())
def test_documents_within_a_span(tmp_path_factory, parts, stride, data):
    folder = tmp_path_factory.mktemp("documents")
    write(folder, parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_prep.shards.shard.STRIDE", stride)
        shards = TokenShards.open(folder)
        starts = shards.document_starts().astype(np.int64)
        for _ in range(5):
            start = data.draw(st.integers(0, shards.tokens))
            stop = data.draw(st.integers(start, shards.tokens))
            expected = starts[(starts >= start) & (starts < stop)]
            assert np.array_equal(shards.document_starts_in(start, stop), expected)
            named = [name for name, first, end in shards.shard_spans() if first < stop and end > start]
            assert [name for name, _, _ in shards.shard_spans(start, stop)] == (named if start < stop else [])
        lengths = np.concatenate(list(shards.document_lengths(most=3)))
        assert np.array_equal(lengths, np.diff(starts, append=shards.tokens))


def test_damage_in_a_documents_table_is_found_when_documents_are_looked_up(tmp_path):
    stream = write(tmp_path, [[[1, 2, 3], [4, 5]] * 20])
    path = tmp_path / "shard-00000.tokens"
    raw = bytearray(path.read_bytes())
    raw[HEADER_BYTES + 2 * len(stream) + 8 * 5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ShardError, match=r"block 0 of 1 .* is damaged"):
        TokenShards.open(tmp_path).document_starts_in(0, 5)


def test_a_shard_that_is_cut_short_while_in_use_is_an_error_and_not_a_crash(tmp_path):
    tokens = (np.arange(3 * BLOCK_BYTES // 2) % 299 + 1).tolist()
    write(tmp_path, [[tokens]])
    shards = TokenShards.open(tmp_path)
    os.truncate(tmp_path / "shard-00000.tokens", HEADER_BYTES + 100)
    with pytest.raises(ShardError, match="ends at byte 4,196"):
        shards.read(0, 1000)


def test_files_and_shards_in_use_are_bounded(tmp_path, monkeypatch):
    parts = [[[index % 299 + 1] * 10] for index in range(40)]
    stream = write(tmp_path, parts)
    monkeypatch.setattr("data_prep.shards.storage.MAX_DESCRIPTORS", 5)
    monkeypatch.setattr("data_prep.shards.reader.MAX_SHARDS", 12)
    before = len(os.listdir("/proc/self/fd"))
    shards, rng = TokenShards.open(tmp_path), np.random.default_rng(0)
    for start in rng.integers(0, len(stream) - 30, 300).tolist():
        assert np.array_equal(shards.read(start, start + 30), stream[start : start + 30])
        assert len(shards._shards) <= 12
        assert len(os.listdir("/proc/self/fd")) - before <= 6
    recent = shards._shards
    for index in (3, 9, 17):
        shards.read(11 * index, 11 * index + 1)
    assert list(recent)[-3:] == [3, 9, 17], "the least recently used go first"
    (tmp_path / "shard-00003.tokens").write_bytes((tmp_path / "shard-00004.tokens").read_bytes())
    for index in range(20, 28):
        shards.read(11 * index, 11 * index + 1)
    with pytest.raises(ShardError, match=r"shard-00003\.tokens: was replaced or changed while it was in use"):
        shards.read(33, 34)


def test_without_a_limit_of_open_files(tmp_path, monkeypatch):
    stream = write(tmp_path, [[[1, 2, 3]], [[4]]])
    monkeypatch.setattr("resource.getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert np.array_equal(TokenShards.open(tmp_path).read(0, len(stream)), stream)


def test_threads_read_while_files_are_closed_and_opened(tmp_path, monkeypatch):
    stream = write(tmp_path, [[[index % 299 + 1] * 50] for index in range(30)])
    monkeypatch.setattr("data_prep.shards.storage.MAX_DESCRIPTORS", 2)
    monkeypatch.setattr("data_prep.shards.reader.MAX_SHARDS", 3)
    shards = TokenShards.open(tmp_path)

    def right(seed: int) -> bool:
        starts = np.random.default_rng(seed).integers(0, len(stream) - 60, 300).tolist()
        return all(np.array_equal(shards.read(start, start + 60), stream[start : start + 60]) for start in starts)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(8)))


@pytest.mark.parametrize("tokens", [10**12, 10**14])
def test_opening_and_reading_cost_the_same_for_any_corpus(tmp_path, tokens):
    """1 T and 100 T tokens: few files are opened for the first batch, and memory stays below 50 MB after many windows."""
    folder = synthetic_manifest(tmp_path / "shards", tokens)
    code = f"""
import sys
import numpy as np
from pathlib import Path
from data_prep.shards import TokenShards, Windows
opened = []
sys.addaudithook(lambda event, details: event == "open" and opened.append(details[0]))
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
shards = TokenShards.open({str(folder)!r})
windows, rng = Windows(shards, 2048), np.random.default_rng(0)
assert windows.read(rng.integers(0, len(windows), 8)).inputs.sum() == 0
files = len(opened)
del windows, shards
before = resident()
shards = TokenShards.open({str(folder)!r})
windows = Windows(shards, 2048, documents=True)
for _ in range(100):
    windows.read(rng.integers(0, len(windows), 64))
print(shards.tokens, files, (resident() - before) / 1e6)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    stated, files, megabytes = map(float, run.stdout.split())
    assert stated >= tokens
    assert files <= 60
    assert megabytes < 50
