"""Megatron corpora read as they are: the same stream interface as TokenShards', without a new tokenisation.

A .bin carries no checksum, so what can be proven is proven when a 64 KiB block is first read: its ids are of the vocabulary,
its sequences follow each other without gaps, and its documents end with the end-of-document token, on which windows stand.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shards.format import BLOCK_BYTES, MANIFEST, ShardError, corpus_fingerprint
from data_prep.shards.megatron_format import CONVERT, FOLDER_SUFFIX, RESTORE, MegatronPair, prefix_of
from data_prep.shards.reader import TokenShards
from data_prep.shards.stream import TokenStream
from data_prep.shards.takedown import read_takedowns
from data_prep.shards.vocabulary import Vocabulary, read_vocabulary

_CHUNK = 1 << 20
"""Tokens and sequences that are checked together."""
_TABLE = 1 << 16
"""Documents whose starts are read together: a document may have many sequences."""
_SAMPLES = 16


class _Part:
    """One pair whose blocks are checked when first touched."""

    def __init__(self, prefix: Path, vocabulary: Vocabulary, verify: bool):
        self.pair, self.name, self._vocabulary, self._verify = MegatronPair(prefix), prefix.name, vocabulary, verify
        pair, size = self.pair, self.pair.header.dtype.itemsize
        self._size, self._sequences, self._entries = size, pair.header.sequences, pair.header.entries - 1
        self.tokens = pair.bin_bytes // size
        end = pair.pointers[-1] + pair.lengths[-1] * size if self._sequences else 0
        if pair.bin_bytes < end or pair.bin_bytes % size:
            raise ShardError(
                f"{pair.bin}: cut short or of another .idx: {pair.bin_bytes:,} bytes, the last sequence of {pair.idx.name} "
                f"ends at byte {end:,} of {pair.header.dtype} tokens. {RESTORE}"
            )
        first = pair.pointers[0] if self._sequences else 0
        if first != 0 or end != pair.bin_bytes:
            raise ShardError(
                f"{pair.bin}: {pair.bin_bytes:,} bytes, but the sequences of {pair.idx.name} go from byte {first:,} to "
                f"{end:,}: not one after the other, or the pair does not belong together. If it does, {CONVERT}."
            )
        self._checked = np.zeros(-(-pair.bin_bytes // BLOCK_BYTES), bool)  # the system gives memory for what is touched
        if self.tokens:
            self._check_ends()

    def _check_ends(self) -> None:
        """Whether documents end with the end-of-document token, on a few of them: the whole corpus is of one kind."""
        numbers = sorted({(self._entries - 1) * sample // (_SAMPLES - 1) for sample in range(_SAMPLES)})
        stops = sorted({int(self._document_starts(number + 1, number + 2)[0]) for number in numbers} - {0})
        for stop in stops:
            self._check_sequences(stop - 1, stop)
        last = [int(self.pair.tokens(stop - 1, stop)[0]) for stop in stops]
        eod = self._vocabulary.eod_id
        wrong = sorted({token for token in last if token != eod})
        if not wrong:
            return
        ending = sum(token == eod for token in last)
        raise ShardError(
            f"{self.pair.bin}: {ending} of {len(last)} documents looked at end with the end-of-document id {eod}, the others "
            f"with {', '.join(map(str, wrong[:5]))}. "
            + (
                f"If {wrong[0]} is the end of documents, name it in the tokenizer folder: eos_token of tokenizer_config.json. "
                if not ending and len(wrong) == 1
                else "Written without Megatron's --append-eod, it seems, or with another tokenizer. "
            )
            + f"Without ends, documents run into each other; {CONVERT}, with an end for each."
        )

    def read(self, start: int, stop: int) -> np.ndarray:
        if self._verify and stop > start:
            for block in range(start * self._size // BLOCK_BYTES, (stop * self._size - 1) // BLOCK_BYTES + 1):
                if not self._checked[block]:
                    step = BLOCK_BYTES // self._size
                    self._check(block * step, min((block + 1) * step, self.tokens))
                    self._checked[block] = True
        return self.pair.tokens(start, stop)

    def _check(self, start: int, stop: int) -> None:
        self._check_sequences(start, stop)
        self._check_tokens(start, stop)

    def _check_tokens(self, start: int, stop: int) -> None:
        """Ids are of the vocabulary, and the last of each document is the end-of-document token."""
        tokens, vocabulary = self.pair.tokens(start, stop), self._vocabulary
        if int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary.size:
            place = int(np.flatnonzero((tokens < 0) | (tokens >= vocabulary.size))[0])
            raise ShardError(
                f"{self.pair.bin}: token {start + place:,} is {tokens[place]}, outside the tokenizer's vocabulary of "
                f"{vocabulary.size:,} ids: another tokenizer than the one that wrote it, or a damaged file. Name the right "
                f"tokenizer folder. {RESTORE}"
            )
        ends = self.document_starts_in(start + 1, stop + 1) - 1
        if stop == self.tokens:
            ends = np.append(ends, stop - 1)
        wrong = np.flatnonzero(tokens[ends - start] != vocabulary.eod_id)
        if len(wrong):
            end = int(ends[wrong[0]])
            raise ShardError(
                f"{self.pair.bin}: the document that ends at token {end + 1:,} ends with id {tokens[end - start]}, not with "
                f"the end-of-document id {vocabulary.eod_id}, as others do. Damaged, or put together from files with and "
                f"without --append-eod; {CONVERT}, with an end for each."
            )

    def _check_sequences(self, start: int, stop: int) -> None:
        """The sequences that hold the tokens [start, stop) follow each other; the pointers are ascending if they do."""
        first = bisect_right(self.pair.pointers, start * self._size) - 1
        last = bisect_left(self.pair.pointers, stop * self._size)
        covered = self._check_chain(max(first, 0), last)
        if not covered[0] <= start * self._size < stop * self._size <= covered[1]:
            self._refuse_order(first)

    def _check_chain(self, first: int, last: int) -> tuple[int, int]:
        """(first byte, byte after the last) of the sequences [first, last), which follow each other without a gap."""
        pair = self.pair
        pointers = pair.pointers[first : last + 1].astype(np.int64)
        if last >= self._sequences:
            pointers = np.append(pointers, pair.bin_bytes)
        lengths = pair.lengths[first:last].astype(np.int64)
        wrong = np.flatnonzero((np.diff(pointers) != lengths * self._size) | (lengths < 0)) if last > first else [0]
        if len(wrong):
            self._refuse_order(first + int(wrong[0]))
        pair.check_modes(first, last)
        return int(pointers[0]), int(pointers[-1])

    def _refuse_order(self, sequence: int) -> None:
        raise ShardError(
            f"{self.pair.idx}: sequence {max(sequence, 0):,} of {self._sequences:,} does not end where the next begins: "
            f"damaged, or written by another program with gaps or in another order. If the file is whole, {CONVERT}; "
            f"if not: {RESTORE}"
        )

    def _first_document(self, token: int) -> int:
        """The first document that starts at `token` or behind it."""
        sequence = bisect_left(self.pair.pointers, token * self._size)
        documents, guess = self.pair.documents, min(sequence, self._entries)
        if documents[guess] == sequence and (guess == 0 or documents[guess - 1] < sequence):
            return guess  # one sequence each, as ever without sentence splits
        return bisect_left(documents, sequence)

    def _document_starts(self, first: int, last: int) -> np.ndarray:
        """int64 first tokens of the documents [first, last), empty ones too; number `documents` starts after the last token."""
        parts = [self._some_starts(low, min(low + _TABLE, last)) for low in range(first, last, _TABLE)]
        starts = np.concatenate(parts)
        if starts[0] < 0 or starts[-1] > self.tokens or (starts[1:] < starts[:-1]).any():
            self._refuse_order(self.pair.documents[first])
        return starts

    def _some_starts(self, first: int, last: int) -> np.ndarray:
        sequences = self.pair.document_sequences(first, last - 1)
        low = int(sequences[0])
        pointers = np.append(self.pair.pointers[low : int(sequences[-1]) + 1], self.tokens * self._size)
        return pointers[sequences - low] // self._size

    def document_starts_in(self, start: int, stop: int) -> np.ndarray:
        low, high = self._first_document(start), self._first_document(stop)
        edge = max(low - 1, 0)
        starts = self._document_starts(edge, min(high, self._entries) + 1)
        between = starts[low - edge : max(high, low) - edge]
        ordered = high >= low and (low == 0 or starts[0] < start) and starts[-1] >= min(stop, self.tokens)
        if not ordered or (len(between) and not start <= between[0] <= between[-1] < stop):
            self._refuse_order(self.pair.documents[edge])
        return np.unique(between[between < self.tokens])  # an empty document starts where the next one does

    def document_lengths(self, most: int) -> Iterator[np.ndarray]:
        for starts in self._document_table(most):
            lengths = np.diff(starts)
            yield lengths[lengths > 0]

    def _document_table(self, most: int) -> Iterator[np.ndarray]:
        """int64 [documents + 1] first token of each and the end of the last, of at most `most` documents at a time."""
        for first in range(0, self._entries, most):
            yield self._document_starts(first, min(first + most, self._entries) + 1)

    def document_spans(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(number, first token, token after the last) of the documents with a token in [start, stop), empty ones left out."""
        number = self._first_document(start + 1) - 1  # the last that starts at `start` or before: it has a token
        while number < self._entries:
            starts = self._document_starts(number, min(number + _CHUNK, self._entries) + 1).tolist()
            for index in range(len(starts) - 1):
                if starts[index] >= stop:
                    return
                if starts[index] < starts[index + 1]:
                    yield number + index, starts[index], starts[index + 1]
            number += len(starts) - 1

    def verify(self, progress: Callable[[int], None]) -> None:
        """Check everything from the first byte to the last; `progress(tokens done)`."""
        for first in range(0, self._sequences, _CHUNK):
            self._check_chain(first, min(first + _CHUNK, self._sequences))
        before = 0
        for starts in self._document_table(_CHUNK):
            if starts[0] != before:
                self._refuse_order(0)
            before = starts[-1]
        for start in range(0, self.tokens, _CHUNK):
            stop = min(start + _CHUNK, self.tokens)
            self._check_tokens(start, stop)
            progress(stop)


class MegatronShards(TokenStream):
    """Pairs of .bin and .idx as one stream of tokens, with the interface of TokenShards.

    Empty documents hold no token, so the stream does not have them. `text_bytes` is None: nothing says how long the text was.
    """

    text_bytes: None = None
    cache: None = None
    """No settings of a cache: pairs are read where they lie."""
    is_fetched = False

    def __init__(self, folder: Path, parts: list[_Part], vocabulary: Vocabulary):
        super().__init__(parts, np.result_type(*(part.pair.header.dtype for part in parts)))
        self.folder = folder
        """Where plans and the ledger of takedowns of this corpus lie."""
        self.vocab_size, self.eod_id = vocabulary.size, vocabulary.eod_id
        self.tokenizer_fingerprint = vocabulary.fingerprint
        """Of the tokenizer that was named: the files themselves name none."""
        self.fingerprint: str = corpus_fingerprint([part.pair.fingerprint for part in parts])
        """See MegatronPair.fingerprint: the same for every copy, whatever its path."""
        self.takedowns = read_takedowns(folder, self.fingerprint)
        if not self.tokens:
            raise ShardError(f"{parts[0].pair.prefix}: no tokens in {len(parts)} pairs of .bin and .idx. {RESTORE}")

    @classmethod
    def open(cls, path: str | Path, tokenizer: str | Path, verify: bool = True) -> MegatronShards:
        """Open the pair of a prefix (or of its .bin or .idx), or all pairs of a folder in the order of their names.

        `tokenizer`: the folder of the tokenizer that wrote the ids, for its vocabulary and end-of-document token. Time and
        memory do not depend on the size of the corpus. Raises ShardError for what is missing, cut short, damaged, or not text.
        """
        vocabulary = read_vocabulary(tokenizer)
        folder, prefixes = megatron_prefixes(path)
        return cls(folder, [_Part(prefix, vocabulary, verify) for prefix in prefixes], vocabulary)

    @cached_property
    def documents(self) -> int:
        """Documents with a token; the first use counts them, O(documents)."""
        return sum(len(lengths) for lengths in self.document_lengths())

    def document_spans(self, start: int, stop: int) -> Iterator[tuple[str, int, int, int]]:
        """(pair's name, number in it, first token, token after the last) of the documents with a token in [start, stop)."""
        for part, first, last, offset in self._within(start, stop):
            for number, low, high in part.document_spans(first, last):
                yield part.name, number, low + offset, high + offset

    def verify_all(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Check every id, sequence and document; `progress(tokens done, tokens in all)` is called now and then."""
        for part, start in zip(self._parts, self._starts, strict=False):
            part.verify(lambda done, start=start: progress(start + done, self.tokens))


def megatron_prefixes(path: str | Path) -> tuple[Path, list[Path]]:
    """(folder for what goes with the corpus, prefixes of its pairs): of a folder all, by name, else the one that is named."""
    path = Path(path)
    if not path.is_dir() or _has_files(path):
        prefix = prefix_of(path)
        return prefix.with_name(prefix.name + FOLDER_SUFFIX), [prefix]
    prefixes = sorted({prefix_of(file) for suffix in ("*.idx", "*.bin") for file in path.glob(suffix)})
    if not prefixes:
        raise ShardError(f"{path}: no pairs of .bin and .idx in it.")
    return path, prefixes


def is_megatron(path: str | Path) -> bool:
    """Whether a path names a Megatron corpus: a prefix, one of its two files, or a folder with such files."""
    path = Path(path)
    if path.is_dir() and ((path / MANIFEST).is_file() or any(path.glob("*.idx"))):
        return not (path / MANIFEST).is_file()
    return _has_files(path)


def _has_files(path: Path) -> bool:
    """Whether there is a .idx or .bin of this prefix, beside a folder of the same name or without."""
    prefix = prefix_of(path)
    return bool(prefix.name) and any(prefix.with_name(f"{prefix.name}{suffix}").is_file() for suffix in (".idx", ".bin"))


def open_shards(
    path: str | Path, tokenizer: str | Path | None = None, verify: bool = True, **options: Any
) -> TokenShards | MegatronShards:
    """Open whatever a path names: a folder of token shards, or a Megatron corpus, which needs its tokenizer's folder.

    `options`: further ones of TokenShards.open; a Megatron corpus has none. Raises ShardError for what is missing, half-written
    or damaged.
    """
    if not is_megatron(path):
        return TokenShards.open(path, verify, **options)
    if tokenizer is None:
        raise ShardError(
            f"{path}: a Megatron corpus does not say which tokenizer wrote it. Name the tokenizer's folder: data.tokenizer in "
            f"a run file, --tokenizer on the command line."
        )
    return MegatronShards.open(path, tokenizer, verify)
