"""What a run trains on: the sources' windows and their order, as the run file's section `data` asks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np

from data_prep.shards import ShardError, WindowBatch, Windows, open_shards
from trainer.config import DataSection, SourceSection
from trainer.data.mixture import Mixture, MixtureError, Source, Stage, UsedUpError

MOST_WINDOWS = 2**60
"""More than any run comes to."""
SINGLE = "train"
"""Name of the source that `data.train` is."""


class CorpusError(ValueError):
    """The sources cannot be used as asked."""


@dataclass(frozen=True)
class Corpus:
    """The sources in the order of their mixture, and how long windows are when."""

    windows: tuple[Windows, ...]
    mixture: Mixture
    sequence_length: int
    lengths: tuple[tuple[int, int], ...]
    """(first token, window length) of each stage of the warm-up of the sequence length, ascending."""

    def length_at(self, tokens_seen: int) -> int:
        """Window length of the step that begins after `tokens_seen` tokens."""
        return self.lengths[bisect_right(self.lengths, tokens_seen, key=lambda stage: stage[0]) - 1][1]

    def read(self, sources: np.ndarray, windows: np.ndarray) -> WindowBatch:
        """Windows by the numbers of their sources and their own."""
        dtype = np.result_type(*(source.shards.dtype for source in self.windows))
        batch = WindowBatch.empty(len(windows), self.sequence_length, self.windows[0].documents, dtype)
        for number, source in enumerate(self.windows):
            rows = np.flatnonzero(sources == number)
            if len(rows):
                source.fill(batch, rows, windows[rows])
        return batch

    @property
    def tokens(self) -> int:
        """Tokens of all sources together."""
        return sum(windows.shards.tokens for windows in self.windows)

    @property
    def end(self) -> int | None:
        """Tokens after which every source is used up; None: never."""
        return None if self.mixture.end is None else self.mixture.end * self.sequence_length

    def describe(self, total_tokens: int) -> Iterator[str]:
        """A line per source: its size, its share of the run, its epochs by the end of the run."""
        order = self.mixture
        total = -(-total_tokens // self.sequence_length)
        counts = order.counts(total if order.end is None else min(total, order.end)).tolist()
        for source, windows, count in zip(order.sources, self.windows, counts, strict=True):
            shards, gone = windows.shards, windows.shards.takedowns
            masked = f"; taken down, masked: {len(gone):,} of {shards.documents:,} documents, {gone.tokens:,} tokens"
            yield (
                f"{source.name}: {shards.tokens:,} tokens in {len(windows):,} windows of {self.sequence_length} "
                f"({windows.packing}), {count / max(1, total):.1%} of the run, {count / len(windows):.2f} epochs"
                + (masked if len(gone) else "")
            )


def open_corpus(data: DataSection, seed: int) -> Corpus:
    """Open every source and decide their order. Raises CorpusError or ShardError's text under the key that it is about."""
    named = _named(data)
    if data.max_documents and all((section.packing or data.packing) != "best_fit" for section in named.values()):
        raise CorpusError('data.max_documents caps the documents of best_fit windows, and no source has packing "best_fit".')
    windows = {name: _open(name, section, data) for name, section in named.items()}
    first = next(iter(windows))
    for name, other in windows.items():
        check_same_tokenizer(windows[first], other, key_of(data, first), key_of(data, name))
    sources = [Source(name, w.fingerprint, len(w), w.tokens, _max_windows(named[name], len(w))) for name, w in windows.items()]
    try:
        mixture = Mixture(sources, _stages(data, named, windows), seed)
    except UsedUpError as error:
        end, begin = error.end * data.sequence_length, error.next_stage * data.sequence_length
        raise CorpusError(
            f"data.sources: those with a weight are used up after {end:,} tokens, but the next weights come at token "
            f"{begin:,}. Raise their max_epochs, or set from_tokens of that stage of data.curriculum to at most {end:,}."
        ) from None
    except MixtureError as error:
        raise CorpusError(f"data.sources: {error}") from None
    ordered = tuple(windows[source.name] for source in mixture.sources)
    return Corpus(ordered, mixture, data.sequence_length, _lengths(data))


def _named(data: DataSection) -> dict[str, SourceSection]:
    if (data.train is None) == (data.sources is None):
        raise CorpusError("data: exactly one of train (one folder of shards) and sources (several, with weights) is needed.")
    named = {SINGLE: SourceSection(shards=data.train)} if data.sources is None else data.sources
    if not named:
        raise CorpusError("data.sources is empty: name at least one source.")
    return named


def key_of(data: DataSection, name: str) -> str:
    """The run file's key of a source's shards."""
    return "data.train" if data.sources is None else f"data.sources.{name}.shards"


def _open(name: str, section: SourceSection, data: DataSection) -> Windows:
    packing = section.packing or data.packing
    if section.max_documents and packing != "best_fit":
        raise CorpusError(
            f'data.sources.{name}.max_documents caps the documents of best_fit windows, and the packing is "{packing}". Remove '
            f'it, or set packing to "best_fit".'
        )
    cap = section.max_documents or data.max_documents if packing == "best_fit" else None
    try:
        shards = open_shards(section.shards, data.tokenizer, cache=data.cache.settings())
        windows = Windows(shards, data.sequence_length, packing, data.document_mask, cap)
    except ShardError as error:
        raise CorpusError(f"{key_of(data, name)}: {error}") from None
    if not len(windows):
        raise CorpusError(f"{key_of(data, name)}: {section.shards} holds {windows.shards.tokens} tokens: not one to predict.")
    return windows


def check_same_tokenizer(first: Windows, second: Windows, first_key: str, second_key: str) -> None:
    """Raise CorpusError unless both were written with one tokenizer."""
    for name in ("tokenizer_fingerprint", "vocab_size", "eod_id"):
        ours, theirs = getattr(first.shards, name), getattr(second.shards, name)
        if ours != theirs:
            raise CorpusError(
                f"{second_key} was written with another tokenizer than {first_key}: {name} {theirs}, not {ours}. Build both "
                f"with one tokenizer."
            )


def _max_windows(section: SourceSection, windows: int) -> int | None:
    if section.max_epochs is None:
        return None
    return max(1, min(floor(_exact(section.max_epochs) * windows), MOST_WINDOWS))


def _exact(value: float) -> Fraction:
    """The decimal number that the run file says, not the binary one nearest to it."""
    return Fraction(repr(value))


def _stages(data: DataSection, named: dict[str, SourceSection], windows: dict[str, Windows]) -> list[Stage]:
    given = {name: section.weight for name, section in named.items()}
    if any(weight for weight in given.values()) and None in given.values():
        missing = [name for name, weight in given.items() if weight is None]
        raise CorpusError(
            f"data.sources: {', '.join(missing)} has no weight, others have one. Give every source one, or none (then each has "
            f"its tokens as its weight)."
        )
    weights = {name: Fraction(windows[name].tokens) if weight is None else _exact(weight) for name, weight in given.items()}
    stages = [Stage(0, dict(weights))]
    for stage in data.curriculum:
        if not stage.weights:
            continue
        if None in given.values():
            raise CorpusError(
                "data.curriculum changes weights, but the sources have none: then each counts by its tokens, a scale of its "
                "own. Give every source a weight, too."
            )
        if unknown := stage.weights.keys() - named.keys():
            raise CorpusError(f"data.curriculum: weights of {', '.join(sorted(unknown))}; the sources are {', '.join(named)}.")
        weights |= {name: _exact(weight) for name, weight in stage.weights.items()}
        stages.append(Stage(-(-stage.from_tokens // data.sequence_length), dict(weights)))
    # of stages that begin at the same window only the last counts
    stages = list({stage.first_window: stage for stage in stages}.values())
    for stage in stages:
        if not any(stage.weights.values()):
            token = stage.first_window * data.sequence_length
            raise CorpusError(f"data.sources: from token {token:,} on no source has a weight above 0.")
    return stages


def _lengths(data: DataSection) -> tuple[tuple[int, int], ...]:
    lengths = {0: data.sequence_length}
    before = -1
    for stage in data.curriculum:
        if stage.from_tokens <= before:
            raise CorpusError(f"data.curriculum: from_tokens must rise, but {stage.from_tokens} comes after {before}.")
        before = stage.from_tokens
        if stage.sequence_length is None:
            continue
        if data.sequence_length % stage.sequence_length:
            fitting = [n for n in range(1, data.sequence_length + 1) if data.sequence_length % n == 0]
            near = sorted(fitting, key=lambda n: abs(n - stage.sequence_length))[:4]
            raise CorpusError(
                f"data.curriculum: sequence_length {stage.sequence_length} does not divide data.sequence_length "
                f"{data.sequence_length}, of whose windows it takes equal parts. Near it: {', '.join(map(str, sorted(near)))}."
            )
        lengths[stage.from_tokens] = stage.sequence_length
    return tuple(sorted(lengths.items()))
