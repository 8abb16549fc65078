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

    A balanced Feistel network permutes the smallest square power of two that holds `size`; positions that land outside are
    sent through again until they land inside (cycle walking, Black & Rogaway 2002), fewer than 4 times on average.
    """

    def __init__(self, size: int, key: int):
        if not 1 <= size <= 2**62:
            raise ValueError(f"a permutation needs a size from 1 to 2**62, not {size}.")
        self.size = size
        half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._half, self._mask = np.uint64(half), np.uint64((1 << half) - 1)
        digest = hashlib.blake2b(key.to_bytes(16, "little"), digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, dtype="<u8")

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
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half) | right

    def _backward(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in self._keys[::-1]:
            left, right = right ^ (_mix(left ^ key) & self._mask), left
        return (left << self._half) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea & Flood 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> _SHIFTS[0])) * _MULTIPLIERS[0]
    values = (values ^ (values >> _SHIFTS[1])) * _MULTIPLIERS[1]
    return values ^ (values >> _SHIFTS[2])
