"""A faster engine for byte-level BPE tokenizers (gigatoken), used only where it gives the ids of Hugging Face's tokenizers.

Three guards keep the ids the same: probes when a tokenizer is opened, samples of the user's own text while it works, and the
few characters on which the two libraries are known to differ, whose documents Hugging Face's tokenizer encodes.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer

PROBES = [
    "",
    " ",
    "\n",
    " \n\n  x",
    "a\r\nb\t\tc   ",
    "   leading and trailing   ",
    "don't we'LL they'Ve I'm 'S",
    "123 4567 3.14 1,000 \u0663\u0664 \u00bd \u2167",
    "é e\u0301 \ufb01 \ufb00 Å Å ß İ ı",
    "中文字符\uff0c日本語。한국어 한",
    "العربية עברית हिन\u094dदी क\u094dषि ไทย",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e0062 \U0001f926\U0001f3fd\u200d\u2642\ufe0f",
    "\ufeffBOM \x00nul \x1b[0m \u200bzero \u200d \u3000wide \xa0nbsp",
    "a" * 68,
    "__init__(self, x=[1,2]): # comment\n\treturn {**x}  \n\n\n    pass",
    "<|endoftext|><s></s>[CLS]<|im_end|><pad>",
    "$#@!%^&*()_+-=[]{}|;':\",./<>?",
    "a\u0336\u0327\u035db\u0301\u0301\u0301",
    "\u0301 \u0301a \u0301\u0323",
    "\uff26\uff35\uff2c\uff2c \uff57\uff49\uff44\uff54\uff48",
    "\u2028line\u2029para\x85",
    "https://example.org/a?b=c&d=%20#e",
    "\U0001d518\U0001d52b\U0001d526\U0001d520\U0001d52c\U0001d521\U0001d522 \U0010ffff \ue000",
    "1" * 300,
    " " * 300,
    "\n" * 50,
]
"""Texts on which tokenizers are known to differ; the tokenizer's own tokens and a user's own texts are compared besides."""

VOCABULARY_PROBES, ADDED_PROBES = 2000, 256
SLOW_BYTES = 1 << 20
CACHE_BYTES = 1 << 30
"""Growth of the process at which gigatoken is opened anew: version 0.10 remembers every word that it ever met."""
_KNOWN_PLANES = (range(0x40000), range(0xE0000, 0xE1000), range(0xF0000, 0x110000))


class EngineDiffers(Exception):
    """The fast engine is not the tokenizer's equal; the work is to be done again with the other."""


class FastEncoder:
    """Encodes batches with gigatoken, on the calling thread alone: worker processes are the parallelism."""

    def __init__(self, definition: dict[str, Any], slow: Tokenizer):
        """Raises ValueError or ImportError when the tokenizer, or the machine, is none that gigatoken knows.

        `definition`: the content of a tokenizer.json; `slow`: the same, as Hugging Face's library reads it.
        """
        # special tokens are left out: a document that spells one is to be read as text
        added = [token for token in definition.get("added_tokens") or [] if not token["special"]]
        definition = {**definition, "added_tokens": added, "post_processor": None}
        self._definition = json.dumps(definition).encode()
        self._slow, self._uncertain = slow, _uncertain(slow.normalizer is not None)
        self._open()

    def _open(self) -> None:
        import gigatoken

        self._tokenizer = gigatoken.Tokenizer.from_json(self._definition)
        self._limit = _resident_bytes() + CACHE_BYTES

    def encode(self, texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(ids uint32 [tokens], offsets int64 [texts + 1]): text i, in UTF-8, is ids[offsets[i]:offsets[i + 1]]."""
        left = self._left_to_slow(texts)
        if not left:
            return self._encode(texts)
        inserted = encode_slowly(self._slow, [texts[index] for index in left])
        ids, offsets = self._encode([b"" if index in left else text for index, text in enumerate(texts)])
        lengths = np.diff(offsets)
        lengths[list(left)] = [len(found) for found in inserted]
        pieces = np.split(ids, offsets[list(left)])  # left texts are empty: the pieces are what stands between them
        joined = [pieces[0], *(part for pair in zip(inserted, pieces[1:], strict=True) for part in pair)]
        return np.concatenate(joined), np.concatenate([[0], np.cumsum(lengths)])

    def _encode(self, texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        if not texts:
            return np.empty(0, np.uint32), np.zeros(1, np.int64)
        if _resident_bytes() > self._limit:
            self._open()
        try:
            layout = self._tokenizer.encode_batch(texts, parallel=False).layout
        except BaseException as error:  # a panic of its Rust code is no Exception
            if type(error).__name__ != "PanicException":
                raise
            raise EngineDiffers(f"gigatoken failed: {error}") from None
        return np.asarray(layout.content.data), np.asarray(layout.offsets.data)

    def _left_to_slow(self, texts: list[bytes]) -> dict[int, None]:
        """Indices of the texts with a character on which the libraries may differ."""
        indices = [index for index, text in enumerate(texts) if not text.isascii()]
        if not indices:
            return {}
        ends = np.cumsum([len(texts[index]) for index in indices])
        data = np.frombuffer(b"".join([*(texts[index] for index in indices), bytes(3)]), np.uint8)
        found = np.searchsorted(ends, self._uncertain.positions(data), side="right")
        return dict.fromkeys(indices[place] for place in np.unique(found).tolist())


class _CharacterSet:
    """Finds members of a set of characters in UTF-8 bytes, at memory speed where they are rare."""

    def __init__(self, members: np.ndarray):
        """`members`: bool [0x110000]; none of them below U+0080."""
        self._members = members
        self._starts = np.zeros(1 << 16, bool)
        """The first two bytes of members' UTF-8."""
        points = np.flatnonzero(members)
        two, three, four = points[points < 0x800], points[(points >= 0x800) & (points < 0x10000)], points[points >= 0x10000]
        self._starts[(0xC0 | two >> 6) << 8 | 0x80 | two & 63] = True
        self._starts[(0xE0 | three >> 12) << 8 | 0x80 | three >> 6 & 63] = True
        self._starts[(0xF0 | four >> 18) << 8 | 0x80 | four >> 12 & 63] = True
        self._lowest = int(np.flatnonzero(self._starts)[0] >> 8) if len(points) else 256

    def positions(self, data: np.ndarray) -> np.ndarray:
        """Byte positions in valid UTF-8 that ends with three zero bytes."""
        places = np.flatnonzero(data >= self._lowest)
        places = places[self._starts[data[places].astype(np.int32) << 8 | data[places + 1]]]
        lead = data[places].astype(np.int32)
        second, third, fourth = (data[places + step].astype(np.int32) & 63 for step in (1, 2, 3))
        two = (lead & 31) << 6 | second
        three = (lead & 15) << 12 | second << 6 | third
        four = (lead & 7) << 18 | second << 12 | third << 6 | fourth
        return places[self._members[np.where(lead < 0xE0, two, np.where(lead < 0xF0, three, four))]]


@lru_cache(maxsize=2)
def _uncertain(normalised: bool) -> _CharacterSet:
    """Characters that gigatoken and tokenizers may not see alike, as they carry other versions of Unicode.

    gigatoken 0.10 has the classes and normal forms of Unicode 17, tokenizers 0.23 the classes of Unicode 16 and the normal
    forms of Unicode 9. So: what this Python (Unicode 13 to 16) does not know yet, and of tokenizers that normalise also the
    marks and compositions that are younger than Unicode 3.2, the old version that every Python carries.
    """
    uncertain = np.ones(0x110000, bool)
    uncertain[0xD800:0xE000] = False  # lone surrogates cannot be in UTF-8
    for plane in _KNOWN_PLANES:
        for point in plane:
            character = chr(point)
            if unicodedata.category(character) != "Cn":
                uncertain[point] = False
    if normalised:
        for point in np.flatnonzero(~uncertain).tolist():
            character = chr(point)
            composed = unicodedata.decomposition(character)
            if not (composed or unicodedata.combining(character)) or 0xD800 <= point < 0xE000:
                continue
            if unicodedata.ucd_3_2_0.category(character) == "Cn":
                uncertain[point] = True
                if composed and not composed.startswith("<"):
                    uncertain[[part for part in (int(code, 16) for code in composed.split()) if part >= 0x80]] = True
    return _CharacterSet(uncertain)


def _resident_bytes() -> int:
    """Memory of this process; 0 on systems that do not tell it as Linux does."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def encode_slowly(slow: Tokenizer, texts: list[bytes]) -> list[np.ndarray]:
    """uint32 ids of each text by Hugging Face's tokenizer, which takes 130 bytes a byte of text: about SLOW_BYTES at once."""
    found: list[np.ndarray] = []
    start = size = 0
    for place, text in enumerate(texts, 1):
        size += len(text)
        if size >= SLOW_BYTES or place == len(texts):
            some = [text.decode() for text in texts[start:place]]
            found += [np.array(e.ids, np.uint32) for e in slow.encode_batch_fast(some, add_special_tokens=False)]
            start, size = place, 0
    return found


def open_fast(definition: dict[str, Any], slow: Tokenizer) -> tuple[FastEncoder | None, str]:
    """(encoder, "") when it agrees with `slow` on the probes, else (None, why not)."""
    try:
        fast = FastEncoder(definition, slow)
    except ImportError as error:
        return None, f"gigatoken cannot be loaded: {error}"
    except Exception as error:  # its loader raises of its own kinds for tokenizers it does not know
        return None, f"gigatoken does not know this tokenizer: {error}"
    try:
        difference = first_difference(fast, slow, [*PROBES, *_own_probes(slow)])
    except EngineDiffers as failure:
        return None, str(failure)
    return (None, difference) if difference else (fast, "")


def _own_probes(slow: Tokenizer) -> Iterator[str]:
    """Texts made of the tokenizer's own tokens: the added ones in all positions, and a sample of the vocabulary."""
    added = [token.content for _, token in sorted(slow.get_added_tokens_decoder().items())]
    added = added[:: max(1, len(added) // ADDED_PROBES)]
    for token in added:
        yield f"{token} {token}{token}  a{token}b\n{token}\n\n {token}, {token[1:]}{token[:-1]} {token.upper()}"
    for one, other in pairwise(added):
        yield f"{one}{other}{one[:-1]}{other}"
    ids = sorted(slow.get_vocab(with_added_tokens=False).values())
    for token_id in ids[:: max(1, len(ids) // VOCABULARY_PROBES)]:
        yield slow.decode([token_id], skip_special_tokens=False)


def first_difference(fast: FastEncoder, slow: Tokenizer, texts: list[str]) -> str | None:
    """Which of the texts the two encode differently, and how; None when there is none."""
    encoded = [text.encode("utf-8", "replace") for text in texts]
    ids, offsets = fast.encode(encoded)
    for index, expected in enumerate(encode_slowly(slow, encoded)):
        found = ids[offsets[index] : offsets[index + 1]]
        if not np.array_equal(found, expected):
            return _explain(texts[index], found.tolist(), expected.tolist())
    return None


def _explain(text: str, found: list[int], expected: list[int]) -> str:
    same = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected)))
    shown = text if len(text) <= 80 else f"{text[:80]}..."
    return (
        f"gigatoken and tokenizers differ on {shown!r}: token {same} of it is {found[same : same + 4]}, "
        f"not {expected[same : same + 4]}"
    )
