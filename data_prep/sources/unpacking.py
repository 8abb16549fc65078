"""Reading compressed files without trusting them: gzip, bzip2, xz and zstd, any number of frames, windows to 2 GiB.

What was unpacked before a damage is given; the damage is told by an Unreadable where it begins.
"""

from __future__ import annotations

import bz2
import codecs
import io
import lzma
import re
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import zstandard

MAGIC = {
    ".gz": rb"\x1f\x8b\x08",
    ".bz2": rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)",
    ".xz": rb"\xfd7zXZ\0",
    ".zst": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
}
"""How compressed files are named, and begin; each further frame begins so, too."""
EXPANSION = 1000
"""A compressed file that grows by more than this is taken for a decompression bomb, once it is above EXPANSION_FLOOR."""
EXPANSION_FLOOR = 256 << 20
LONGEST_WINDOW = 1 << 31
"""Bytes of the largest window of zstd, that of --long=31."""
STEP = {".zst": 1 << 13}
"""Packed bytes unpacked at a time, where a decompressor's output cannot be bounded: 8 KiB become 256 MiB at most."""
OUTPUT = 1 << 20
"""Bytes unpacked at a time by the others."""


class Unreadable(ValueError):
    """An input that cannot be read further; the message says why. Its file is set aside, the rest goes on."""


class BytesBehind(Unreadable):
    """A compressed file is whole and read, but bytes of another kind lie behind it."""


class _Gzip:
    """zlib's decompressor with the interface of bz2's and lzma's. What lies before a damage is given, up to the last byte."""

    def __init__(self) -> None:
        self._made = zlib.decompressobj(wbits=31)
        self._damage: zlib.error | None = None

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self._damage:
            raise self._damage
        data = self._made.unconsumed_tail + data
        before = self._made.copy()
        try:
            return self._made.decompress(data, max_length)
        except zlib.error as error:
            self._damage = error
        parts = []
        for place in range(len(data)):
            try:
                parts.append(before.decompress(data[place : place + 1]))
            except zlib.error:
                break
        return b"".join(parts)

    @property
    def eof(self) -> bool:
        return self._made.eof and not self._damage

    @property
    def unused_data(self) -> bytes:
        return self._made.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._made.unconsumed_tail and not self._damage


class _Zstd:
    """The same of one zstd frame, skippable ones included."""

    needs_input = True

    def __init__(self) -> None:
        self._made = zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj()
        self._head, self._skip = b"", -1
        self.eof, self.unused_data = False, b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self._skip < 0:
            self._head += data
            if len(self._head) < 8:
                return b""
            data, self._head = self._head, b""
            self._skip = 8 + int.from_bytes(data[4:8], "little") if data[1:4] == b"\x2a\x4d\x18" else 0
            self._made = None if self._skip else self._made
        if self._made is None:
            passed = min(self._skip, len(data))
            self._skip -= passed
            self.eof, self.unused_data = not self._skip, data[passed:]
            return b""
        text: bytes = self._made.decompress(data)
        self.eof, self.unused_data = self._made.eof, self._made.unused_data
        return text


DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": _Gzip,
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
    ".zst": _Zstd,
}
ERRORS = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError)
"""What the decompressors raise for damaged data."""


class _Frames(io.RawIOBase):
    """The unpacked bytes of a file. After the last good ones each read raises the Unreadable that ends it."""

    def __init__(self, file: BinaryIO, packing: str):
        self._file, self._packing = file, packing
        self._decompressor: Any = None
        self._input, self._ready = b"", memoryview(b"")
        self._packed = self._bytes = self._frames = 0
        self._problem: Unreadable | None = None
        self._ended = False
        self.behind: BytesBehind | None = None

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            if self._problem:
                raise self._problem
            self._unpack()
        count = min(len(buffer), len(self._ready))
        memoryview(buffer).cast("B")[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _unpack(self) -> None:
        """Unpack some more, or find out why there is no more."""
        needed = self._decompressor is None or self._decompressor.needs_input
        if needed and not self._input:
            self._input = self._file.read(STEP.get(self._packing, 1 << 16))
            self._packed += len(self._input)
            if not self._input:
                self._finish()
                return
        if self._decompressor is None and not self._begin():
            return
        data, self._input = (self._input, b"") if needed else (b"", self._input)
        try:
            text = self._decompressor.decompress(data, OUTPUT)
        except ERRORS as error:
            self._problem = Unreadable(f"damaged {self._packing} data behind {self._bytes:,} unpacked bytes: {error}")
            return
        self._ready = memoryview(text)
        self._bytes += len(text)
        if self._bytes > EXPANSION_FLOOR and self._bytes > EXPANSION * self._packed:
            self._ready = memoryview(b"")
            self._problem = Unreadable(f"grew more than {EXPANSION}-fold to {self._bytes:,} bytes: a decompression bomb?")
        elif self._decompressor.eof:
            self._input, self._decompressor = self._decompressor.unused_data + self._input, None
            self._frames += 1

    def _begin(self) -> bool:
        """Begin a frame; not where padding, or bytes of another kind, lie behind the last."""
        if self._frames:
            self._input = self._input.lstrip(b"\0")  # padding of tapes and of xz
            if not self._input:
                return False
            self._input += self._file.read(10) if len(self._input) < 10 else b""
            if not re.match(MAGIC[self._packing], self._input):
                size = len(self._input)
                while more := self._file.read(1 << 20):
                    size += len(more)
                self.behind = BytesBehind(
                    f"all {self._bytes:,} bytes of the {self._packing} data were read; {size:,} bytes of another kind behind "
                    f"them were passed over"
                )
                self._ended, self._input = True, b""
                return False
        self._decompressor = DECOMPRESSORS[self._packing]()
        return True

    def _finish(self) -> None:
        if self._decompressor is None:
            self._ended = True
        else:
            self._problem = Unreadable(
                f"cut off: the {self._packing} data ends too early, behind {self._bytes:,} unpacked bytes"
            )


class Unpacked(io.BufferedReader):
    """A buffered stream whose read() gives what lies before a damage; the next one raises."""

    def __init__(self, file: BinaryIO, packing: str):
        self.frames = _Frames(file, packing)
        super().__init__(self.frames, 1 << 20)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return super().read()  # all, or the damage
        parts: list[bytes] = []
        while size:
            try:
                part = self.read1(size)
            except Unreadable:
                if parts:
                    break  # raised again by the next read
                raise
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def packing_of(name: str, file: BinaryIO) -> str | None:
    """The ending that tells how a file is compressed, by its first bytes where it can be rewound, else by its name. A text or a
    tar under such a name is what it is: servers and browsers unpack on the way."""
    named = next((packing for packing in MAGIC if name.lower().endswith(packing)), None)
    if not file.seekable():
        return named
    head = file.read(1 << 10)
    file.seek(0)
    found = [packing for packing, magic in MAGIC.items() if re.match(magic, head)]
    if found:
        return named if named in found else found[0]
    return None if _is_plain(head) else named


def _is_plain(head: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8, or the beginning of a tar file."""
    if head[257:262] == b"ustar":
        return True
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
