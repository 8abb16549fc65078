"""What one rank cannot do, all hear; who never came is named. Ranks are threads here, each with its own connection."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer.hosts.launch_env import Process, named_ranks, places
from trainer.hosts.meeting import Meeting, MeetingError, UnreachableError
from trainer.hosts.port import holders


@pytest.fixture
def ranks(monkeypatch):
    """Runs a function (rank, size) as all ranks but the absent; gives what each returns, or raises as a MeetingError."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(probe.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")

    def start(script, size: int = 3, absent: tuple[int, ...] = ()) -> dict[int, object]:
        results = {}

        def run(rank: int) -> None:
            try:
                results[rank] = script(rank, size)
            except MeetingError as error:
                results[rank] = f"{type(error).__name__}: {error}"

        threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size) if rank not in absent]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        return results

    return start


def met(rank: int, size: int, patience: float = 60) -> Meeting:
    return Meeting(Process(rank, size, rank, size), patience)


def all_is_well(rank, size):
    here = met(rank, size)
    with here.together():
        pass
    total = here.decide(rank + 1, lambda values, hosts: [sum(values), len(hosts)])
    with here.together():
        pass
    return total


def one_makes_a_mistake(rank, size):
    here = met(rank, size)
    with here.together():
        if rank == 1:
            raise ValueError("my shards are missing")
        time.sleep(0 if rank == 0 else 0.5)


def all_make_the_same(rank, size):
    with met(rank, size).together():
        raise ValueError("the batch does not divide")


def one_is_slow_and_one_fails(rank, size):
    here = met(rank, size)
    if rank == 2:
        time.sleep(4)  # longer than others are waited for once one has failed
    with here.together():
        if rank == 1:
            raise ValueError("my shards are missing")


def the_judge_objects(rank, size):
    def judge(values, hosts):
        raise ValueError(f"{sorted(values)} differ")

    return met(rank, size).decide(rank, judge)


def one_breaks(rank, size):
    here = met(rank, size)
    try:
        with here.together():
            if rank == 2:
                raise OSError("read-only file system")
    except OSError:
        return "its own error"


def first_breaks(rank, size):
    here = met(rank, size)
    if rank == 0:
        time.sleep(1)
        return
    with here.together():
        pass


def last_never_comes(rank, size):
    here = met(rank, size, patience=5)  # enough for threads of a machine that is busy
    with here.together():
        pass


def test_ranks_hear_and_decide(ranks):
    assert ranks(all_is_well) == {rank: [6, 3] for rank in range(3)}


def test_a_mistake_on_one_rank_ends_all(ranks):
    host = socket.gethostname()
    text = f"MeetingError: on {host} (rank 1): my shards are missing\nNo rank has started."
    assert ranks(one_makes_a_mistake) == dict.fromkeys(range(3), text)


def test_the_same_mistake_is_said_once(ranks):
    assert ranks(all_make_the_same, 2) == dict.fromkeys(range(2), "MeetingError: the batch does not divide")


def test_a_failure_does_not_wait_for_the_slow_but_they_hear_it(ranks):
    said = ranks(one_is_slow_and_one_fails)
    assert len(set(said.values())) == 1
    assert "(rank 1): my shards are missing" in said[2] and "rank 2 on" in said[2]


def test_rank_0_decides_for_all(ranks):
    assert ranks(the_judge_objects, 2) == dict.fromkeys(range(2), "MeetingError: [0, 1] differ")


def test_a_rank_that_breaks_is_named_to_the_others(ranks):
    said = ranks(one_breaks)
    assert said.pop(2) == "its own error"
    assert all("(rank 2): OSError: read-only file system" in text for text in said.values())


def test_without_rank_0_each_speaks_for_itself(ranks):
    said = ranks(first_breaks, 2)
    assert said[1].startswith(f"UnreachableError: rank 1 on {socket.gethostname()}: rank 0 ended")


def test_who_never_came_is_named(ranks):
    said = ranks(last_never_comes, absent=(2,))
    assert "rank 2 of 3 never came" in said[0] and said[0] == said[1]


def test_without_rank_0s_host_it_is_said_where_it_was_looked_for(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    with pytest.raises(UnreachableError, match=f"rank 0 does not answer at 127.0.0.1, port {port}, for 1 s"):
        Meeting(Process(1, 2, 0, 1), patience=1)


def test_alone_nothing_is_asked():
    here = Meeting(Process(0, 1, 0, 1))
    assert here.decide("x", lambda values, hosts: values) == ["x"]
    with pytest.raises(KeyError), here.together():
        raise KeyError("as it is")
    with pytest.raises(ValueError, match="as it is"), here.together():
        raise ValueError("as it is")


def test_names_for_a_person():
    assert named_ranks([3]) == "rank 3" and named_ranks([5, 0, 1, 2]) == "ranks 0-2, 5"
    assert places([0, 1, 2], ["a", "a", "b"]) == "a (ranks 0-1) and b (rank 2)"


def test_a_port_that_is_held_is_told_with_its_process_and_the_way_out(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        with pytest.raises(UnreachableError) as refused:
            met(0, 2)
    said = str(refused.value)
    assert f"port {port}, is held by process {os.getpid()} (" in said and Path(sys.executable).name[:6] in said
    assert "a job that still trains" in said and "--master_port" in said
    assert holders(port) == []
