"""The run folder: one run's checkpoints, metrics and logs, held by one job at a time.

RUN_FOLDER/run.json             what the run is; a resume must be the same
RUN_FOLDER/effective_config.json       the run file with every default and "auto" filled in
RUN_FOLDER/deepspeed_resolved.json     DeepSpeed's configuration as it runs, its defaults included
RUN_FOLDER/metrics.jsonl        one line per logged step; tensorboard/
RUN_FOLDER/ledger.jsonl         one line per step: what it consumed
RUN_FOLDER/takedowns.json       which documents each start masked
RUN_FOLDER/checkpoints/step-00000100/
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.shards import locks
from data_prep.shards.locks import Lock
from trainer.state import TrainState, differences

STATE_FILE = "state.json"
RUN_FILE = "run.json"
LOCK_FILE = "run.lock"
EFFECTIVE_FILE = "effective_config.json"
RESOLVED_FILE = "deepspeed_resolved.json"
PARTIAL_PREFIX = ".partial-"
CHECKPOINTS = "checkpoints"


class RunFolderError(ValueError):
    """The run folder cannot be used: another job holds it, or it holds another run."""


def checkpoint_name(step: int) -> str:
    """Folder name of a checkpoint; sorts by step."""
    return f"step-{step:08d}"


def checkpoints_in(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE_FILE).is_file())


def steps_on_disk(folder: Path) -> dict[str, list[int]]:
    """Steps of the checkpoints in a run folder, ascending: "named", and "whole" ones that were not given their names yet."""
    named = [path.name for path in checkpoints_in(folder / CHECKPOINTS)]
    unnamed = (folder / CHECKPOINTS).glob(f"{PARTIAL_PREFIX}step-*/{STATE_FILE}")
    whole = [path.parent.name.removeprefix(PARTIAL_PREFIX) for path in unnamed]
    return {"named": _steps(named), "whole": _steps(whole)}


def _steps(names: list[str]) -> list[int]:
    return sorted(int(name.removeprefix("step-")) for name in names)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Raises RunFolderError when it isn't one."""
    try:
        record = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        state = TrainState(**record["state"])
        if not all(type(value) is int and value >= 0 for value in state.to_json().values()):
            raise ValueError(f"{record['state']} are no counts")
        if not isinstance(record.setdefault("order", {}), dict) or not isinstance(record.get("chain"), str | None):
            raise ValueError("it does not say what it has consumed")
        if checkpoint_name(state.step) != checkpoint.name:
            raise ValueError(f"it says step {state.step}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{checkpoint}: not a readable checkpoint: {error}. Without that folder (mv it away) the run goes on from the one "
            f"before."
        ) from None
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """run.json: the run's `identity` and where its data lay. Raises RunFolderError when the folder holds no run."""
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("identity"), dict):
            raise ValueError(f"its {RUN_FILE} names no run")
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder}: not a run folder of moenda: {error}") from None
    return record


def check(folder: Path, identity: dict[str, Any]) -> Path | None:
    """Where to go on: the checkpoint to resume from, or None for a fresh start.

    Raises RunFolderError when the folder holds something else than this very run. Writes nothing.
    """
    _require_writable(folder)
    of_a_lock = (LOCK_FILE, f"{LOCK_FILE}{locks.HELD}", _partial(RUN_FILE))
    if not folder.exists() or all(path.name in of_a_lock for path in folder.iterdir()):
        return None  # another rank, or a job killed at this moment, may just have taken it
    if not (folder / RUN_FILE).is_file():
        raise RunFolderError(
            f"run.folder {folder} exists, is not empty and holds no run of moenda. Nothing was written; "
            f"choose another run.folder."
        )
    _require_same(folder, identity)
    saved = checkpoints_in(folder / CHECKPOINTS)
    return saved[-1] if saved else None


def _require_writable(folder: Path) -> None:
    """Raise RunFolderError where it is plain without writing that nothing can be written; the rest shows when it is taken."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    where = f"run.folder {folder}" + ("" if nearest == folder else f": {nearest}, in which it would be made,")
    if not nearest.is_dir():
        raise RunFolderError(f"{where} is a file. Choose another run.folder.")
    if os.statvfs(nearest).f_flag & os.ST_RDONLY:
        raise RunFolderError(f"{where} is on a file system that is mounted read-only. Choose another run.folder.")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        raise RunFolderError(
            f"{where} may not be read and written by this user. Change its permissions, or choose another run.folder."
        )


def _require_same(folder: Path, identity: dict[str, Any]) -> None:
    changed = list(differences(read_record(folder)["identity"], identity))
    if changed:
        raise RunFolderError(
            f"run.folder {folder} holds another run, and this run file does not continue it:\n  "
            + "\n  ".join(changed[:20])
            + "\nNothing was written. Choose another run.folder for a new run, or restore these values to resume."
        )


def take(folder: Path, record: dict[str, Any], token: str = "") -> Lock:
    """Hold the folder for this job, until the returned lock is closed or the process ends in any way; `token` says who it is.

    Raises RunFolderError when another job holds the folder, or it cannot be written.
    """
    with _written(folder):
        return _take(folder, record, token)


def make(folder: Path) -> None:
    """Make the folder where there is none. Raises RunFolderError when it cannot be made."""
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """A block that writes the folder: what the system refuses is a RunFolderError."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"run.folder {folder} cannot be written ({error.strerror}: {error.filename or folder}). Choose another run.folder, "
            f"or mend what is in its way."
        ) from None


def _take(folder: Path, record: dict[str, Any], token: str) -> Lock:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.hold(folder / LOCK_FILE, f"job {token}" if token else "")  # hosts that share the disk look for the token
    except locks.InUse as error:
        raise RunFolderError(f"run.folder {folder} is in use by {error}, or choose another run.folder.") from None
    if (folder / RUN_FILE).is_file():
        try:
            _require_same(folder, record["identity"])  # it may have become another job's since it was checked
        except RunFolderError:
            lock.close()
            raise
    else:
        write_json(folder / RUN_FILE, record)  # before all else: it makes the folder a run's
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    return lock


def holder(folder: Path) -> str | None:
    """The token of the job that has taken the folder last, as this disk has it; None when none has."""
    try:
        return (folder / LOCK_FILE).read_text(encoding="utf-8").rpartition(", job ")[2]
    except OSError:
        return None


def make_newest(folder: Path, step: int | None) -> None:
    """Make the checkpoint of `step` (None: there is none) the newest: name it when the save that made it whole could not, set
    newer ones aside, and clear what killed saves left."""
    checkpoints = folder / CHECKPOINTS
    if step is not None:
        final = checkpoints / checkpoint_name(step)
        if not final.exists():
            (checkpoints / (PARTIAL_PREFIX + final.name)).rename(final)
        for newer in [path for path in checkpoints_in(checkpoints) if path.name > final.name]:
            aside = newer.with_name(f"incomplete-{newer.name}")  # other disks lack their parts of it
            shutil.rmtree(aside, ignore_errors=True)
            newer.rename(aside)
    for partial in checkpoints.glob(PARTIAL_PREFIX + "*"):
        shutil.rmtree(partial)


def _partial(name: str) -> str:
    return name + ".partial"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that it is there whole or not at all."""
    temporary = path.with_name(_partial(path.name))
    temporary.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)
