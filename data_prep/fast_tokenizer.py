"""A faster engine for byte-level BPE tokenizers (gigatoken), used only where it gives the ids of Hugging Face's tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

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
    "123 4567 3.14 1,000",
    "é e\u0301 \ufb01 \ufb00 Å Å ß İ ı",
    "中文字符\uff0c日本語。한국어 한",
    "العربية עברית हिन\u094dदी क\u094dषि ไทย",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e0062 \U0001f926\U0001f3fd\u200d\u2642\ufe0f",
    "\ufeffBOM \x00nul \x1b[0m \u200bzero \u200d \u3000wide \xa0nbsp",
    "a" * 68,
    "__init__(self, x=[1,2]): # comment\n\treturn {**x}  \n\n\n    pass",
    "<|endoftext|><s></s>[CLS]<|im_end|><pad>",
    "$#@!%^&*()_+-=[]{}|;':\",./<>?",
    "a\u0336\u0327\u035db\u0301\u0301\u0301",
    "\uff26\uff35\uff2c\uff2c \uff57\uff49\uff44\uff54\uff48",
    "\u2028line\u2029para\x85",
    "https://example.org/a?b=c&d=%20#e",
    "\U0001d518\U0001d52b\U0001d526\U0001d520\U0001d52c\U0001d521\U0001d522 \U0010ffff \ue000",
    "1" * 300,
    " " * 300,
    "\n" * 50,
]
"""Texts on which tokenizers are known to differ; a user's own texts are compared besides."""


class FastEncoder:
    """Encodes batches with gigatoken, on the calling thread alone: worker processes are the parallelism."""

    def __init__(self, file: Path):
        """Raises ValueError or ImportError when the tokenizer, or the machine, is none that gigatoken knows."""
        import gigatoken

        definition = json.loads(file.read_text(encoding="utf-8"))
        # special tokens are left out: a document that spells one is to be read as text
        definition["added_tokens"] = [token for token in definition.get("added_tokens", []) if not token["special"]]
        definition["post_processor"] = None
        self._tokenizer = gigatoken.Tokenizer.from_json(json.dumps(definition).encode())

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids uint32 [tokens], offsets int64 [texts + 1]): text i is ids[offsets[i]:offsets[i + 1]]."""
        if not texts:
            return np.empty(0, np.uint32), np.zeros(1, np.int64)
        layout = self._tokenizer.encode_batch(texts, parallel=False).layout
        return np.asarray(layout.content.data), np.asarray(layout.offsets.data)


def open_fast(file: Path, slow: Tokenizer) -> tuple[FastEncoder | None, str]:
    """(encoder, "") when it agrees with `slow` on the probes, else (None, why not)."""
    try:
        fast = FastEncoder(file)
    except ImportError as error:
        return None, f"gigatoken cannot be loaded: {error}"
    except Exception as error:  # its loader raises of its own kinds for tokenizers it does not know
        return None, f"gigatoken does not know this tokenizer: {error}"
    different = first_difference(fast, slow, PROBES)
    return (None, f"gigatoken gives other ids for {different!r}") if different is not None else (fast, "")


def first_difference(fast: FastEncoder, slow: Tokenizer, texts: list[str]) -> str | None:
    """The first text that the two encode differently."""
    ids, offsets = fast.encode(texts)
    for index, encoding in enumerate(slow.encode_batch_fast(texts, add_special_tokens=False)):
        if ids[offsets[index] : offsets[index + 1]].tolist() != encoding.ids:
            return texts[index]
    return None
