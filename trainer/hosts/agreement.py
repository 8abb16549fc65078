"""That all ranks are about to train the same model on the same data with the same code, and over which links.

`check` needs no process group and ends in seconds; `measure` is the group's first traffic.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from trainer import offload
from trainer.hosts import swap_folders
from trainer.hosts.disks import Disk
from trainer.hosts.launch_env import Process, places
from trainer.hosts.meeting import Meeting
from trainer.model import build
from trainer.preflight import RunPlan
from trainer.state import flatten

ROOT = Path(__file__).resolve().parents[2]
CODE = ("trainer/**/*.py", "data_prep/shards/*.py", "strict_json.py")
PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy")
WAYS_OUT = {
    "run file": "start every host with the same run file and the same --set",
    "code": "bring every host to the same moenda: one commit, or a copy of the folder",
    "data": "copy the same shards and takedown.json to every host; python -m data_prep verify FOLDER proves a copy",
    "version": "install the same packages on every host (pip install -c constraints.txt -e .)",
    "device": "give every host the same kind of device, or leave hosts out (deepspeed --exclude)",
}
"""By the first word(s) of a fact's name."""
SHOWN = 12
"""Disagreements that are listed; the rest is counted."""
MOST_SKEW_S = 5.0
"""Difference of clocks that is worth a word: logs and files of several hosts are compared by their times."""
_SMALL, _LARGE = 2**18, 2**23
"""Bytes of the two messages that measure a link."""


class AgreementError(ValueError):
    """Ranks differ in what must be the same everywhere, or a disk is too small."""


def facts(plan: RunPlan, device: str) -> dict[str, str]:
    """What must be the same on every rank, by name. `device`: "cpu", "cuda", ..."""
    found = {f"run file {key}": repr(value) for key, value in flatten(plan.effective_config())}
    found |= {f"code {name}": digest for name, digest in _code()}
    for source, windows in zip(plan.corpus.mixture.sources, plan.corpus.windows, strict=True):
        found |= _data(f"data {source.name}", windows)
    if plan.validation:
        found |= _data("data validation", plan.validation)
    found |= {f"version {name}": version(name) for name in PACKAGES}
    found["version python"] = platform.python_version()
    found["device"] = device
    return found


def _code() -> Iterator[tuple[str, str]]:
    for path in sorted(path for pattern in CODE for path in ROOT.glob(pattern)):
        yield path.relative_to(ROOT).as_posix(), hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()


def _data(name: str, windows: Any) -> dict[str, str]:
    shards = windows.shards
    return {
        name: str(windows.fingerprint),
        f"{name}, tokenizer": shards.tokenizer_fingerprint[:16],
        f"{name}, takedowns": hashlib.blake2b(repr(shards.takedowns.entries).encode(), digest_size=6).hexdigest(),
    }


def check(meeting: Meeting, plan: RunPlan, device: str) -> list[str]:
    """The hosts of all ranks, in the order of the ranks. Raises MeetingError on all ranks when they do not agree."""
    return meeting.decide(facts(plan, device), compare)


def compare(found: list[dict[str, str]], hosts: list[str]) -> list[str]:
    """`hosts`, when the facts of all ranks are the same. Raises AgreementError naming what is not, where, and the way out."""
    apart, ways_out = [], {}
    for name in sorted({name for one in found for name in one}):
        ranks: dict[str, list[int]] = {}
        for rank, one in enumerate(found):
            ranks.setdefault(one.get(name, "absent"), []).append(rank)
        if len(ranks) > 1:
            apart.append(f"{name}: " + "; ".join(f"{value} on {places(numbers, hosts)}" for value, numbers in ranks.items()))
            ways_out.update({text: None for kind, text in WAYS_OUT.items() if name.startswith(kind)})
    if apart:
        more = [f"and {len(apart) - SHOWN} more"] if len(apart) > SHOWN else []
        raise AgreementError(
            "the ranks are not about to do the same:\n  " + "\n  ".join(apart[:SHOWN] + more) + f"\nNo rank has started: "
            f"{'; '.join(ways_out)}."
        )
    return hosts


def check_space(plan: RunPlan, disk: Disk) -> None:
    """Raise AgreementError when the run folder's disk has no room for its part of one more checkpoint."""
    needed, free = checkpoint_bytes(plan, disk), shutil.disk_usage(plan.folder).free
    if free < needed:
        raise AgreementError(
            f"run.folder {plan.folder}: {size_text(free)} are free on its disk, {size_text(needed - free)} less than the "
            f"{size_text(needed)} of a checkpoint there. Free some, lower checkpoint.keep, or choose another run.folder."
        )


def check_swap(plan: RunPlan, process: Process) -> None:
    """Clear what killed ranks left in each nvme_path of this host.

    Raises SwapFolderError when one cannot be used, AgreementError when its disk has no room for what the ranks here will write.
    """
    needed: dict[int, int] = {}
    paths = offload.disk_paths(plan.ds_config)
    count = parameters(plan) if paths else 0
    for key, name in paths.items():
        path, dotted = Path(name), f"deepspeed.zero_optimization.{key}.nvme_path"
        swap_folders.require_usable(path, dotted)
        swap_folders.clear_stale(path)
        disk, share = path.stat().st_dev, process.local_world_size / process.world_size
        per_parameter = offload.disk_bytes(plan.ds_config, key, plan.precision)
        needed[disk] = needed.get(disk, 0) + round(count * per_parameter * share)
        free = shutil.disk_usage(path).free
        if free < needed[disk]:
            raise AgreementError(
                f"{dotted} {path}: {size_text(free)} are free on its disk, {size_text(needed[disk] - free)} less than the "
                f"{size_text(needed[disk])} that {process.local_world_size} of {process.world_size} ranks offload there. Free "
                f"some, name a folder on a larger disk, or use more hosts."
            )


def size_text(count: int) -> str:
    """A number of bytes for a person, to three digits: "1.23 GB", "45.6 KB", "7 bytes"."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if count >= unit:
            digits = 2 - min(2, len(str(count // unit)) - 1)
            return f"{count / unit:.{digits}f} {name}"
    return f"{count} bytes"


def checkpoint_bytes(plan: RunPlan, disk: Disk) -> int:
    """Bytes of a checkpoint on this disk: the parameters as they are computed with, and for its share of the ranks three fp32
    numbers each: master copy, first and second moment (Adam)."""
    share = len(disk.ranks) / plan.topology.world_size if plan.config.parallel.zero_stage else 1
    return round(parameters(plan) * ((4 if plan.precision == "fp32" else 2) + 12 * share))


def parameters(plan: RunPlan) -> int:
    """How many the model has."""
    skeleton = build.skeleton(plan.hf_config, plan.config.model.attention)
    return sum(parameter.numel() for parameter in skeleton.parameters())


def measure(device: torch.device, hosts: list[str]) -> list[str]:
    """Measure clocks and links between all ranks, in about a second, and say it in lines for a person.

    Every rank receives from the one before it, all at once, as in a ring all-reduce: so each link is loaded as training will.
    """
    ranks = len(hosts)
    if ranks == 1:
        return []
    dist.barrier()
    clock = time.time()
    _receive(device, _SMALL)  # makes the connections
    latency = statistics.median(_receive(device, 8) for _ in range(5))
    seconds, count = _receive(device, _SMALL), _SMALL
    slowest = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    if slowest.item() < 0.02:
        seconds, count = _receive(device, _LARGE), _LARGE
    reduced = _all_reduce(device, count)
    mine = torch.tensor([clock, latency, count / seconds], dtype=torch.float64, device=device)
    table = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(table, mine)
    clocks, latencies, rates = zip(*(row.tolist() for row in table), strict=True)
    summary = f"all-reduce of {count / 1e6:.1f} MB over {ranks} ranks: {_rate(count / reduced)}"
    return [summary, *describe_links(hosts, latencies, rates), *describe_clocks(hosts, clocks)]


def describe_links(hosts: list[str], latencies: list[float], rates: list[float]) -> Iterator[str]:
    """A line per pair of hosts (of many the slowest only) from each rank's latency (s) and rate (bytes/s) of receiving from the
    rank before it."""
    pairs: dict[tuple[str, str], list[int]] = {}
    for rank, host in enumerate(hosts):
        pairs.setdefault((hosts[rank - 1], host), []).append(rank)
    lines = []
    for (sender, receiver), ranks in pairs.items():
        rate, latency = min(rates[rank] for rank in ranks), max(latencies[rank] for rank in ranks)
        where = f"within {sender}" if sender == receiver else f"{sender} to {receiver}"
        lines.append((sender == receiver, rate, f"{where}: {_rate(rate)}, {latency * 1e6:.0f} us"))
    lines.sort(key=lambda line: line[:2])
    between = [line for line in lines if not line[0]]
    if len(between) > 1:
        lines[0] = (*lines[0][:2], lines[0][2] + " (the slowest link between hosts)")
    yield from (text for *_, text in (lines if len(lines) <= 8 else lines[:3]))


def describe_clocks(hosts: list[str], clocks: list[float]) -> Iterator[str]:
    """A line when clocks, read at one moment, differ."""
    early, late = min(range(len(clocks)), key=clocks.__getitem__), max(range(len(clocks)), key=clocks.__getitem__)
    if clocks[late] - clocks[early] > MOST_SKEW_S:
        yield (
            f"warning: the clock of {hosts[late]} is {clocks[late] - clocks[early]:.0f} s ahead of that of {hosts[early]}. Set "
            f"them (chrony, ntpd), or logs of the hosts will not fit together."
        )


def _receive(device: torch.device, count: int) -> float:
    """Seconds until `count` bytes have come from the rank before, while as many go to the one after."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    incoming, outgoing = (torch.zeros(count, dtype=torch.uint8, device=device) for _ in range(2))
    dist.barrier()
    start = time.perf_counter()
    transfers = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.irecv, incoming, (rank - 1) % ranks),
            dist.P2POp(dist.isend, outgoing, (rank + 1) % ranks),
        ]
    )
    transfers[0].wait()
    incoming[0].item()  # wait() may only have queued it
    seconds = time.perf_counter() - start
    for transfer in transfers[1:]:
        transfer.wait()
    return seconds


def _all_reduce(device: torch.device, count: int) -> float:
    values = torch.zeros(count // 4, device=device)
    dist.all_reduce(values)  # the first one makes connections
    dist.barrier()
    start = time.perf_counter()
    dist.all_reduce(values)
    values[0].item()
    return time.perf_counter() - start


def _rate(rate: float) -> str:
    return f"{rate / 1e9:.2f} GB/s" if rate >= 1e8 else f"{rate / 1e6:.1f} MB/s"
