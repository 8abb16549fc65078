"""Bytes on the wire per optimizer step, against the formulas of `trainer.parallel.traffic`.

    sudo python bench/traffic.py [--ranks 2] [--ways ZeRO-0 ...] [--precision bf16] [--output table.json]

Each rank is a host of its own: a network namespace with its own address, joined to the others by a bridge. What a rank sends
is read from its interface's counter (/sys/class/net/eth0/statistics/tx_bytes). Segments are not merged, so that the interface
sees the frames that a cable would. Needs root and iproute2; runs the trainer's own engine and loader. Prints, for each way
and rank, the bytes of the formula (with the headers of its frames), the bytes measured, without what TCP sent again
(a busy receiver drops some), and the ZeRO paper's count.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from trainer.parallel import traffic

INTERFACE, PORT = "eth0", 29511
FRAME = 1514
"""Bytes of a full frame on Ethernet."""
COUNTER = Path(f"/sys/class/net/{INTERFACE}/statistics/tx_bytes")
STAGE3_RELEASES = {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}
TOLERANCE = 0.05
WARM_UP, STEPS, QUIET_SECONDS = 2, 3, 0.5
WIDTH, VOCABULARY, LENGTH, MICRO = 512, 8192, 128, 4
MODEL = {
    "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": VOCABULARY, "max_position_embeddings": "auto",
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """A way to split the work."""

    zero_stage: int
    pipeline_stages: int = 1
    micro_batches: int = 1
    tied: bool = True
    zero_optimization: dict[str, Any] = field(default_factory=dict)
    """DeepSpeed's own keys."""


WAYS = {
    "ZeRO-0": Way(0),
    "ZeRO-1": Way(1),
    "ZeRO-2": Way(2),
    "ZeRO-2, 2 micro-batches": Way(2, micro_batches=2),
    "ZeRO-3": Way(3),
    "ZeRO-3, parameters released": Way(3, tied=False, zero_optimization=STAGE3_RELEASES),
    "the same, 2 micro-batches": Way(3, micro_batches=2, tied=False, zero_optimization=STAGE3_RELEASES),
    "2 stages": Way(0, 2, micro_batches=8, tied=False),
    "2 stages, tied": Way(0, 2, micro_batches=8),
    "2 stages + ZeRO-1": Way(1, 2, micro_batches=8, tied=False),
}
"""The pipelines last: DeepSpeed keeps their topology in a global that its ZeRO engine then trips over."""


@contextmanager
def hosts(count: int) -> Iterator[list[str]]:
    """Network namespaces on one bridge, gone afterwards; yields their names."""
    mark = f"mt{os.getpid()}"
    names = [f"{mark}-{index}" for index in range(count)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        ip("link", "add", mark, "type", "bridge")
        ip("link", "set", mark, "up")
        for index, name in enumerate(names):
            ip("netns", "add", name)
            ip("link", "add", f"{mark}v{index}", "type", "veth", "peer", "name", INTERFACE, "netns", name)
            ip("link", "set", f"{mark}v{index}", "master", mark, "up")
            ip("-n", name, "address", "add", f"10.78.0.{index + 1}/24", "dev", INTERFACE)
            ip("-n", name, "link", "set", INTERFACE, "gso_max_segs", "1", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "delete", mark], stderr=subprocess.DEVNULL)


def launch(options: argparse.Namespace, folder: Path) -> int:
    """This script again, one rank in each namespace. Returns the first exit code that is not 0, or 0."""
    from tests.corpora import write_shards

    write_shards(folder / "train", documents=400)
    with hosts(options.ranks) as names:
        jobs = []
        for rank, name in enumerate(names):
            variables = {
                "RANK": rank, "WORLD_SIZE": options.ranks, "LOCAL_RANK": 0, "LOCAL_SIZE": 1, "MASTER_ADDR": "10.78.0.1",
                "MASTER_PORT": PORT, "GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": 1, "HF_HUB_OFFLINE": 1,
            }  # fmt: skip
            words = [f"{key}={value}" for key, value in variables.items()]
            again = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--worker", str(folder)]
            jobs.append(subprocess.Popen(["ip", "netns", "exec", name, "env", *words, *again]))
        while any(job.poll() is None for job in jobs) and not any(job.poll() for job in jobs):
            time.sleep(0.1)
        for job in jobs:  # a rank that failed leaves the others waiting for it
            job.terminate() if job.poll() is None else None
        return next((code for code in [job.wait() for job in jobs] if code), 0)


def run_file(way: Way, precision: str, ranks: int, folder: Path) -> dict[str, Any]:
    """A run of one way."""
    replicas = ranks // way.pipeline_stages
    return {
        "run": {"folder": str(folder / "run")},
        "model": {"config": {**MODEL, "tie_word_embeddings": way.tied}},
        "data": {"train": str(folder / "train"), "sequence_length": LENGTH},
        "batch": {"global_batch_tokens": LENGTH * MICRO * way.micro_batches * replicas, "micro_batch_size": MICRO},
        "parallel": {"zero_stage": way.zero_stage, "pipeline_stages": way.pipeline_stages},
        "optimizer": {"learning_rate": 1e-4},
        "schedule": {"total_tokens": 10**9},
        "monitor": {"tensorboard": False},
        "deepspeed": {
            "zero_optimization": way.zero_optimization,
            **({} if precision == "fp32" else {precision: {"enabled": True}}),
        },
    }


def formula(way: Way, ranks: int, rank: int, parameters: int, precision: str) -> tuple[dict[str, float], float]:
    """(bytes by purpose that this rank sends per step, without headers; the paper's count), from the sizes alone."""
    replicas = ranks // way.pipeline_stages
    size = 4 if precision == "fp32" else 2
    sizes = traffic.Sizes(parameters, replicas, way.micro_batches, size, size, "gloo")
    stage = rank // replicas
    kept = 0 if way.zero_optimization else traffic.STAGE3_KEPT
    parts = traffic.zero(way.zero_stage, sizes, kept)
    parts["activations"] = traffic.activations(way.pipeline_stages, stage, way.micro_batches, MICRO, LENGTH, WIDTH, size)
    shared = way.tied and way.pipeline_stages > 1
    parts["tied table"] = traffic.all_reduce(VOCABULARY * WIDTH * size, 2) if shared else 0.0
    return parts, traffic.paper(way.zero_stage, sizes)


def work(options: argparse.Namespace, folder: Path) -> int:
    """One rank: every way in turn; the first rank prints and writes the table."""
    from torch import distributed as dist

    from trainer.devices import process_group
    from trainer.hosts.launch_env import current_process

    process, rows = current_process(), []
    with process_group(process) as device:
        for name in sorted(options.ways, key=list(WAYS).index):
            if options.precision == "bf16" and WAYS[name].pipeline_stages > 1 and not WAYS[name].zero_stage:
                continue  # is refused
            with open(os.devnull, "w") as silence, redirect_stdout(silence):
                mine = {"way": name, **measure(WAYS[name], options.precision, process, device, folder)}
            everyone: list[Any] = [None] * process.world_size
            dist.all_gather_object(everyone, mine)
            rows += everyone
            if process.is_first:
                for row in everyone:
                    print(shown(row), flush=True)
    if process.is_first and options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(abs(row["measured"] / row["formula"] - 1) > TOLERANCE for row in rows if row["formula"]))


def sent_again() -> int:
    """TCP segments of this namespace that were sent again: a busy receiver drops some, which no formula knows."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def measure(way: Way, precision: str, process: Any, device: Any, folder: Path) -> dict[str, Any]:
    """A row of the table: this rank's bytes per step."""
    from torch import distributed as dist

    from trainer.data.loader import Loader
    from trainer.engine import build_engine
    from trainer.preflight import prepare

    file = folder / f"run-{process.rank}.json"
    file.write_text(json.dumps(run_file(way, precision, process.world_size, folder)))
    plan = prepare(file, [], process.world_size)
    worker = build_engine(plan, device)
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in worker.deepspeed.module.parameters())
    batches = Loader(plan.corpus, plan.batches, plan.topology.data_rank(process.rank)).steps(0, 10**9)
    counts = []
    for count in (WARM_UP, STEPS):
        for _ in range(count):
            worker.set_learning_rate(plan.config.schedule, plan.batch.global_batch_tokens)
            worker.train_step(next(batches))
        dist.barrier()
        time.sleep(QUIET_SECONDS)  # what the barrier does not wait for is on its way
        counts.append(int(COUNTER.read_text()) - FRAME * sent_again())
    parts, paper = formula(way, process.world_size, process.rank, parameters, precision)
    del worker
    gc.collect()
    wire = {part: traffic.on_the_wire(payload) for part, payload in parts.items()}
    return {
        "rank": process.rank,
        "parameters": parameters,
        "parts": wire,
        "formula": sum(wire.values()),
        "measured": (counts[1] - counts[0]) / STEPS,
        "paper": traffic.on_the_wire(paper),
    }


HEAD = f"{'way':<30}{'rank':>5}{'parameters':>12}{'formula MB':>12}{'measured MB':>13}{'ratio':>8}{'paper MB':>10}   of which"


def shown(row: dict[str, Any]) -> str:
    """A row for a person."""
    parts = ", ".join(f"{name} {value / 1e6:.2f}" for name, value in row["parts"].items() if value)
    return (
        f"{row['way']:<30}{row['rank']:>5}{row['parameters']:>12,}{row['formula'] / 1e6:>12.2f}{row['measured'] / 1e6:>13.2f}"
        f"{row['measured'] / row['formula']:>8.3f}{row['paper'] / 1e6:>10.2f}   {parts}"
    )


def main() -> int:
    """Measure and print the table. Returns 1 where a rank's bytes are not within 5% of the formula."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options, options.worker)
    print(HEAD, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the namespaces go in any case
    with tempfile.TemporaryDirectory(prefix="moenda-traffic-") as folder:
        return launch(options, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
