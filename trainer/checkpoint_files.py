"""The files of a checkpoint and their checksums: what a disk or a copy damaged must not be trained on.

Each rank sums up the files that it has written (XXH3-128, while they are still in memory); they stand in state.json under
"files". At a resume the ranks of a disk share the work of checking them all.

Where hosts have disks of their own, each has a copy of what the data-parallel ranks have in common. The copies may differ in
their bytes, and one may take another's place when the parts are brought together: each is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from trainer.run_folder import checkpoints_in, read_state

PIECE_BYTES = 1 << 22


class CheckpointError(ValueError):
    """A checkpoint cannot be read."""


@contextmanager
def written(deepspeed_engine: Any) -> Iterator[list[Path]]:
    """The files that DeepSpeed's engine writes on this rank within a `with` block, as they come."""
    writer, files = deepspeed_engine.checkpoint_engine, []
    save = writer.save

    def noted(state_dict: Any, path: str, *arguments: Any, **options: Any) -> Any:
        files.append(Path(path))
        return save(state_dict, path, *arguments, **options)

    writer.save = noted
    try:
        yield files
    finally:
        del writer.save  # that of its class again


def checksums(files: Sequence[Path], folder: Path) -> dict[str, str]:
    """Of each file, by its path within `folder`."""
    return {file.relative_to(folder).as_posix(): checksum(file) for file in files}


def merged(of_ranks: Sequence[dict[str, str]], ranks: Sequence[int]) -> dict[str, list[str]]:
    """What state.json says on the disk of these ranks: every file there, with the checksums of all disks' copies of it."""
    names = sorted({name for rank in ranks for name in of_ranks[rank]})
    return {name: sorted({sums[name] for sums in of_ranks if name in sums}) for name in names}


def checksum(file: Path) -> str:
    """XXH3-128 of a file's content, hexadecimal."""
    digest, piece = xxhash.xxh3_128(), bytearray(PIECE_BYTES)
    with open(file, "rb", buffering=0) as stream:
        while count := stream.readinto(piece):
            digest.update(memoryview(piece)[:count])
    return digest.hexdigest()


def check(checkpoint: Path, share: int = 0, shares: int = 1) -> None:
    """Raise CheckpointError when a file of a checkpoint is missing or damaged, with the way out. Only every `shares`-th file is
    looked at, from number `share` on. Checkpoints of versions that took no checksums pass."""
    for name, right in sorted(read_state(checkpoint).get("files", {}).items())[share::shares]:
        file = checkpoint / name
        try:
            trouble = None if checksum(file) in right else "is damaged: its checksum does not match"
        except FileNotFoundError:
            trouble = "is missing"
        except OSError as error:
            trouble = f"cannot be read: {error.strerror}"
        if trouble:
            raise CheckpointError(f"{file} {trouble}. {_way_out(checkpoint)}")


def _way_out(checkpoint: Path) -> str:
    older = [path for path in checkpoints_in(checkpoint.parent) if path.name < checkpoint.name]
    goes_on = f"from {older[-1].name}" if older else "at the first step, as there is no older checkpoint"
    return (
        f"Bring that file back from a copy, or take the whole checkpoint away (mv {checkpoint} somewhere else): the same "
        f"command then goes on {goes_on}."
    )
