"""Pairs of .bin and .idx for tests, by the format's description alone, and the content of the files that megatron-core wrote.

python tests/megatron_files.py [FOLDER]        writes those files again, with megatron-core itself
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "unit" / "data_prep" / "megatron"
CODES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
VOCABULARY, EOD = 300, 0
Documents = list[list[list[int]]]
"""Documents of sequences of ids."""


def write_pair(prefix: Path, documents: Documents, code: int = 8, modes: list[int] | None = None) -> Path:
    """Write prefix.bin and prefix.idx and return the prefix."""
    sequences = [sequence for document in documents for sequence in document]
    raw = [np.array(sequence, CODES[code]).tobytes() for sequence in sequences]
    starts = np.cumsum([0, *map(len, raw)])[:-1]
    ends = np.cumsum([0, *map(len, documents)])
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(f"{prefix.name}.bin").write_bytes(b"".join(raw))
    prefix.with_name(f"{prefix.name}.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, code, len(sequences), len(ends))
        + struct.pack(f"<{len(sequences)}i", *map(len, sequences))
        + struct.pack(f"<{len(starts)}q", *starts.tolist())
        + struct.pack(f"<{len(ends)}q", *ends.tolist())
        + (b"" if modes is None else struct.pack(f"<{len(modes)}b", *modes))
    )
    return prefix


def write_tokenizer(folder: Path, vocabulary: int = VOCABULARY) -> Path:
    """A tokenizer folder whose ids are 0 to vocabulary - 1; id 0 ends documents."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["</s>", *(f"t{index}" for index in range(1, vocabulary))]
    model = {"type": "WordLevel", "vocab": {token: index for index, token in enumerate(tokens)}, "unk_token": "t1"}
    described = {"version": "1.0", "model": model, "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}}
    (folder / "tokenizer.json").write_text(json.dumps(described))
    return folder


def golden() -> dict[str, tuple[int, Documents, list[int] | None]]:
    """Name -> (code of the type, documents, modes) of the files in GOLDEN."""
    rng = np.random.default_rng(7)

    def documents(high: int, count: int = 9, sentences: int = 1, eod: bool = True) -> Documents:
        made = [[rng.integers(1, high, rng.integers(1, 9)).tolist() for _ in range(sentences)] for _ in range(count)]
        for document in made:
            document[-1] += [EOD] * eod
        return made

    with_empty = documents(300)
    with_empty[3], with_empty[-1] = [[]], [[]]
    whole = {f"type_{code}": (code, documents(120), None) for code in (1, 2, 3, 4, 5, 8)}
    return whole | {
        "sentences": (8, documents(300, sentences=3), None),
        "empty_documents": (8, with_empty, None),
        "without_eod": (4, documents(300, eod=False), None),
        "floats": (7, documents(120), None),
        "text_modes": (8, documents(300), [0] * 9),
        "image_modes": (8, documents(300), [0, 0, 0, 0, 1, 0, 0, 0, 0]),
    }


def write_with_megatron(prefix: Path, documents: Documents, code: int, modes: list[int] | None = None) -> Path:
    """The same by megatron-core's IndexedDatasetBuilder."""
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    prefix.parent.mkdir(parents=True, exist_ok=True)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", DType.dtype_from_code(code), multimodal=modes is not None)
    for document in documents:
        ids = [token for sequence in document for token in sequence]
        mine, modes = (None, None) if modes is None else (modes[: len(document)], modes[len(document) :])
        builder.add_document(torch.tensor(ids, dtype=torch.int64), [len(sequence) for sequence in document], mine)
    builder.finalize(f"{prefix}.idx")
    return prefix


if __name__ == "__main__":
    for name, (code, documents, modes) in golden().items():
        print(write_with_megatron(Path(sys.argv[1] if len(sys.argv) > 1 else GOLDEN) / name, documents, code, modes))
