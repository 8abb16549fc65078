"""A stage: a folder of outputs, made by tasks that do not know of each other.

Each task writes its outputs under other names, renames them, and leaves a done mark with their checksums. So a stage may be
killed anywhere and run again: what is done and undamaged is passed over, the rest is made again with the same bytes, by any
number of workers. A task's mark names its inputs as well: when a corpus grows, only tasks with other inputs are done.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from tqdm import tqdm

from data_prep.processes import new_pool
from data_prep.ranks import Ranks
from data_prep.shards.writer import naming

STAGE_FILE = "stage.json"
LAYOUT = 2
"""Of a stage's folder. 1: the inputs were part of the settings, so that no build could grow."""
MAX_KILLED = 3
"""Killed workers that a stage makes good; a task that kills its worker each time is given up after so many."""


class StageError(ValueError):
    """A stage cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Task:
    """One unit of a stage's work."""

    name: str
    """Unique in the stage; the stem of its outputs."""
    size: int
    """Input bytes, for the progress bar."""
    arguments: Any
    """What the stage's work function needs; picklable."""
    inputs: str = ""
    """Identity of all that the task reads, where the stage's settings do not say it: with another, it is done again."""


Work = Callable[[Task, Path], dict[str, Any]]
"""Does one task, writing into the stage's folder; returns JSON with "outputs", the names of the files it wrote."""


class Runner:
    """Brings stages to their end with one set of workers: processes of this machine, or the ranks of an MPI job."""

    def __init__(self, workers: int, rebuild: bool = False, ranks: Ranks | None = None):
        """`ranks`: those of an MPI job in place of `workers` processes. `rebuild`: empty a stage's folder that was made
        with other settings, which is refused otherwise."""
        self.workers, self.rebuild, self._ranks = workers, rebuild, ranks
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def run(
        self, folder: Path, title: str, settings: dict[str, Any], tasks: list[Task], work: Work, clear: bool = True
    ) -> list[dict[str, Any]]:
        """Bring a stage to its end and return each task's result, in the order of `tasks`.

        `settings` and the tasks' inputs are all that decides the outputs. What tasks left that are no longer asked for is
        removed at the end, or by `remove_others` if not `clear`. Raises StageError when the folder was made with other
        settings, and when workers are killed again and again.
        """
        _claim(folder, title, settings, tasks, self.rebuild)
        results: dict[str, dict[str, Any]] = {}
        with tqdm(
            total=sum(task.size for task in tasks), desc=f"{title:<12}", unit="B", unit_scale=True, mininterval=0.5
        ) as bar:
            pending = {task.name: task for task in tasks}
            for task_name, result in self._in_parallel(_check_done, [(folder, task) for task in tasks], title):
                if result is not None:
                    results[task_name] = result
                    bar.update(pending.pop(task_name).size)
            for task_name, result in self._in_parallel(_do, [(folder, task, work) for task in pending.values()], title):
                results[task_name] = result
                bar.update(pending[task_name].size)
        if clear:
            remove_others(folder, tasks)
        return [results[task.name] for task in tasks]

    def _in_parallel(self, function: Callable[[Any], Any], jobs: list[tuple], title: str) -> Iterator[tuple[str, Any]]:
        """(task name, result) as jobs finish."""
        if len(jobs) <= 1 or (self._ranks is None and self.workers == 1):
            for job in jobs:
                yield job[1].name, function(job)
            return
        if self._ranks is not None:
            yield from ((jobs[index][1].name, result) for index, result in self._ranks.map(function, jobs))
            return
        left = {job[1].name: job for job in jobs}
        killed = 0
        while left:
            pool = self._processes()
            futures: dict[Future, str] = {pool.submit(function, job): name for name, job in left.items()}
            try:
                for future in as_completed(futures):
                    result = future.result()
                    del left[futures[future]]
                    yield futures[future], result
            except BrokenProcessPool:
                # one worker killed takes its pool along: what it had not finished is done again by a new one
                self._pool, killed = None, killed + 1
                if killed > MAX_KILLED:
                    raise StageError(
                        f"{title}: worker processes were killed {killed} times (out of memory?), {len(left)} of {len(jobs)} "
                        f"tasks are left, the next are {', '.join(list(left)[: self.workers])}. What is done is kept: run "
                        f"again, with fewer --workers or a smaller task_megabytes if memory is short."
                    ) from None
                tqdm.write(f"moenda: {title}: a worker process was killed; its task is done again.", file=sys.stderr)
            finally:
                for future in futures:
                    future.cancel()

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = new_pool(self.workers)
        return self._pool


@dataclass(frozen=True)
class Parts:
    """The documents between two stages: parts in a folder, in the order of the corpus."""

    files: list[Path]
    """One .jsonl.zst per part."""
    fingerprint: str
    """Of the stage's outputs: what the next stage names as its input."""
    results: list[dict[str, Any]]
    """What the stage's tasks returned, part by part."""

    @classmethod
    def of(cls, folder: Path, results: list[dict[str, Any]]) -> Parts:
        """The parts that a stage made in `folder`: the first output of each task."""
        return cls([folder / next(iter(result["checksums"])) for result in results], fingerprint(results), results)

    @classmethod
    def of_files(cls, files: list[Path]) -> Parts:
        """Parts that no stage made."""
        results = [{"checksums": {file.name: _checksum(file)}} for file in files]
        return cls(files, fingerprint(results), results)

    @property
    def names(self) -> list[str]:
        """The parts' names, which are those of the tasks that make them in every stage."""
        return [file.name.split(".")[0] for file in self.files]

    def tasks(self, arguments: Callable[[Path], Any], also: str = "") -> list[Task]:
        """One task per part; `arguments` makes them from the part's file. Its inputs are the part, and what `also` names."""
        return [
            Task(name, file.stat().st_size, arguments(file), f"{result['checksums'][file.name]} {also}".strip())
            for name, file, result in zip(self.names, self.files, self.results, strict=True)
        ]


def fingerprint(results: list[dict[str, Any]]) -> str:
    """Identity of a stage's outputs: what a later stage names as its input."""
    checksums = [list(result["checksums"].items()) for result in results]
    return xxhash.xxh3_128_hexdigest(json.dumps(checksums).encode())


def marks(folder: Path) -> dict[str, dict[str, Any]]:
    """What a stage's done marks hold, by task."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((folder / "done").glob("*.json"))}


def remove_others(folder: Path, tasks: list[Task]) -> None:
    """Remove the outputs and marks of all other tasks. Outputs first: a mark that is left tells the next run what to remove."""
    done, names = marks(folder), {task.name for task in tasks}
    wanted = {output for name in names & done.keys() for output in done[name]["checksums"]}
    for name in done.keys() - names:
        for output in done[name]["checksums"].keys() - wanted:
            (folder / output).unlink(missing_ok=True)
        _mark(folder, name).unlink()


def order(folder: Path) -> list[str]:
    """The names of a stage's tasks in the order of the corpus; empty if it is no stage's folder."""
    file = folder / STAGE_FILE
    return json.loads(file.read_text(encoding="utf-8")).get("tasks", []) if file.is_file() else []


def add_up(tables: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of tasks added up, key by key, nested ones too."""
    total: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            nested = isinstance(value, Mapping)
            total[key] = add_up([total.get(key, {}), value]) if nested else total.get(key, 0) + value
    return total


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all, flushed to the disk."""
    partial = partial_name(path)
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def partial_name(path: Path) -> Path:
    """Where a file is written before it is renamed; one per process, so that two never write into one file."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _claim(folder: Path, title: str, settings: dict[str, Any], tasks: list[Task], rebuild: bool) -> None:
    """Make the folder, or make sure that it was made with the same settings; clear what killed tasks left."""
    now = {"layout": LAYOUT, "settings": json.loads(json.dumps(settings)), "tasks": [task.name for task in tasks]}
    file = folder / STAGE_FILE
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if before is not None and (changes := _changes(before, now)):
        if not rebuild:
            raise StageError(
                f"{folder} was built {changes}. Nothing was changed. Run with "
                f"--rebuild to build this stage ({title}) and those after it anew, or choose another output folder."
            )
        shutil.rmtree(folder)
    (folder / "done").mkdir(parents=True, exist_ok=True)
    for partial in folder.rglob(".*.partial"):
        partial.unlink()
    if before != now or not file.is_file():
        write_json(file, now)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How a stage was made otherwise than it is asked for; empty if it was not."""
    if before.get("layout") != LAYOUT:
        return "by another version of moenda, which named inputs in another way"
    return listed(differences(before["settings"], now["settings"]), "differently: ")


def listed(lines: list[str], before: str = "") -> str:
    """The first of many lines in one, with the number of the others; empty for none."""
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    return f"{before}{'; '.join(lines[:5])}{more}" if lines else ""


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """ "KEY was X, is Y" for each key of nested settings that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        parts = [differences(before.get(k, "absent"), now.get(k, "absent"), f"{key}.{k}" if key else k) for k in keys]
        return [line for part in parts for line in part]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        parts = [differences(a, b, f"{key}[{i}]") for i, (a, b) in enumerate(zip(before, now, strict=True))]
        return [line for part in parts for line in part]
    return [] if before == now else [f"{key} was {_short(before)}, is {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _check_done(job: tuple[Path, Task]) -> dict[str, Any] | None:
    """The result of a finished task whose outputs are all still what they were, else None."""
    folder, task = job
    mark = _mark(folder, task.name)
    if not mark.is_file():
        return None
    result = json.loads(mark.read_text(encoding="utf-8"))
    if result["inputs"] != task.inputs or result.get("try_again"):
        return None
    return result if all(_checksum(folder / name) == checksum for name, checksum in result["checksums"].items()) else None


def _mark(folder: Path, name: str) -> Path:
    return folder / "done" / f"{name}.json"


def _do(job: tuple[Path, Task, Work]) -> dict[str, Any]:
    folder, task, work = job
    mark = _mark(folder, task.name)
    before = json.loads(mark.read_text(encoding="utf-8"))["checksums"] if mark.is_file() else {}
    with naming(folder):
        result = work(task, folder)
        result["checksums"] = {name: _checksum(folder / name) for name in result.pop("outputs")}
        result["inputs"] = task.inputs
        for name in before.keys() - result["checksums"].keys():  # it made more files of its inputs of then
            (folder / name).unlink(missing_ok=True)
        write_json(mark, result)
    return result


def _checksum(path: Path) -> str | None:
    if not path.is_file():
        return None
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
