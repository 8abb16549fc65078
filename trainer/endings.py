"""How a run ends otherwise than by its last step: what it tells a person then, and by what the errors are known."""

from __future__ import annotations

import errno
import shutil

from trainer import run_folder
from trainer.hosts import agreement
from trainer.hosts.launch_env import Process
from trainer.preflight import RunPlan
from trainer.state import TrainState

WRITER_ERRORS = ("PytorchStreamWriter failed", ". unexpected pos ", "iostream error")
"""Of torch.save, where a file takes no more."""


class DivergedError(ValueError):
    """The numbers of a run are finite no more."""


def complete(plan: RunPlan) -> str:
    """What a run says that has no step left to do."""
    done, wanted = plan.start, plan.total_steps
    if done.step > wanted:
        return (
            f"This run has {done.step} steps ({done.tokens_seen:,} tokens), more than the {wanted} of schedule.total_tokens = "
            f"{plan.total_tokens:,}: there is nothing to do. To train it further, raise schedule.total_tokens above "
            f"{done.tokens_seen:,}; for a shorter run, choose another run.folder."
        )
    return f"This run is complete ({done.step} steps). Raise schedule.total_tokens to train it further."


def disk_failed(error: BaseException) -> bool:
    """Whether a file could not be written, as the disk is full or its quota used up. torch.save's writer tells no reason."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(seen, RuntimeError) and any(text in str(seen) for text in WRITER_ERRORS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def disk_full(plan: RunPlan, process: Process, hosts: list[str], error: Exception) -> str:
    """What a rank says that could not write its files."""
    free = agreement.size_text(shutil.disk_usage(plan.folder).free)
    return (
        f"rank {process.rank} on {hosts[process.rank]} could not write in run.folder {plan.folder}, on whose disk {free} are "
        f"free ({' '.join(str(error).split())[:100]}). What was saved before is whole. Make room (or lower checkpoint.keep), "
        f"then the same command goes on {_where_to_go_on(plan)}."
    )


def _where_to_go_on(plan: RunPlan) -> str:
    saved = run_folder.checkpoints_in(plan.folder / run_folder.CHECKPOINTS)
    return f"from {saved[-1]}" if saved else "from the first step, as there is no checkpoint yet"


def rank_lost(plan: RunPlan, process: Process, hosts: list[str], error: Exception) -> str:
    """What a rank says that has lost contact to another."""
    reason = " ".join(str(error).split()).partition("] ")[2] or str(error)  # behind the place in torch's sources
    return (
        f"rank {process.rank} on {hosts[process.rank]} has lost another rank: that one, or its machine or network, failed "
        f"first, and its own last lines say why, if it could write any ({reason[:100]}). The same "
        f"command goes on {_where_to_go_on(plan)}."
    )


def require_progress(plan: RunPlan, state: TrainState) -> None:
    """Raise DivergedError when too many steps in a row changed no weight; the number is the same on all ranks."""
    allowed = plan.config.optimizer.skips_allowed(plan.precision)
    if state.skipped_in_a_row > allowed:
        raise diverged(
            plan,
            state,
            f"{state.skipped_in_a_row} steps in a row, to step {state.step}, changed no weight, as their gradients were not "
            f"finite (optimizer.max_skipped_steps allows {allowed})",
        )


def diverged(plan: RunPlan, state: TrainState, what: str) -> DivergedError:
    """The error that says what happened and how to go on; checkpoints are finite, as no others are saved."""
    saved = run_folder.checkpoints_in(plan.folder / run_folder.CHECKPOINTS)
    way_out = (
        f"The newest checkpoint, {saved[-1]}, is whole and its weights are finite: look at its curve (python -m trainer report "
        f"{plan.folder}), and begin a new run from it (python -m trainer export {plan.folder}, model.init_from) with"
        if saved
        else "There is no checkpoint yet: begin a new run with"
    )
    return DivergedError(
        f"{what}. Nothing more is saved. {way_out} a lower optimizer.learning_rate or optimizer.gradient_clipping, or a longer "
        f"schedule.warmup_tokens. What the last steps consumed: python -m trainer trace {plan.folder} --step {state.step}."
    )
