"""Documents taken down: masked in every window, nothing else moves."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import corpus, history, recipe
from data_prep.__main__ import main
from data_prep.shards import ShardError, TokenShards, Windows
from data_prep.shards.takedown import LEDGER, Takedowns
from data_prep.stage import Runner


@pytest.fixture
def shards(tmp_path):
    rows = [{"text": f"Document {n} of the mill. " * (n % 4 + 1), "url": f"https://{'ab'[n % 2]}.org/{n}"} for n in range(30)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = {
        "output": "out", "sources": [{"type": "jsonl", "name": "s", "paths": ["in.jsonl"], "licence": "MIT"}],
        "tokenizer": {"vocab_size": 300}, "shards": {"tokens_per_shard": 150, "validation_fraction": 0},
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(described))
    corpus.run(recipe.load(tmp_path / "recipe.json", []), Runner(1))
    return tmp_path / "out" / "shards" / "train"


def test_windows_without_what_was_taken_down(shards, capsys):
    before = TokenShards.open(shards)
    windows = Windows(before, 16)
    whole = windows.read(np.arange(len(windows)))
    rows = list(history.documents(before))
    assert len(rows) == 30 and all(
        before.read(r["start"] + r["tokens"] - 1, r["start"] + r["tokens"]) == before.eod_id for r in rows
    )
    assert main(["takedown", str(shards), "s/in.jsonl#3", "--url", "https://b.org/1*", "--reason", "asked"]) == 0
    gone_ids = {"s/in.jsonl#3", *(f"s/in.jsonl#{n + 1}" for n in (1, 11, 13, 15, 17, 19))}
    after = TokenShards.open(shards)
    assert {d["id"] for entry in after.takedowns.entries for d in entry["documents"]} == gone_ids
    gone = np.zeros(before.tokens, bool)
    for row in rows:
        if row["id"] in gone_ids:
            gone[row["start"] : row["start"] + row["tokens"]] = True
    masked = Windows(after, 16).read(np.arange(len(windows)))
    for index in range(len(windows)):
        mask = np.resize(np.concatenate([gone[index * 16 : index * 16 + 17], np.zeros(17, bool)]), 17)
        assert (masked.inputs[index] == np.where(mask[:-1], after.eod_id, whole.inputs[index])).all()
        assert (masked.targets[index] == np.where(mask[1:], after.eod_id, whole.targets[index])).all()
        assert (masked.real[index] == (whole.real[index] & ~mask[1:])).all()
    assert after.fingerprint == before.fingerprint
    capsys.readouterr()
    assert main(["trace", str(shards), "--window", "0", "--length", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "s/in.jsonl#1   s   MIT   https://a.org/0" in lines[0] and "TAKEN DOWN" in lines[1]


def test_trace_of_a_packed_window(shards, capsys):
    arguments = ["--length", "64", "--way", "best_fit", "--max-documents", "2"]
    trace = ["trace", str(shards), "--window", "1", *arguments]
    assert main(trace) == 2
    assert f"pack {shards} --length 64 --way best_fit --max-documents 2" in capsys.readouterr().err
    assert main(["pack", str(shards), *arguments]) == 0
    capsys.readouterr()
    opened = TokenShards.open(shards)
    rows, seen = list(history.documents(opened)), 0
    windows = Windows(opened, 64, "best_fit", max_documents=2)
    for index in range(len(windows)):
        expected = [
            (row["id"], min(stop, row["start"] + row["tokens"]) - max(start, row["start"]))
            for start, stop in windows.spans(index)
            for row in rows
            if row["start"] < stop and row["start"] + row["tokens"] > start
        ]
        found = [(row["id"], row["in_window"]) for row in history.of_window(windows, index)]
        assert found == expected
        seen += sum(tokens for _, tokens in found)
    assert seen == opened.tokens
    assert main(trace) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(history.of_window(windows, 1))
    assert main(["trace", str(shards), "--window", "9999", *arguments]) == 2
    assert f"there are {len(windows)} windows of 64" in capsys.readouterr().err


def test_a_second_takedown_adds_to_the_ledger_and_unknown_ids_change_nothing(shards, capsys):
    history.take_down(shards, ["s/in.jsonl#5"], [], "one")
    assert [d["id"] for d in history.take_down(shards, ["s/in.jsonl#5", "s/in.jsonl#6"], [], "two")] == ["s/in.jsonl#6"]
    ledger = (shards / LEDGER).read_bytes()
    assert main(["takedown", str(shards), "s/in.jsonl#7", "nobody", "--reason", "x"]) == 2
    assert "no document nobody among 30" in capsys.readouterr().err
    assert (shards / LEDGER).read_bytes() == ledger
    assert [entry["reason"] for entry in TokenShards.open(shards).takedowns.entries] == ["one", "two"]


def test_takedowns_at_one_time_are_all_kept(shards, monkeypatch):
    read = history.documents
    monkeypatch.setattr(history, "documents", lambda shards: [time.sleep(0.2), *read(shards)][1:])
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda n: history.take_down(shards, [f"s/in.jsonl#{n}"], [], f"reason {n}"), (5, 6, 7)))
    reasons = [entry["reason"] for entry in TokenShards.open(shards).takedowns.entries]
    assert sorted(reasons) == ["reason 5", "reason 6", "reason 7"]


def test_a_damaged_ledger_is_refused(shards):
    history.take_down(shards, ["s/in.jsonl#5"], [], "one")
    text = (shards / LEDGER).read_text()
    for damaged in (text.replace("#5", "#6"), text[:-20], "[]"):
        (shards / LEDGER).write_text(damaged)
        with pytest.raises(ShardError, match="damaged"):
            TokenShards.open(shards)


def test_flipped_bits_of_a_list_of_documents_are_refused_or_of_no_effect(shards, capsys):
    opened = TokenShards.open(shards)
    right = list(history.documents(opened))
    path = sorted(shards.glob("documents-*.parquet"))[1]
    whole = path.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for place in rng.permutation(len(whole))[:400].tolist():
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            rows = list(history.documents(TokenShards.open(shards)))
        except ShardError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            assert rows == right, place
    assert refused > 200
    path.write_bytes(content := whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    assert main(["verify", str(shards)]) == 2 and str(path) in capsys.readouterr().err
    path.write_bytes(whole)
    assert main(["verify", str(shards)]) == 0 and "documents-*.parquet: whole" in capsys.readouterr().out
    assert content != whole


def test_a_list_of_documents_of_another_shard_is_refused(shards, capsys):
    first, second = sorted(shards.glob("documents-*.parquet"))[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    for command in (["takedown", str(shards), "s/in.jsonl#3", "--reason", "x"], ["verify", str(shards)]):
        assert main(command) == 2 and str(first) in capsys.readouterr().err
    assert not (shards / LEDGER).exists()
    first.write_bytes(content)
    foreign = pq.read_table(first).replace_schema_metadata(pq.read_schema(second).metadata)  # equal in all places and lengths
    pq.write_table(foreign, first, write_page_checksum=True)
    assert main(["verify", str(shards)]) == 2 and "those of another shard" in capsys.readouterr().err
    second.unlink()
    first.write_bytes(content)
    assert main(["verify", str(shards)]) == 2 and "missing" in capsys.readouterr().err


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=12), st.integers(0, 60), st.integers(0, 60))
def test_counts_and_masks_agree(gaps, start, length):
    documents, place = [], 0
    for gap, tokens in gaps:
        documents.append({"start": place + gap, "tokens": tokens})
        place += gap + tokens
    flags = np.zeros(200, bool)
    for d in documents:
        flags[d["start"] : d["start"] + d["tokens"]] = True
    takedowns = Takedowns([{"documents": documents}])
    assert (takedowns.mask(start, start + length) == flags[start : start + length]).all()
    assert takedowns.count(np.array([start]), np.array([start + length])) == flags[start : start + length].sum()
