"""Files of many compressed frames, one per record: gzip members, and zstd frames with or without a dictionary in front.

The dictionary of .warc.zst lies in a skippable frame before the records (iipc.github.io/warc-specifications, WARC Zstandard
profile 1.0). A damaged frame is passed over up to the next one, and noted.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import zstandard

from data_prep.sources.files import EXPANSION, EXPANSION_FLOOR, open_raw

GZIP, ZSTD, DICTIONARY = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x5d\x2a\x4d\x18"
LONGEST_WINDOW = 1 << 31
"""Bytes of the largest window of zstd, that of --long=31."""
MAX_NOTES = 100
STEP = 1 << 18


class Frames(io.RawIOBase):
    """The bytes of all frames, one after the other."""

    def __init__(self, path: str):
        super().__init__()
        self._file = open_raw(path)
        self._input, self._ready, self._place = b"", b"", 0
        self._frame: Any = None
        self._size = self._packed = 0
        self.damage: list[str] = []
        """What was passed over, by the frame's place in the file."""
        self._fill()
        self._magic = GZIP if self._input.startswith(GZIP) else ZSTD
        self._dictionary = self._read_dictionary() if self._input.startswith(DICTIONARY) else None

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, b"" at the end."""
        while not self._ready:
            if not self._step():
                return b""
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def _step(self) -> bool:
        """Unpack some bytes into `_ready`; False at the end of the file."""
        if len(self._input) < 18:
            self._fill()
        if self._frame is None:
            self._seek_frame()
            return bool(self._input)
        if not self._input:
            self._give_up("cut off")
            return False
        try:
            self._unpack()
        except (zlib.error, zstandard.ZstdError) as error:
            self._give_up(str(error))
        return True

    def _unpack(self) -> None:
        given = self._input[:STEP]
        if self._magic == GZIP:
            self._ready = self._frame.decompress(given, 1 << 20)
            left = self._frame.unconsumed_tail or (self._frame.unused_data if self._frame.eof else b"")
        else:
            self._ready = self._frame.decompress(given)
            left = self._frame.unused_data if self._frame.eof else b""
        self._input = left + self._input[STEP:]
        self._size += len(self._ready)
        self._packed += len(given) - len(left)
        if self._size > EXPANSION_FLOOR and self._size > EXPANSION * self._packed:
            self._give_up(f"grew more than {EXPANSION}-fold: a decompression bomb?")
        elif self._frame.eof:
            self._frame = None

    def _fill(self) -> None:
        data = self._file.read(1 << 20)
        self._place += len(data)
        self._input += data

    def _seek_frame(self) -> None:
        """Start the next frame; without one in sight, pass over what was read."""
        start = self._input.find(self._magic)
        if start < 0:
            if self._input.strip(b"\0"):
                self._note("no compressed record here")
            self._input = b""
            self._fill()
            return
        if start and self._input[:start].strip(b"\0"):
            self._note(f"{start:,} bytes between compressed records")
        self._input = self._input[start:]
        self._size = self._packed = 0
        if self._magic == GZIP:
            self._frame = zlib.decompressobj(31)
        else:
            self._frame = zstandard.ZstdDecompressor(self._dictionary, max_window_size=LONGEST_WINDOW).decompressobj()

    def _read_dictionary(self) -> zstandard.ZstdCompressionDict | None:
        """The dictionary of the skippable frame at the start, which may be compressed itself."""
        size = int.from_bytes(self._input[4:8], "little")
        while len(self._input) < 8 + size and (data := self._file.read(1 << 20)):
            self._place += len(data)
            self._input += data
        raw, self._input = self._input[8 : 8 + size], self._input[8 + size :]
        if raw.startswith(ZSTD):
            raw = zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj().decompress(raw)
        return zstandard.ZstdCompressionDict(raw) if raw else None

    def _give_up(self, why: str) -> None:
        self._note(f"damaged record: {why}")
        self._frame, self._input = None, self._input[1:]  # one byte on: not the same frame again

    def _note(self, reason: str) -> None:
        if len(self.damage) < MAX_NOTES:
            self.damage.append(f"near byte {max(0, self._place - len(self._input)):,}: {reason}")
