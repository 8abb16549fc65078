"""One array of any length per document, on disk, read by the document's number in the corpus: sketches, ids."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from data_prep.dedup.numbering import Numbering
from data_prep.stage import partial_name


class RaggedWriter:
    """Writes NAME.values and NAME.ends (uint64: where each document's values end) as documents come."""

    def __init__(self, folder: Path, name: str, dtype: str):
        self.outputs = [f"{name}.values", f"{name}.ends"]
        """Names of the two files."""
        self.count = 0
        """Documents added."""
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._paths = [folder / output for output in self.outputs]
        self._files = [partial_name(path).open("wb") for path in self._paths]
        self._end = 0

    def add(self, values: np.ndarray, lengths: np.ndarray) -> None:
        """Append the values of some documents, one after the other."""
        ends = np.cumsum(lengths, dtype="<u8") + np.uint64(self._end)
        for file, array in zip(self._files, (values.astype(self._dtype, copy=False), ends), strict=True):
            file.write(array.tobytes())
        self._end += len(values)
        self.count += len(ends)

    def close(self) -> list[str]:
        """Finish both files; returns their names."""
        for path, file in zip(self._paths, self._files, strict=True):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(partial_name(path), path)
        return self.outputs


class Ragged:
    """The arrays of a whole corpus: NAME.KIND.values and NAME.KIND.ends of every part."""

    def __init__(self, folder: Path, numbering: Numbering, kind: str, dtype: str):
        self._paths = [folder / f"{name}.{kind}" for name in numbering.names]
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._starts = np.array(numbering.starts)

    def read(self, documents: np.ndarray) -> list[np.ndarray]:
        """The arrays of some documents, given in ascending order."""
        arrays: list[np.ndarray] = []
        parts = np.searchsorted(self._starts, documents, side="right") - 1
        for part in np.unique(parts).tolist():
            path = self._paths[part]
            with open(f"{path}.values", "rb", 0) as values, open(f"{path}.ends", "rb", 0) as ends:
                for place in (documents[parts == part] - self._starts[part]).tolist():
                    bounds = os.pread(ends.fileno(), 16, 8 * place - 8) if place else bytes(8) + os.pread(ends.fileno(), 8, 0)
                    start, stop = int.from_bytes(bounds[:8], "little"), int.from_bytes(bounds[8:], "little")
                    size = self._dtype.itemsize
                    arrays.append(np.frombuffer(os.pread(values.fileno(), size * (stop - start), size * start), self._dtype))
        return arrays


def write_ids(folder: Path, name: str) -> RaggedWriter:
    """Where a part's document ids are written, as UTF-8 by `encode_ids`."""
    return RaggedWriter(folder, f"{name}.ids", "u1")


def encode_ids(ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(bytes of all ids, their lengths): what a RaggedWriter takes."""
    encoded = [id.encode("utf-8", "surrogatepass") for id in ids]
    return np.frombuffer(b"".join(encoded), np.uint8), np.array([len(id) for id in encoded], np.int64)


def read_ids(folder: Path, numbering: Numbering, documents: np.ndarray) -> list[str]:
    """Ids of documents given by number, ascending."""
    arrays = Ragged(folder, numbering, "ids", "u1").read(documents.astype(np.int64))
    return [array.tobytes().decode("utf-8", "surrogatepass") for array in arrays]
