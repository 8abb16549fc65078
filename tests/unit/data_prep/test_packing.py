"""Packing: every token once, nothing cut that fits, against a plain best fit; plans in files."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from bisect import bisect_left, insort

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import packing
from data_prep.__main__ import main
from data_prep.shards import ShardError, TokenShards, Windows, open_shards
from data_prep.shards.format import BLOCK_BYTES, HEADER_BYTES
from data_prep.shards.plan import PlanFile
from data_prep.shards.windows import WAYS as WINDOW_WAYS
from tests.corpora import write_documents
from tests.launch import ROOT
from tests.megatron_files import write_pair, write_tokenizer

WAYS = {"best_fit": packing.best_fit, "pad": packing.pad}
LENGTHS = st.lists(st.integers(1, 60) | st.sampled_from([1, 7, 16]), max_size=120).map(
    lambda values: np.array(values, np.int64)
)


def windows(packed):
    return [[stop - start for start, stop in packed[index]] for index in range(len(packed))]


@pytest.mark.parametrize("way", WAYS)
@given(lengths=LENGTHS, window=st.integers(1, 40))
def test_every_token_once(way, lengths, window):
    packed = WAYS[way](lengths, window)
    assert all(sum(sizes) <= window for sizes in windows(packed)) and all(windows(packed))
    spans = sorted(span for index in range(len(packed)) for span in packed[index])
    assert [token for start, stop in spans for token in range(start, stop)] == list(range(int(lengths.sum())))
    ends = set(np.cumsum(lengths).tolist())
    assert not any(start < end < stop for end in ends for start, stop in spans)  # no piece spans two documents
    stops = (packed.starts + packed.sizes).tolist()
    assert packed.goes_on.tolist() == [stop not in ends for stop in stops]
    assert (packed.sizes[packed.goes_on] == window).all()


@given(lengths=LENGTHS, window=st.integers(1, 40), most=st.integers(1, 5) | st.none())
def test_best_fit_is_best_fit_decreasing(lengths, window, most):
    packed = packing.best_fit(lengths, window, most)
    assert all(len(sizes) <= (most or window) for sizes in windows(packed))
    if most is None:
        plain = plain_best_fit(lengths.tolist(), window)  # which of equally full windows is taken is free
        assert sorted(map(sum, windows(packed))) == sorted(map(sum, plain))
    firsts = [packed[index][0] for index in range(len(packed))]
    assert firsts == sorted(firsts) and all(packed[index] == sorted(packed[index]) for index in range(len(packed)))
    for begin, size in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        if size <= window:
            assert any((begin, begin + size) in packed[index] for index in range(len(packed)))


@given(lengths=LENGTHS, window=st.integers(1, 40), most=st.integers(1, 5))
def test_a_cap_costs_no_more_windows_than_best_fit_with_it(lengths, window, most):
    sizes = np.sort(packing._pieces(lengths, window)[1])[::-1]
    packed = packing.best_fit(lengths, window, most)
    assert -(-len(sizes) // most) <= len(packed) <= packing._place(sizes, window, most)[1]


def test_tiny_documents_share_windows_with_larger_ones_where_the_cap_ends_them():
    lengths = np.tile([10, 10, 40, 52], 64)  # 28 on average: 64 of them have room in 2048
    packed = packing.best_fit(lengths, 2048, 64)
    assert len(packed) == 4 and {len(sizes) for sizes in windows(packed)} == {64}
    assert packing._place(np.sort(lengths)[::-1], 2048, 64)[1] == 5


def plain_best_fit(lengths, window):
    """One document at a time into the fullest bin with room."""
    pieces = [min(window, size - start) for size in lengths for start in range(0, size, window)]
    bins, rooms = [], []  # rooms: sorted (room, number of bin)
    for piece in sorted(pieces, reverse=True):
        place = bisect_left(rooms, (piece, -1))
        if place < len(rooms):
            room, number = rooms.pop(place)
        else:
            room, number = window, len(bins)
            bins.append([])
        bins[number].append(piece)
        insort(rooms, (room - piece, number))
    return bins


@given(parts=st.lists(LENGTHS, max_size=5), window=st.integers(1, 40), most=st.integers(1, 30))
def test_blocks_are_the_lengths_again(parts, window, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BLOCK_PIECES", most)
        blocks = list(packing._blocks(parts, window))
    assert np.concatenate([[], *blocks]).tolist() == np.concatenate([[], *parts]).tolist()
    counts = [int((-(-block // window)).sum()) for block in blocks]
    assert all(len(block) == 1 or count <= most for block, count in zip(blocks, counts, strict=True)) and all(counts)
    # greedy, so that how the lengths were divided does not show
    firsts = [int(-(-block[0] // window)) for block in blocks[1:]]
    assert all(count + first > most for count, first in zip(counts, firsts, strict=False))


@given(numbers=st.lists(st.integers(0, 5000), max_size=60), asked=st.lists(st.integers(0, 5100), max_size=20))
def test_a_set_of_numbers_knows_the_next(numbers, asked):
    ours, plain = packing._Numbers(), set()
    for number in numbers:
        if number in plain:
            ours.remove(number)
        else:
            ours.add(number)
        plain ^= {number}
        for least in (number, *asked):
            assert ours.at_least(least) == min((other for other in plain if other >= least), default=None)


def test_best_fit_in_windows_of_thousands_of_tokens_is_best_fit():
    lengths = np.random.default_rng(0).integers(1, 9000, 3000)
    packed, plain = packing.best_fit(lengths, 8192), plain_best_fit(lengths.tolist(), 8192)
    assert sorted(map(sum, windows(packed))) == sorted(map(sum, plain))


def test_long_windows_take_no_longer():
    lengths = np.random.default_rng(0).permutation(100_000) * 160 + 1
    begin = time.process_time()
    packed = packing.best_fit(lengths, 1 << 24)
    assert time.process_time() - begin < 15  # with one number of 2^24 bits it was 135 s
    assert packed.sizes.sum() == lengths.sum()


def test_empty_documents_of_foreign_corpora_have_no_piece():
    packed = packing.best_fit(np.array([0, 3, 0, 2]), 4)
    assert windows(packed) == [[3], [2]] and not packed.goes_on.any()


def test_blocks_count_from_the_first_token(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "BLOCK_PIECES", 2)
    shards = write_documents(tmp_path, [[3, 4, 5], [2, 6, 17]])
    packing.make(shards, "best_fit", 8)
    found = Windows(shards, 8, "best_fit")
    assert [found.spans(index) for index in range(len(found))] == [
        [(0, 3), (3, 7)], [(7, 12), (12, 14)], [(14, 20)], [(20, 28)], [(28, 36)], [(36, 37)]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda shards: packing.make(shards, "pad", 0), "a window needs 1"),
        (lambda shards: packing.make(shards, "best_fit", 8, 0), "at least 1 document"),
        (lambda shards: packing.make(shards, "concatenate", 8, 2), 'goes with packing "best_fit"'),
        (lambda shards: packing.make(shards, "bestfit", 8), "one of concatenate, best_fit, pad"),
    ],
)
def test_mistakes_are_named(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(write_documents(tmp_path, [[3, 4]]))


def test_the_pack_command_states_what_each_way_costs(tmp_path, capsys):
    write_documents(tmp_path, [[7, 3, 3, 14]])
    command = ["pack", str(tmp_path), "--length", "8", "--way", *WINDOW_WAYS]

    def rows(*more):
        assert main([*command, *more]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert lines[0] == ["4", "documents,", "27", "tokens"]
        return [(*line[:8], " ".join(line[9:])) for line in lines[2:]]

    expected = [
        ("8", "concatenate", "4", "5", "15.625%", "1", "1", "0", "none needed"),
        ("8", "best_fit", "4", "5", "15.625%", "0", "1", "0"),
        ("8", "pad", "5", "13", "32.500%", "0", "1", "0"),
    ]
    assert rows("--dry-run") == [expected[0], *((*row, "not written") for row in expected[1:])]
    assert not (tmp_path / "plans").exists()
    files = [tmp_path / "plans" / f"{way}-8.plan" for way in ("best_fit", "pad")]
    assert rows() == [expected[0], *((*row, str(file)) for row, file in zip(expected[1:], files, strict=True))]
    times = [file.stat().st_mtime_ns for file in files]
    assert rows()[1:] == [(*row, f"{file} (was there, whole: kept)") for row, file in zip(expected[1:], files, strict=True)]
    assert times == [file.stat().st_mtime_ns for file in files]
    assert sorted((tmp_path / "plans").iterdir()) == files  # nothing half-written is left


def test_a_damaged_plan_and_one_of_other_shards_are_made_again(tmp_path, capsys):
    shards = write_documents(tmp_path / "a", [[7, 3, 3, 14]])
    path = packing.make(shards, "pad", 8).path
    whole = path.read_bytes()
    assert main(["verify", str(tmp_path / "a")]) == 0 and f"{path}: whole" in capsys.readouterr().out
    path.write_bytes(whole[:-1])
    assert main(["verify", str(tmp_path / "a")]) == 2 and f"{path}: truncated" in capsys.readouterr().err
    assert not packing.make(shards, "pad", 8).kept and path.read_bytes() == whole
    other = write_documents(tmp_path / "b", [[7, 3, 3, 13]])
    path.parent.rename(tmp_path / "b" / "plans")
    with pytest.raises(ShardError, match=rf"made for shards {shards.fingerprint}.*pack {tmp_path}/b --length 8 --way pad"):
        Windows(other, 8, "pad")
    assert not packing.make(other, "pad", 8).kept
    assert Windows(other, 8, "pad").tokens == 26


def test_the_cap_holds_for_best_fit_alone_and_mistakes_come_before_the_first_plan(tmp_path, capsys):
    write_documents(tmp_path, [[7, 3, 3, 14]])
    command = ["pack", str(tmp_path), "--max-documents", "2", "--length"]
    assert main([*command, "8", "0", "--way", "best_fit", "pad"]) == 2
    assert main([*command, "8", "--way", "pad"]) == 2
    assert capsys.readouterr().out == "" and not (tmp_path / "plans").exists()
    assert main([*command, "8", "--way", "best_fit", "pad", "concatenate"]) == 0
    assert "--max-documents 2 holds for best_fit alone" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "plans").iterdir()) == ["best_fit-8-max2.plan", "pad-8.plan"]


def test_the_command_that_makes_a_plan_can_be_pasted(tmp_path):
    shards = write_documents(tmp_path / "my shards", [[7, 3, 3, 14]])
    with pytest.raises(ShardError, match=rf"pack '{shards.folder}' --length 8 --way pad$"):
        Windows(shards, 8, "pad")
    with pytest.raises(ShardError, match=r"pack COPY --length 8 --way pad. Then copy its plans/pad-8.plan to file://"):
        Windows(TokenShards.open(f"file://{shards.folder}"), 8, "pad")
    prefix, words = write_pair(tmp_path / "x", [[[5, 6, 0]]]), write_tokenizer(tmp_path / "words")
    for named in (prefix, tmp_path):
        with pytest.raises(ShardError, match=rf"pack {named} --length 8 --way pad --tokenizer FOLDER$"):
            Windows(open_shards(named, words), 8, "pad")


def test_what_killed_processes_left_of_a_plan_is_cleared(tmp_path):
    shards = write_documents(tmp_path, [[7, 3, 3, 14]])
    plans = tmp_path / "plans"
    plans.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, alive, other, locked = (
        plans / f".{name}.{pid}.partial"
        for name, pid in (
            ("pad-8.plan", gone.pid), ("pad-8.plan", 1), ("pad-80.plan", gone.pid), ("pad-8.plan", 2**30)
        )
    )  # fmt: skip
    for path in (left, alive, other, locked):
        path.touch()
    with locked.open("rb+") as file:  # by a process of another host
        fcntl.flock(file, fcntl.LOCK_EX)
        made = packing.make(shards, "pad", 8)
    assert sorted(plans.iterdir()) == sorted([alive, other, locked, made.path])


def test_a_plan_under_another_name_is_refused(tmp_path):
    shards = write_documents(tmp_path, [[7, 3, 3, 14]])
    path = packing.make(shards, "pad", 8).path
    path.rename(path.with_name("pad-16.plan"))
    with pytest.raises(ShardError, match="the plan inside is pad-8: it was renamed"):
        Windows(shards, 16, "pad")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    shards = write_documents(tmp_path, [[7, 3, 3, 14]])
    monkeypatch.setattr(packing, "pad", lambda lengths, window: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        packing.make(shards, "pad", 8)
    assert list((tmp_path / "plans").iterdir()) == []


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """(shards, path of a plan of two blocks, its bytes, its windows)."""
    rng = np.random.default_rng(0)
    shards = write_documents(tmp_path_factory.mktemp("planned"), [rng.integers(1, 9, 5000), rng.integers(1, 50, 600)])
    path = packing.make(shards, "best_fit", 32).path
    return shards, path, path.read_bytes(), spans(shards)


def spans(shards):
    found = Windows(shards, 32, "best_fit")
    return [found.spans(index) for index in range(len(found))]


def assert_refused(planned, content):
    """Damaged bytes are refused, at opening or in reading, by verify too, with the way out; windows served before are right."""
    shards, path, whole, right = planned
    path.write_bytes(content)
    try:
        with pytest.raises(ShardError, match=f"data_prep pack {shards.folder} --length 32 --way best_fit"):
            PlanFile.open(path, shards.fingerprint).verify()
        try:
            found = Windows(shards, 32, "best_fit")
            for index in range(0, len(found), 7):
                assert found.spans(index) == right[index]
        except ShardError:
            pass
    finally:
        path.write_bytes(whole)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_a_plan_is_refused_or_never_met(planned, data):
    whole = planned[2]
    assert len(whole) > HEADER_BYTES + BLOCK_BYTES
    places = st.integers(0, 127) | st.integers(0, len(whole) - 1) | st.integers(len(whole) - 16, len(whole) - 1)
    offset, bit = data.draw(places), 1 << data.draw(st.integers(0, 7))
    content = bytearray(whole)
    content[offset] ^= bit
    assert_refused(planned, bytes(content))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_truncation_or_extension_of_a_plan_is_refused(planned, data):
    whole = planned[2]
    kept, tail = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.binary(max_size=3))
    if whole[:kept] + tail != whole:
        assert_refused(planned, whole[:kept] + tail)
    assert_refused(planned, whole + b"\0")


def test_opening_a_plan_reads_its_header_alone(planned):
    shards, path, whole, _ = planned
    path.write_bytes(whole[:HEADER_BYTES] + bytes(len(whole) - HEADER_BYTES))
    try:
        found = Windows(shards, 32, "best_fit")
        assert len(found) == len(planned[3])
        with pytest.raises(ShardError, match=r"block . of 2 .*is damaged"):
            found.spans(0)
    finally:
        path.write_bytes(whole)


PACK = """
import sys
from data_prep import packing
from data_prep.shards import TokenShards
packing.BLOCK_PIECES = 1 << 15
shards = TokenShards.open(sys.argv[1])
packing.make(shards, "best_fit", 64)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1024)
"""


def test_memory_does_not_grow_with_documents(tmp_path):
    rng, peaks = np.random.default_rng(0), []
    for parts in (4, 40):
        folder = tmp_path / str(parts)
        write_documents(folder, [rng.integers(1, 100, 40_000) for _ in range(parts)])
        done = subprocess.run([sys.executable, "-c", PACK, folder], capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    # the tables of 1.6 million documents alone are 13 MB; sorted all at a time they took 100 MB
    assert peaks[1] - peaks[0] < 6, peaks


def test_the_bench_packs_the_shards_that_it_makes():
    """A small round of it: every way, and shards that are read as real ones."""
    line = [sys.executable, "bench/packing.py", "--documents", "3000", "--windows", "1024", "--rounds", "1"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "best_fit" in done.stdout, done.stdout + done.stderr
