"""Train a GPT-style model from a run file.

    deepspeed [--hostfile hostfile] trainer/train.py --config ds_configs/x.json [--set key=value]...

Starting the same run file again resumes its run. Exit codes: 0 done, 1 a rank failed, 2 a mistake to mend in the run file or
the data.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TextIO

if __package__ in (None, ""):  # started as a path: Python put trainer/ itself first, where its modules shadow others
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from data_prep.shards import ShardError
from trainer import checkpoint, endings, evaluation, run_folder, takedown_record
from trainer.data.loader import Loader
from trainer.devices import check_device, device_name, device_type, process_group
from trainer.engine import build_engine
from trainer.hosts import agreement, compiled_ops, disks, swap_folders
from trainer.hosts.disks import Disk
from trainer.hosts.launch_env import Process, current_process
from trainer.hosts.meeting import Meeting, UnreachableError, lost_contact
from trainer.ledger import Ledger, LedgerError
from trainer.model.build import ModelError
from trainer.model.document_mask import DocumentMaskError
from trainer.model.sequence_parallel import SequenceParallelError
from trainer.model.tensor_parallel import TensorParallelError
from trainer.monitor import Monitor
from trainer.preflight import RunPlan, at_checkpoint, prepare
from trainer.state import derive_seed

REFUSALS = (
    ShardError,
    endings.DivergedError,
    LedgerError,
    ModelError,
    checkpoint.CheckpointError,
    DocumentMaskError,
    SequenceParallelError,
    TensorParallelError,
)
"""Mistakes of a user that are seen only once it is tried."""


def main(arguments: list[str] | None = None) -> int:
    """Decide the run, then train it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="trainer/train.py", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="run file, a JSON in ds_configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. run.seed=7")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    options = parser.parse_args(arguments)
    process = None
    try:
        process = current_process()
        meeting = Meeting(process)  # its store is the process group's, too: it lasts as long as the job
        plan, disk, hosts, lock = agree(meeting, options.config, options.set)
    except ValueError as error:
        if process is None or process.is_first or (isinstance(error, UnreachableError) and process.local_rank == 0):
            print(f"moenda: {error}", file=sys.stderr, flush=True)
        return 2
    if process.is_first:
        print("\n".join([plan.describe(), *disk.describe()]), flush=True)
        if process.world_size > 1:
            print(plan.table(hosts), flush=True)
    if plan.start.step < plan.total_steps:
        try:
            with process_group(process) as device:
                links = agreement.measure(device, hosts)
                if process.is_first:
                    print("".join(f"links       {line}\n" for line in links), end="", flush=True)
                train(plan, process, device, disk)
        except REFUSALS as error:
            print(f"moenda: {error}", file=sys.stderr, flush=True)
            return 2
        except (RuntimeError, OSError) as error:
            if not endings.disk_failed(error) and not lost_contact(error):
                raise
            farewell = endings.disk_full if endings.disk_failed(error) else endings.rank_lost
            print(f"moenda: {farewell(plan, process, hosts, error)}", file=sys.stderr, flush=True)
            return 1
    elif process.is_first:
        print(endings.complete(plan))
    if lock:
        lock.close()
    return 0


def agree(meeting: Meeting, config: str, assignments: list[str]) -> tuple[RunPlan, Disk, list[str], TextIO | None]:
    """Decide the run on every rank, and that it is the same run: the plan, this rank's disk, all ranks' hosts, the run folder's
    lock. What fails on one rank is a ValueError on all, before any of them waits for another."""
    process = meeting.process
    with meeting.together():
        plan = prepare(config, assignments, process.world_size)
        check_device(plan.precision, plan.ds_config)
        if process.local_rank == 0:
            compiled_ops.check(plan.ds_config)
            agreement.check_swap(plan, process)
    hosts = agreement.check(meeting, plan, device_type())
    disk, lock = disks.take(meeting, plan.folder, plan.record)
    step = disks.common_checkpoint(meeting, plan.folder, disk)
    with meeting.together():
        plan = at_checkpoint(plan, step)
        if plan.resume_from:
            checkpoint.require_files(plan.resume_from, process.rank, disk)
        if plan.start.step < plan.total_steps:
            agreement.check_space(plan, disk)
        open_ledger(plan, process).close()
    return plan, disk, hosts, lock


def open_ledger(plan: RunPlan, process: Process) -> Ledger:
    """The run's ledger, checked against its data; it is written by the first process alone."""
    return Ledger(plan.folder, plan.start, plan.chain, plan.corpus, plan.batches, writes=process.is_first)


def train(plan: RunPlan, process: Process, device: torch.device, disk: Disk) -> None:
    """Train, from the plan to the last checkpoint."""
    with swap_folders.own_folders(plan.ds_config) as ds_config:
        _train(replace(plan, ds_config=ds_config), process, device, disk)


def _train(plan: RunPlan, process: Process, device: torch.device, disk: Disk) -> None:
    """The training loop."""
    config = plan.config
    data_rank, dropout_rank = plan.topology.data_rank(process.rank), plan.topology.dropout_rank(process.rank)
    loader = Loader(plan.corpus, plan.batches, data_rank)
    worker = build_engine(plan, device)
    if process.is_first and config.parallel.pipeline_partition == "cost" and plan.topology.pipeline_stages > 1:
        print(plan.table(), flush=True)  # now that the layers are measured
    if plan.resume_from:
        checkpoint.load(worker, plan.resume_from)
    if process.is_first:
        run_folder.write_json(plan.folder / run_folder.EFFECTIVE_FILE, plan.effective_config())
        run_folder.write_json(plan.folder / run_folder.RESOLVED_FILE, worker.resolved_config())
        takedown_record.record_start(plan.folder, plan.corpus, plan.start.step + 1)
    state = plan.start
    ledger = open_ledger(plan, process)
    skipped = worker.deepspeed.skipped_steps  # its batches are consumed, and the schedule goes on: both follow the tokens
    monitor = Monitor(plan, worker.shape, device_name(device), process.is_first, skipped)

    for batch in monitor.timed(loader.steps(state.tokens_seen, config.schedule.total_tokens)):
        torch.manual_seed(derive_seed(config.run.seed, "dropout", state.step, dropout_rank))
        rate = worker.set_learning_rate(config.schedule, state.advance(batch.plan).tokens_seen)
        result = worker.train_step(batch)
        before, skipped = skipped, worker.deepspeed.skipped_steps
        state = state.advance(batch.plan, skipped=skipped > before)
        last = state.step >= plan.total_steps
        ledger.add(state, batch.sequence_length, result.consumed)
        monitor.step(state, batch, rate, result, skipped)
        endings.require_progress(plan, state)

        if plan.validation and (last or state.step % config.evaluation.every_steps == 0):
            monitor.evaluation(state, evaluation.evaluate(worker, plan, data_rank))
        if last or state.step % config.checkpoint.every_steps == 0:
            monitor.saved(checkpoint.save(worker, plan, state, ledger.settled(), disk))
    ledger.close()
    monitor.close()


if __name__ == "__main__":
    code = main()
    if code:  # not by Python's own end: what libraries' threads do there, while other ranks end too, can change the exit code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
