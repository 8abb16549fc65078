"""Permutations of any size that are computed, not stored: the shuffle of an epoch in O(1) memory."""

from __future__ import annotations

import hashlib

import numpy as np

ROUNDS = 6
"""Feistel rounds; 4 make a pseudo-random permutation of good round functions (Luby & Rackoff 1988), 6 leave margin."""
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


class Permutation:
    """A keyed bijection of [0, size), computed element by element.

    A Feistel network permutes the smallest power of two that holds `size` (of an odd number of bits, the halves differ by one
    and take turns: an alternating network, Schneier & Kelsey 1996); positions that land outside are sent through again until
    they land inside (cycle walking, Black & Rogaway 2002), fewer than 2 times on average.
    """

    def __init__(self, size: int, key: int):
        if not 1 <= size <= 2**62:
            raise ValueError(f"a permutation needs a size from 1 to 2**62, not {size}.")
        self.size = size
        bits = max(2, (size - 1).bit_length())
        low, high = bits - bits // 2, bits // 2
        self._low, self._low_mask = np.uint64(low), np.uint64((1 << low) - 1)
        masks = np.array([(1 << high) - 1, (1 << low) - 1], dtype=np.uint64)
        digest = hashlib.blake2b(key.to_bytes(16, "little"), digest_size=8 * ROUNDS).digest()
        self._rounds = list(zip(np.frombuffer(digest, dtype="<u8"), [*masks] * (ROUNDS // 2), strict=True))

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """uint64 images of an array of positions in [0, size)."""
        return self._walk(np.asarray(positions, dtype=np.uint64), self._forward)

    def inverse(self, images: np.ndarray) -> np.ndarray:
        """uint64 positions of an array of images in [0, size)."""
        return self._walk(np.asarray(images, dtype=np.uint64), self._backward)

    def _walk(self, values: np.ndarray, step) -> np.ndarray:
        values = step(values)
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = step(values[outside])
            outside = outside[values[outside] >= self.size]
        return values

    def _forward(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._low, values & self._low_mask
        for key, mask in self._rounds:
            left, right = right, _mixed(right, key, mask, left)
        return (left << self._low) | right

    def _backward(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._low, values & self._low_mask
        for key, mask in self._rounds[::-1]:
            left, right = _mixed(left, key, mask, right), left
        return (left << self._low) | right


def _mixed(values: np.ndarray, key: np.uint64, mask: np.uint64, other: np.ndarray) -> np.ndarray:
    """other ^ (f(values ^ key) & mask), f splitmix64's finaliser (Steele, Lea & Flood 2014): every input bit reaches every
    output bit. In place, since memory is what takes the time."""
    out = values ^ key
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        out ^= out >> shift
        out *= multiplier
    out ^= out >> _SHIFTS[2]
    out &= mask
    out ^= other
    return out
