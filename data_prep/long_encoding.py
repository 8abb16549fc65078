"""Long texts are encoded in pieces, with the ids of the whole.

Where a text can be cut depends on the tokenizer: on its words, on what it puts in front of a text, on what it merges. So every
cut is tried out. A stretch before it is encoded alone and with what follows, from two beginnings; the cut holds when neither
what follows changes the ids before it, nor where the stretch begins those at its end. Every piece is then encoded behind such a
stretch, whose ids are taken off: what a tokenizer puts in front of a text stands in front of that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from data_prep.long_text import PIECE_BYTES

Encode = Callable[[list[bytes]], list[np.ndarray]]
"""Ids of each of some texts in UTF-8."""
CONTEXT_BYTES = 256
_NEAR = 1 << 16
_TRIED = 8
"""Places of a kind that are tried as cuts."""
_PLACES = [
    re.compile(pattern)
    for pattern in (
        rb"(?<=[A-Za-z0-9.,;:]) (?=[A-Za-z])",
        rb"(?<=[^\s])\n(?=[^\s])",
        rb"(?<=[^\s])(?=\s)",
        rb"(?<=\s)(?=[^\s])",
        rb"(?<=\xe3\x80[\x81\x82])|(?<=\xef\xbc[\x81\x8c\x9b\x9f])",  # after CJK punctuation
        rb"(?<=[\x80-\xbf])(?=[\x00-\x7f])|(?<=[\x00-\x7f])(?=[\xc0-\xf4])",
        rb"(?<=\w)(?=[^\w\x80-\xbf])|(?<=\W)(?=\w)",
        rb"(?=[^\x80-\xbf])",
    )
]


def encode_pieces(data: bytes | bytearray, encode: Encode, forced: Callable[[], None]) -> Iterator[np.ndarray]:
    """Ids of a long text, piece by piece. `forced` is called for each cut that was made without proof, as no place held: the
    ids around it may be others than those of the whole text."""
    start, context = 0, 0
    while start < len(data):
        stop, following = len(data), len(data)
        ids = None
        if len(data) - start > PIECE_BYTES + _NEAR:
            for stop, following in _cuts(data, start + PIECE_BYTES, encode):
                ids = _encode(data, context, start, stop, following, encode)
                if ids is not None:
                    break
            else:
                forced()
                stop = _character(data, start + PIECE_BYTES)
                following = _character(data, stop - CONTEXT_BYTES)
        if ids is None:
            before, ids = encode([data[context:start], data[context:stop]])
            ids = ids[len(before) :]
        yield ids
        start, context = stop, following


def _encode(data: bytes | bytearray, context: int, start: int, stop: int, following: int, encode: Encode) -> np.ndarray | None:
    """Ids of a piece; None when it turns out that the cut at its end does not hold in the whole of it."""
    before, ids, end = encode([data[context:start], data[context:stop], data[following:stop]])
    half = (len(end) + 1) // 2
    return ids[len(before) :] if np.array_equal(ids[-half:], end[-half:]) else None


def _cuts(data: bytes | bytearray, wanted: int, encode: Encode) -> Iterator[tuple[int, int]]:
    """(cut, where the stretch before it begins), of cuts that hold."""
    for pattern in _PLACES:
        for number, found in enumerate(pattern.finditer(data, wanted, min(wanted + _NEAR, len(data) - 1))):
            if number == _TRIED:
                break
            cut = found.start()
            near, far = (_beginning(data, cut - size * CONTEXT_BYTES) for size in (1, 2))
            if _holds(data[near:cut], data[far:cut], data[cut : _character(data, cut + CONTEXT_BYTES)], encode):
                yield cut, near


def _holds(near: bytes, far: bytes, behind: bytes, encode: Encode) -> bool:
    one, one_on, other, other_on = encode([near, near + behind, far, far + behind])
    half = (len(one) + 1) // 2
    return bool(
        len(one)
        and np.array_equal(one_on[: len(one)], one)
        and np.array_equal(other_on[: len(other)], other)
        and np.array_equal(one[-half:], other[-half:])
        and np.array_equal(one_on[len(one) :], other_on[len(other) :])
    )


def _beginning(data: bytes | bytearray, place: int) -> int:
    """A place before which a word ends, near `place`, or else a character."""
    found = _PLACES[0].search(data, place, place + CONTEXT_BYTES // 2)
    return found.start() if found else _character(data, place)


def _character(data: bytes | bytearray, place: int) -> int:
    """The first character from this byte on."""
    while place < len(data) and data[place] & 0xC0 == 0x80:
        place += 1
    return place
