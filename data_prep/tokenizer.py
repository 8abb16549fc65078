"""Tokenizers: a byte-level BPE trained on the corpus, or an existing one, in the folder that goes with the shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.fast_tokenizer import EngineDiffers, first_difference, open_fast
from data_prep.shards import tokenizer_fingerprint
from data_prep.shards.vocabulary import KNOWN_EOD

DEFAULT_EOD = "<|endoftext|>"
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class TokenizerError(ValueError):
    """A tokenizer cannot be trained, loaded or used; the message says why and what to do."""


class CorpusTokenizer:
    """A tokenizer as the corpus build uses it."""

    def __init__(self, folder: Path, fast: bool = True):
        """Open a tokenizer folder that `train` or `adopt` wrote. `fast`: encode with gigatoken where its ids are the same."""
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # a document that spells a special token, by chance or malice, must not become one
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if getattr(self._tokenizer.model, "dropout", None):
            self._tokenizer.model.dropout = None  # BPE-dropout (Provilkov et al. 2020) is random: no two builds would be equal
        self._fast, self.slow_because = open_fast(folder / "tokenizer.json", self._tokenizer) if fast else (None, "as asked")
        """`slow_because`: why Hugging Face's tokenizers do the work, when they do."""
        self.eod_token: str = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["eos_token"]
        self.eod_id: int = self._tokenizer.token_to_id(self.eod_token)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values()) + 1
        self.fingerprint: str = tokenizer_fingerprint(folder / "tokenizer.json")

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids (uint32) of each text, without special tokens."""
        ids, offsets = self.encode_batch([text.encode() for text in texts])
        return np.split(ids, offsets[1:-1]) if texts else []

    def encode_batch(self, texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(ids uint32 [tokens], offsets int64 [texts + 1]): text i, in UTF-8, is ids[offsets[i]:offsets[i + 1]].

        No special tokens. Raises EngineDiffers when the fast engine fails.
        """
        if self._fast is not None:
            return self._fast.encode(texts)
        encodings = self._tokenizer.encode_batch_fast([text.decode() for text in texts], add_special_tokens=False)
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
        ids = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        return np.concatenate([np.empty(0, np.uint32), *ids]), offsets

    def check(self, texts: list[bytes]) -> None:
        """Compare the fast engine with Hugging Face's on these texts. Raises EngineDiffers."""
        if self._fast is None:
            return
        difference = first_difference(self._fast, self._tokenizer, [text.decode() for text in texts])
        if difference:
            raise EngineDiffers(difference)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, special tokens included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def text_bytes(self, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """int64 UTF-8 bytes of the text that each ids[offsets[i]:offsets[i + 1]] decodes to.

        A byte-level token stands for as many bytes as it has characters (Radford et al. 2019), so no text is made; of other
        tokenizers it is."""
        if self._token_bytes is not None:
            ends = np.concatenate([[0], np.cumsum(self._token_bytes[ids], dtype=np.int64)])
            return ends[offsets[1:]] - ends[offsets[:-1]]
        texts = self._tokenizer.decode_batch(
            [part.tolist() for part in np.split(ids, offsets[1:-1])], skip_special_tokens=False
        )
        return np.array([len(text.encode()) for text in texts], np.int64)

    @cached_property
    def _token_bytes(self) -> np.ndarray | None:
        """int64 [vocab_size] bytes of each token of a byte-level tokenizer, None for others."""
        added = {index: token.content for index, token in self._tokenizer.get_added_tokens_decoder().items()}
        tokens = {i: t for t, i in self._tokenizer.get_vocab(with_added_tokens=True).items() if i not in added}
        alphabet = set(pre_tokenizers.ByteLevel.alphabet())
        if not isinstance(self._tokenizer.decoder, decoders.ByteLevel) or not set().union(*tokens.values()) <= alphabet:
            return None
        sizes = np.zeros(self.vocab_size, np.int64)
        sizes[list(tokens)] = [len(token) for token in tokens.values()]
        sizes[list(added)] = [len(content.encode()) for content in added.values()]
        return sizes


def train(texts: Iterable[str], vocab_size: int, eod_token: str | None, folder: Path) -> None:
    """Train a byte-level BPE (Sennrich et al. 2016 over bytes, as GPT-2) and write its folder.

    All 256 bytes are in the vocabulary, so nothing is unknown. The same texts in the same order give the same file.
    """
    eod_token = eod_token or DEFAULT_EOD
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(eod_token, special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    _write_config(folder, {}, eod_token)


def find(path: Path) -> Path:
    """The tokenizer.json at `path`, a file or a Hugging Face folder. Raises TokenizerError when there is none."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        hint = f" {path} holds {', '.join(sorted(p.name for p in path.iterdir())[:8])}." if path.is_dir() else ""
        raise TokenizerError(
            f"tokenizer.path: no {file}.{hint} A tokenizer.json is needed; `AutoTokenizer.from_pretrained(...)."
            f"save_pretrained(folder)` writes one."
        )
    return file


def adopt(path: Path, eod_token: str | None, folder: Path) -> None:
    """Copy an existing tokenizer into `folder`, with its end-of-document token decided.

    Raises TokenizerError when the file is no tokenizer, or when no token can serve as end of document.
    """
    file = find(path)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        raise TokenizerError(f"{file}: not a tokenizer that the tokenizers library can load: {error}") from None
    config = {}
    beside = file.with_name("tokenizer_config.json")
    if beside.is_file():
        config = json.loads(beside.read_text(encoding="utf-8"))
    eod_token = _choose_eod(tokenizer, eod_token, config, file)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / "tokenizer.json")
    _write_config(folder, config, eod_token)


def _choose_eod(tokenizer: Tokenizer, wanted: str | None, config: dict[str, Any], file: Path) -> str:
    declared = config.get("eos_token")
    declared = declared.get("content") if isinstance(declared, dict) else declared
    for candidate in [wanted] if wanted else [declared, *KNOWN_EOD]:
        if isinstance(candidate, str) and tokenizer.token_to_id(candidate) is not None:
            return candidate
    special = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    asked = f'"{wanted}" is not in its vocabulary' if wanted else "it declares no end-of-sequence token"
    raise TokenizerError(
        f"{file}: {asked}. Set tokenizer.eod_token in the recipe to one of its special tokens: {', '.join(special) or 'none'}."
    )


def _write_config(folder: Path, config: dict[str, Any], eod_token: str) -> None:
    """tokenizer_config.json, such that AutoTokenizer loads the folder offline and without remote code."""
    kept = {key: value for key, value in config.items() if key not in ("auto_map", "tokenizer_file", "name_or_path")}
    kept |= {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eod_token}
    kept.setdefault("clean_up_tokenization_spaces", False)
    (folder / "tokenizer_config.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
