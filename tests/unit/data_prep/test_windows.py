"""Windows of real shards: exact tokens, targets, positions, against golden examples and a slow reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import packing
from data_prep.shards import ShardError, ShardWriter, TokenShards, Windows, write_manifest
from data_prep.shards.takedown import write_takedowns
from data_prep.shards.windows import WAYS
from tests.corpora import FINGERPRINT

EOD = 0


def write(folder: Path, parts: list[list[list[int]]]) -> TokenShards:
    """Shards of documents of ids, one per part."""
    names = [f"shard-{index:05d}.tokens" for index in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with ShardWriter(folder / name, 60_000, EOD, FINGERPRINT) as writer:
            for document in part:
                writer.add(np.array(document, np.int64), text_bytes=len(document))
    write_manifest(folder, names)
    return TokenShards.open(folder)


def counted(*lengths: int) -> list[list[int]]:
    """Documents of these lengths, end-of-document token included, whose ids count 1, 2, 3, ... through all of them."""
    ends = np.cumsum([length - 1 for length in lengths])
    return [list(range(end - length + 2, end + 1)) for end, length in zip(ends.tolist(), lengths, strict=True)]


def packed(shards: TokenShards, way: str, length: int, **settings) -> Windows:
    packing.make(shards, way, length, settings.get("max_documents"))
    return Windows(shards, length, way, **settings)


@pytest.mark.parametrize("documents", [False, True])
def test_two_documents_with_their_separators_in_a_window_of_2048(tmp_path, documents):
    """1500 and 300 tokens of text."""
    first, second = counted(1501, 301)
    windows = packed(write(tmp_path, [[first, second]]), "best_fit", 2048, documents=documents)
    batch = windows.read(np.array([0]))
    assert len(windows) == 1 and windows.tokens == 1802 and windows.spans(0) == [(0, 1501), (1501, 1802)]
    assert batch.inputs[0].tolist() == [*first, EOD, *second, EOD, *[EOD] * 246]
    assert batch.targets[0].tolist() == [*first[1:], EOD, *second, EOD, *[EOD] * 247]
    unreal = {*range(1801, 2048), *({1500} if documents else ())}  # the last end of document has no next token
    assert set(np.flatnonzero(~batch.real[0]).tolist()) == unreal
    if documents:
        assert batch.positions[0].tolist() == [*range(1501), *range(301), *range(246)]
    else:
        assert batch.positions is None


def test_three_documents_fill_a_window_of_1024(tmp_path):
    """800 + 200 + 24 tokens, separators among them."""
    documents = counted(800, 200, 24)
    windows = packed(write(tmp_path, [documents]), "best_fit", 1024, documents=True)
    batch = windows.read(np.array([0]))
    assert len(windows) == 1 and windows.spans(0) == [(0, 800), (800, 1000), (1000, 1024)]
    assert batch.inputs[0].tolist() == [token for document in documents for token in (*document, EOD)]
    assert np.flatnonzero(~batch.real[0]).tolist() == [799, 999, 1023]
    assert batch.positions[0].tolist() == [*range(800), *range(200), *range(24)]


def test_three_of_300_and_124_of_padding(tmp_path):
    documents = counted(300, 300, 300)
    shards = write(tmp_path, [documents])
    batch = packed(shards, "best_fit", 1024, documents=True).read(np.array([0]))
    assert batch.inputs[0].tolist() == [*(token for document in documents for token in (*document, EOD)), *[EOD] * 124]
    assert batch.positions[0].tolist() == [*range(300)] * 3 + [*range(124)]
    assert batch.real[0].sum() == 3 * 299 and not batch.real[0, 899:].any()
    alone = packed(shards, "pad", 1024)
    assert len(alone) == 3 and alone.tokens == 900
    rows = alone.read(np.arange(3))
    assert rows.inputs.tolist() == [[*document, EOD, *[EOD] * 724] for document in documents]
    assert rows.real.sum(axis=1).tolist() == [299] * 3
    assert packing.make(shards, "best_fit", 1024).header.padding == 124


def test_a_document_longer_than_a_window_is_split_and_its_next_token_is_a_target(tmp_path):
    windows = packed(write(tmp_path, [counted(11, 2)]), "best_fit", 4, documents=True)
    assert [windows.spans(index) for index in range(len(windows))] == [[(0, 4)], [(4, 8)], [(8, 11)], [(11, 13)]]
    batch = windows.read(np.array([1, 0, -1, 2, 3]))
    assert batch.inputs.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4], [0] * 4, [9, 10, 0, 0], [11, 0, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, 8, 9], [2, 3, 4, 5], [0] * 4, [10, 0, 0, 0], [0, 0, 0, 0]]
    assert batch.real.sum(axis=1).tolist() == [4, 4, 0, 2, 1]
    assert batch.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 1]]


def reference(stream: list[int], starts: set[int], gone: set[int], spans, length: int, ends: int, documents: bool):
    """One window token by token: (inputs, {place: target} where real, positions)."""
    places = [position for start, stop in spans for position in range(start, stop)]
    inputs = [EOD if position in gone else stream[position] for position in places]
    targets, positions, here = {}, [], 0
    for place, position in enumerate(places):
        new_document = place == 0 or position in starts or places[place - 1] != position - 1
        here = 0 if new_document else here + 1
        positions.append(here)
        following = places[place + 1] if place + 1 < len(places) else position + 1
        last = place + 1 == len(places)
        if last and following in starts and ends is None:
            continue  # a plan's window: nothing follows its last document
        if following >= len(stream) or (last and place + 1 < length):
            continue
        if following in gone or (documents and position + 1 in starts):
            continue
        targets[place] = stream[following]
    padding = length - len(places)
    return inputs + [EOD] * padding, targets, positions + list(range(padding))


DOCUMENTS = st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=8)  # id 0: the text holds the EOD id


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(DOCUMENTS, min_size=1, max_size=3),
    way=st.sampled_from(WAYS),
    length=st.integers(1, 20),
    documents=st.booleans(),
    most=st.none() | st.integers(1, 3),
    data=st.data(),
)
def test_windows_against_a_slow_reference(tmp_path_factory, parts, way, length, documents, most, data):
    folder = tmp_path_factory.mktemp("windows")
    shards = write(folder, parts)
    lengths = [len(document) + 1 for part in parts for document in part]
    begins = (np.cumsum(lengths) - lengths).tolist()
    taken = data.draw(st.sets(st.integers(0, len(lengths) - 1), max_size=3))
    if taken:
        entries = [{"documents": [{"start": begins[i], "tokens": lengths[i]} for i in sorted(taken)]}]
        write_takedowns(folder, shards.fingerprint, entries)
        shards = TokenShards.open(folder)
    gone = {position for i in taken for position in range(begins[i], begins[i] + lengths[i])}
    stream = [token for part in parts for document in part for token in (*document, EOD)]
    windows = packed(shards, way, length, documents=documents, max_documents=most if way == "best_fit" else None)
    starts = {*begins, len(stream)}

    spans = [windows.spans(index) for index in range(len(windows))]
    inputs = sorted(position for window in spans for start, stop in window for position in range(start, stop))
    lost = way == "concatenate" and (len(stream) - 1) % length == 0  # the last token is a target alone
    assert inputs == list(range(len(stream) - lost))
    assert windows.tokens == len(stream)
    if way != "concatenate":
        assert all(1 <= len(window) <= (most if way == "best_fit" and most else length) for window in spans)
        whole = {span for window in spans for span in window}
        assert all((b, b + n) in whole for b, n in zip(begins, lengths, strict=True) if n <= length)

    indices = data.draw(st.lists(st.integers(-1, len(windows) - 1), max_size=6))
    batch = windows.read(np.array(indices, np.int64))
    assert batch.inputs.shape == batch.targets.shape == batch.real.shape == (len(indices), length)
    for row, index in enumerate(indices):
        at_end = 0 if way == "concatenate" else None
        expected = reference(stream, starts, gone, spans[index] if index >= 0 else [], length, at_end, documents)
        assert batch.inputs[row].tolist() == expected[0]
        real = {place: int(batch.targets[row, place]) for place in np.flatnonzero(batch.real[row])}
        assert real == expected[1]
        assert (batch.positions[row].tolist() == expected[2]) if documents else batch.positions is None


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(DOCUMENTS, min_size=1, max_size=2), length=st.integers(1, 20))
def test_every_way_covers_the_same_tokens(tmp_path_factory, parts, length):
    shards = write(tmp_path_factory.mktemp("windows"), parts)
    made = {way: packing.make(shards, way, length) for way in WAYS}
    assert {m.header.tokens for m in made.values()} == {shards.tokens} and not any(m.tokens_lost for m in made.values())
    assert {m.header.documents for m in made.values()} == {shards.documents}
    assert len({m.header.documents_split for m in made.values()}) == 1
    assert len({Windows(shards, length, way).fingerprint for way in WAYS}) == 3
    assert made["best_fit"].header.windows <= made["pad"].header.windows


def test_targets_of_concatenated_windows_are_every_token_but_the_first(tmp_path):
    shards = write(tmp_path, [counted(5, 9, 3), counted(7, 1)])
    stream = shards.read(0, shards.tokens)
    for length in range(1, 30):
        windows = Windows(shards, length)
        batch = windows.read(np.arange(len(windows)))
        assert batch.targets[batch.real].tolist() == stream[1:].tolist()
        assert batch.inputs[batch.real].tolist() == stream[:-1].tolist()


def test_mistakes_are_named(tmp_path):
    shards = write(tmp_path, [counted(5, 9)])
    for call, kind, message in (
        (lambda: Windows(shards, 0), ValueError, "at least 1 token"),
        (lambda: Windows(shards, 8, "bestfit"), ValueError, "one of concatenate, best_fit, pad"),
        (lambda: Windows(shards, 8, "pad", max_documents=3), ValueError, 'goes with packing "best_fit"'),
        (lambda: Windows(shards, 8, "best_fit", max_documents=0), ValueError, "at least 1 document"),
        (lambda: Windows(shards, 8).read(np.array([2])), IndexError, "windows 2 to 2 of 2"),
        (lambda: Windows(shards, 8).read(np.array([-2])), IndexError, "windows -2 to -2 of 2"),
    ):
        with pytest.raises(kind, match=message):
            call()
    command = f"python -m data_prep pack {tmp_path} --length 8 --way best_fit --max-documents 3"
    with pytest.raises(ShardError, match="has not been made") as refused:
        Windows(shards, 8, "best_fit", max_documents=3)
    assert str(refused.value).endswith(command)
