"""A trace says of each step whether it trained on a document or masked it, whatever was taken down when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.__main__ import main as data_prep
from data_prep.shards.takedown import LEDGER
from tests.corpora import build_corpus
from tests.models import run_file
from trainer import tracing
from trainer.__main__ import main as trainer
from trainer.batch import BatchSection
from trainer.batch_ramp import plan_batches
from trainer.config import load
from trainer.data.corpus import Corpus, open_corpus
from trainer.ledger import LEDGER_FILE, START, entries_by_plan
from trainer.run_folder import EFFECTIVE_FILE
from trainer.takedown_record import TAKEDOWNS_FILE, record_start

STEPS = 12
"""Enough for some epochs."""


class Run:
    """A run folder as a job leaves it, without the training."""

    def __init__(self, folder: Path, shards: Path):
        self.folder, self.shards = folder, shards
        folder.mkdir()
        config = run_file(folder, shards)
        (folder / EFFECTIVE_FILE).write_text(json.dumps(config))
        batches = plan_batches(BatchSection(global_batch_tokens=512, micro_batch_size=2), 32, 1)
        entries = entries_by_plan(self.corpus(), batches, 0, STEPS, START)
        (folder / LEDGER_FILE).write_text("".join(entry.line() for entry in entries))

    def corpus(self) -> Corpus:
        config = load(self.folder / EFFECTIVE_FILE, [])
        return open_corpus(config.data, config.run.seed)

    def start(self, first_step: int) -> None:
        record_start(self.folder, self.corpus(), first_step)

    def take_down(self, document: str) -> None:
        assert data_prep(["takedown", str(self.shards), document, "--reason", "asked"]) == 0

    def masked(self, document: str) -> dict[int, bool | None]:
        """By step; the documents of steps say the same as the steps of documents."""
        opened = tracing.Run.open(self.folder)
        found = {row["step"]: row["masked"] for row in tracing.of_document(opened, document)}
        for step, masked in found.items():
            (row,) = (row for row in tracing.of_step(opened, step) if row["id"] == document)
            assert row["masked"] == masked
        return found


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "run", build_corpus(tmp_path, "s", "MIT", 12, {"vocab_size": 300}))


FIRST, SECOND, KEPT = (f"s/s.jsonl#{number}" for number in (4, 7, 9))


def test_steps_before_a_takedown_trained_on_it_and_later_starts_mask_it(run, capsys):
    run.start(1)
    assert "taken down" not in "".join(run.corpus().describe(STEPS * 512))
    run.take_down(FIRST)
    assert set(run.masked(FIRST).values()) == {False}  # a job that runs has opened its shards before
    run.start(5)
    run.take_down(SECOND)
    run.start(9)
    assert {step for step, masked in run.masked(FIRST).items() if masked} == {s for s in run.masked(FIRST) if s >= 5}
    assert {step for step, masked in run.masked(SECOND).items() if masked} == {s for s in run.masked(SECOND) if s >= 9}
    assert set(run.masked(KEPT).values()) == {False}
    assert {True, False} == set(run.masked(FIRST).values()) == set(run.masked(SECOND).values())
    (described,) = run.corpus().describe(STEPS * 512)
    gone = run.corpus().windows[0].shards.takedowns
    assert described.endswith(f"; taken down, masked: 2 of 12 documents, {gone.tokens:,} tokens")
    capsys.readouterr()
    assert trainer(["trace", str(run.folder), "--document", FIRST]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    masked = run.masked(FIRST)
    assert f"trained on in {list(masked.values()).count(False)}, masked in {list(masked.values()).count(True)}" in first
    assert [line.rpartition("   ")[2] for line in lines] == ["masked" if one else "trained on" for one in masked.values()]
    for step, one in masked.items():
        assert trainer(["trace", str(run.folder), "--step", str(step)]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if f"   {FIRST}   " in line)
        assert line.endswith(f"TAKEN DOWN, {'masked' if one else 'trained on'} in this step")


def test_steps_that_are_done_again_count_as_they_were_done_last(run):
    run.start(1)
    run.start(9)
    run.take_down(FIRST)
    run.start(3)  # from an older checkpoint
    assert {step for step, masked in run.masked(FIRST).items() if not masked} == {s for s in run.masked(FIRST) if s < 3}
    run.start(7)  # nothing new: no line more
    assert [start["first_step"] for start in json.loads((run.folder / TAKEDOWNS_FILE).read_text())] == [1, 3]


def test_what_is_not_on_record_is_not_known(run, capsys):
    assert set(run.masked(FIRST).values()) == {False}  # nothing was ever taken down
    run.take_down(FIRST)
    assert set(run.masked(FIRST).values()) == {None} and set(run.masked(KEPT).values()) == {False}
    run.start(5)
    assert {step for step, masked in run.masked(FIRST).items() if masked is None} == {s for s in run.masked(FIRST) if s < 5}
    capsys.readouterr()
    assert trainer(["trace", str(run.folder), "--document", FIRST]) == 0
    said = capsys.readouterr().out
    assert "not known whether masked in" in said and "older runs kept no such record" in said
    (run.shards / LEDGER).unlink()
    run.take_down(SECOND)
    assert {step for step, masked in run.masked(FIRST).items() if masked is None} == {s for s in run.masked(FIRST) if s >= 5}


@pytest.mark.parametrize("text", ["", "[1]", "7", '[{"first_step": 1, "sources": {"x": {}}}]', '{"first_step": 1}'])
def test_a_damaged_record_says_nothing(run, text):
    run.take_down(FIRST)
    (run.folder / TAKEDOWNS_FILE).write_text(text)
    assert set(run.masked(FIRST).values()) == {None}
    run.start(5)
    assert {True, None} == set(run.masked(FIRST).values())
