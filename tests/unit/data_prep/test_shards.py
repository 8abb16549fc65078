"""The shard format: what is written is read, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shards import ShardError, ShardHeader, ShardWriter, TokenShards, token_dtype, write_manifest
from data_prep.shards.format import BLOCK_BYTES, HEADER_BYTES, MANIFEST
from tests.corpora import FINGERPRINT, write_shards

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


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(documents, min_size=1, max_size=4), data=st.data())
def test_many_spans_at_once(tmp_path_factory, parts, data):
    folder = tmp_path_factory.mktemp("shards")
    stream = write(folder, parts)
    shards = TokenShards.open(folder)
    place = st.integers(0, len(stream))
    spans = np.array(data.draw(st.lists(st.tuples(place, place).map(sorted), max_size=6)), np.int64).reshape(-1, 2)
    sizes = spans[:, 1] - spans[:, 0]
    places = np.cumsum(sizes + 1) - sizes  # one place free before each
    out = np.full(int((sizes + 1).sum()), -1)
    shards.read_into(spans[:, 0], sizes, out, places)
    assert out.tolist() == [token for start, stop in spans for token in (-1, *stream[start:stop])]
    with pytest.raises(IndexError, match=f"of {len(stream)}"):
        shards.read_into(np.array([len(stream)]), np.array([1]), out, np.array([0]))


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
    name = data.draw(st.sampled_from(["shard-00000.tokens", MANIFEST]))
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
    name = data.draw(st.sampled_from(["shard-00000.tokens", MANIFEST]))
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
    from data_prep.shards.format import manifest_text

    def escape(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["shards"][0]["name"] = "../shards/shard-00000.tokens"
        (folder / MANIFEST).write_text(manifest_text(manifest))

    assert "not an entry for a shard" in str(assert_refused(damaged_copy(small, tmp_path_factory, escape)))


def test_dtype_by_vocabulary():
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.uint32
    header = ShardHeader(10, 1, 5, 65_537, 0, FINGERPRINT)
    assert header.token_bytes == 40
