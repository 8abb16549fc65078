"""The ledger: the same for every split, chained, checked on resume, computed anew when lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpora import write_shards
from trainer.batch import BatchPlan, BatchSection, RampSection
from trainer.batch_ramp import BatchSchedule, plan_batches
from trainer.config import DataSection
from trainer.data.corpus import Corpus, open_corpus
from trainer.data.loader import Loader
from trainer.ledger import LEDGER_FILE, MASK, START, Ledger, LedgerError, digest, entries_by_plan, read
from trainer.state import TrainState

LENGTH = 16
SCHEDULE = plan_batches(
    BatchSection(global_batch_tokens=256, micro_batch_size=1, ramp=RampSection(start_tokens=64, over_tokens=9000)), LENGTH, 2
)


class Consumed(list):
    """Stands for the engine's tensor."""

    def tolist(self) -> list[int]:
        return list(self)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    for name, documents in (("a", 4), ("b", 30)):
        write_shards(root / name, documents=documents, seed=documents)
    return root


def corpus_of(folder: Path, seed: int = 1, weight: float = 3) -> Corpus:
    sources = {"a": {"shards": str(folder / "a"), "weight": 1}, "b": {"shards": str(folder / "b"), "weight": weight}}
    stages = [{"from_tokens": 0, "sequence_length": 4}, {"from_tokens": 1000, "sequence_length": LENGTH}]
    return open_corpus(DataSection(sources=sources, sequence_length=LENGTH, curriculum=stages), seed)


def state_after(step: int) -> TrainState:
    return TrainState(step, SCHEDULE.tokens_after(step))


def run(corpus: Corpus, folder: Path, first: int, last: int, chain: str | None = None) -> str:
    """Two ranks train the steps after `first`, up to `last`; returns the chain."""
    ledger = Ledger(folder, state_after(first), chain, corpus, SCHEDULE, writes=True)
    tokens, stop = SCHEDULE.tokens_after(first), SCHEDULE.tokens_after(last)
    ranks = [Loader(corpus, SCHEDULE, rank).steps(tokens, stop) for rank in (0, 1)]
    for step, batches in enumerate(zip(*ranks, strict=True), first + 1):
        signed = [batch.digest - 2**64 if batch.digest >= 2**63 else batch.digest for batch in batches]
        total = np.array(signed, np.int64).sum()  # wraps as a collective does
        ledger.add(state_after(step), batches[0].sequence_length, Consumed([1, int(total)]))
    chain = ledger.settled()
    ledger.close()
    return chain


def test_what_the_ranks_read_is_what_the_order_says(folder, tmp_path):
    corpus = corpus_of(folder)
    chain = run(corpus, tmp_path, 0, 60)
    entries = list(read(tmp_path))
    assert entries == list(entries_by_plan(corpus, SCHEDULE, 0, 60, START))
    assert entries[-1].chain == chain and [entry.step for entry in entries] == list(range(1, 61))
    assert {entry.sequence_length for entry in entries} == {4, 16}


def test_a_resume_goes_on_in_the_same_chain(folder, tmp_path):
    corpus = corpus_of(folder)
    (tmp_path / "whole").mkdir(), (tmp_path / "parts").mkdir()
    run(corpus, tmp_path / "whole", 0, 150)
    chain = run(corpus, tmp_path / "parts", 0, 130)
    assert run(corpus, tmp_path / "parts", 130, 140, chain)
    at_120 = next(entry.chain for entry in read(tmp_path / "whole") if entry.step == 120)
    run(corpus, tmp_path / "parts", 120, 150, at_120)  # an older checkpoint: the steps after it are done again
    assert (tmp_path / "parts" / LEDGER_FILE).read_bytes() == (tmp_path / "whole" / LEDGER_FILE).read_bytes()


@pytest.mark.parametrize("damage", ["lost", "torn", "garbled", "short"])
def test_a_ledger_that_is_lost_or_damaged_is_computed_anew(folder, tmp_path, damage):
    corpus = corpus_of(folder)
    chain = run(corpus, tmp_path, 0, 150)
    file = tmp_path / LEDGER_FILE
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    if damage == "lost":
        file.unlink()
    elif damage == "torn":
        file.write_bytes(whole[:-10])
    elif damage == "garbled":
        file.write_bytes(b"".join([*lines[:40], b'{"step": 41, "tok\n', *lines[41:]]))
    else:
        file.write_bytes(b"".join(lines[:70]))
    Ledger(tmp_path, state_after(150), chain, corpus, SCHEDULE, writes=True).close()
    assert file.read_bytes() == whole


@pytest.mark.parametrize("change", [{"seed": 2}, {"weight": 2}])
@pytest.mark.parametrize("lost", [False, True])
def test_another_order_is_refused(folder, tmp_path, change, lost):
    chain = run(corpus_of(folder), tmp_path, 0, 30)
    if lost:
        (tmp_path / LEDGER_FILE).unlink()
    with pytest.raises(LedgerError, match=r"other windows were consumed.*choose another run\.folder"):
        Ledger(tmp_path, state_after(30), chain, corpus_of(folder, **change), SCHEDULE, writes=True)


@pytest.mark.parametrize("change", [{"step": 7}, {"tokens": "x"}, {"tokens": -5}, {"chain": "0" * 32}, {"more": 1}])
def test_lines_that_were_not_written_are_named(folder, tmp_path, change):
    run(corpus_of(folder), tmp_path, 0, 8)
    file = tmp_path / LEDGER_FILE
    lines = file.read_text().splitlines()
    lines[4] = json.dumps({**json.loads(lines[4]), **change})
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(LedgerError, match="line 5 is damaged or edited"):
        list(read(tmp_path))
    file.write_bytes(b"x\xff\n")
    with pytest.raises(LedgerError, match="line 1"):
        list(read(tmp_path))


def test_an_edited_entry_is_found_and_mended(folder, tmp_path):
    corpus = corpus_of(folder)
    chain = run(corpus, tmp_path, 0, 30)
    file = tmp_path / LEDGER_FILE
    lines = file.read_text().splitlines()
    entry = json.loads(lines[20])
    entry["digest"] = f"{int(entry['digest'], 16) ^ 1:016x}"
    file.write_text("\n".join([*lines[:20], json.dumps(entry), *lines[21:]]) + "\n")
    with pytest.raises(LedgerError, match="line 21 is damaged or edited"):
        list(read(tmp_path))
    Ledger(tmp_path, state_after(30), chain, corpus, SCHEDULE, writes=True).close()  # the checkpoint's chain says what is right
    assert file.read_text().splitlines() == lines


def test_silent_ranks_write_nothing(folder, tmp_path):
    ledger = Ledger(tmp_path, TrainState(), None, corpus_of(folder), SCHEDULE, writes=False)
    ledger.add(state_after(1), LENGTH, Consumed([1, 2]))
    assert ledger.settled() is None
    ledger.close()
    assert not list(tmp_path.iterdir())


@given(
    windows=st.lists(st.integers(0, 2**40), min_size=1, max_size=20),
    cut=st.integers(0, 20),
    source=st.integers(0, 2**64 - 1),
    length=st.integers(1, 2**20),
)
def test_digests_add_up_however_windows_are_divided_and_see_every_change(windows, cut, source, length):
    numbers = np.array(windows, np.int64)
    keys, places = np.full(len(windows), source, np.uint64), np.arange(len(windows))
    whole = digest(keys, numbers, places, length)
    assert (
        whole
        == (digest(keys[:cut], numbers[:cut], places[:cut], length) + digest(keys[cut:], numbers[cut:], places[cut:], length))
        & MASK
    )
    assert digest(keys, numbers + 1, places, length) != whole
    assert digest(keys, numbers, places + 1, length) != whole
    assert digest(keys, numbers, places, length + 1) != whole
    assert digest(keys ^ np.uint64(1), numbers, places, length) != whole


def test_a_plain_schedule_has_a_ledger_too(folder):
    entries = list(entries_by_plan(corpus_of(folder), BatchSchedule(BatchPlan(LENGTH, 2, 3, 2)), 0, 5, START))
    assert [entry.tokens for entry in entries] == [192, 384, 576, 768, 960]
