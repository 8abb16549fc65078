"""Which ranks share a disk. On hosts without a shared one, each has the run folder for itself: the checkpoint files of its own
ranks, and what makes them a checkpoint."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.shards.locks import Lock
from trainer import run_folder
from trainer.hosts.launch_env import named_ranks, places

if TYPE_CHECKING:
    from trainer.hosts.meeting import Meeting


@dataclass(frozen=True)
class Disk:
    """The disk on which this rank has the run folder."""

    keeper: int
    """The rank that makes, names and removes checkpoints there."""
    ranks: tuple[int, ...]
    """All ranks of the job that have the folder there, ascending."""
    shared: bool
    """Whether these are all ranks."""

    @classmethod
    def of_all(cls, world_size: int) -> Disk:
        """One disk for all ranks."""
        return cls(0, tuple(range(world_size)), True)

    def describe(self) -> list[str]:
        """What a person should know of it."""
        if self.shared:
            return []
        return [
            f"disks       {named_ranks(list(self.ranks))} alone see this run folder: each disk has a part of each checkpoint"
        ]


def take(meeting: Meeting, folder: Path, record: dict) -> tuple[Disk, Lock | None]:
    """Hold the run folder on every disk.

    Rank 0 takes it first; the first rank of each host that cannot read there what rank 0 has written has a disk of its own, and
    takes the folder, too. Returns this rank's disk and, on its keeper, the lock to keep. Raises MeetingError.
    """
    process, lock, token = meeting.process, None, secrets.token_hex(8)
    with meeting.together():
        if process.is_first:
            lock = run_folder.take(folder, record, token)
    first_token = meeting.decide(token, lambda tokens, hosts: tokens[0])
    with meeting.together():
        if process.local_rank == 0:
            run_folder.make(folder)  # NFS forgets that there was none when it looked before
        if process.local_rank == 0 and run_folder.holder(folder) != first_token:
            lock = run_folder.take(folder, record, token)
    keepers = meeting.decide([token, run_folder.holder(folder)], _keepers)
    ranks = tuple(rank for rank, keeper in enumerate(keepers) if keeper == keepers[process.rank])
    return Disk(keepers[process.rank], ranks, len(ranks) == process.world_size), lock


def _keepers(told: list[list[str | None]], hosts: list[str]) -> list[int]:
    """Of every rank, the rank whose token stands in the folder that it sees."""
    by_token = {token: rank for rank, (token, _) in enumerate(told)}
    lost = [rank for rank, (_, seen) in enumerate(told) if seen not in by_token]
    if lost:
        raise ValueError(
            f"{places(lost, hosts)} cannot read the run folder that the first rank of the host has taken. All ranks of a host "
            f"must see one disk at run.folder."
        )
    return [by_token[seen] for _, seen in told]


def common_checkpoint(meeting: Meeting, folder: Path, disk: Disk) -> int | None:
    """The newest step of which every disk has its part of the checkpoint, made the newest there; None: no disk has any.

    A save names its folders once all of them are whole, so what one disk has by name the others have whole, even when the job
    was killed between. Each disk's keeper looks alone: other hosts may see a shared disk as it was a minute ago. Raises
    MeetingError when disks have none in common.
    """
    keeps = meeting.process.rank == disk.keeper
    step = meeting.decide(run_folder.steps_on_disk(folder) if keeps else None, _newest_in_common)
    with meeting.together():
        if keeps:
            run_folder.make_newest(folder, step)
    return step


def _newest_in_common(told: list[dict[str, list[int]] | None], hosts: list[str]) -> int | None:
    found = {rank: steps for rank, steps in enumerate(told) if steps is not None}
    named = {step for steps in found.values() for step in steps["named"]}
    common = named.intersection(*({*steps["named"], *steps["whole"]} for steps in found.values()))
    if named and not common:
        by_steps: dict[str, list[int]] = {}
        for rank, steps in found.items():
            text = "steps " + ", ".join(map(str, steps["named"][-3:])) if steps["named"] else "no checkpoint"
            by_steps.setdefault(text, []).append(rank)
        held = "; ".join(f"{text} on {places(ranks, hosts)}" for text, ranks in by_steps.items())
        raise ValueError(
            f"the hosts' disks have no checkpoint of this run in common: {held}. Each disk holds the files of its own ranks: "
            f"start on the hosts that wrote them, copy the folder back that a host has lost, or choose another run.folder."
        )
    newest = max(common, default=None)
    if named and newest < max(named):
        lacking = [rank for rank, steps in found.items() if max(named) not in steps["named"]]
        print(f"goes on from step {newest}: step {max(named)} is missing on {places(lacking, hosts)}.", flush=True)
    return newest
