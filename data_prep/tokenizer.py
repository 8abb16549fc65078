"""Tokenizers: a byte-level BPE trained on the corpus, or an existing one, in the folder that goes with the shards."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.fast_tokenizer import PROBES, EngineDiffers, encode_slowly, first_difference, open_fast
from data_prep.long_encoding import encode_pieces
from data_prep.long_text import LongText, pieces
from data_prep.shards import tokenizer_fingerprint
from data_prep.shards.vocabulary import KNOWN_EOD
from data_prep.special_tokens import as_text, is_ordinary

DEFAULT_EOD = "<|endoftext|>"
STRETCH_BYTES = 1 << 16
"""Of a document, what the fast engine is checked on, at its beginning and in its middle."""
FED_BYTES = 1 << 16
"""Pieces of long texts that the trainer is given."""
MAX_WORD_BYTES = 256
"""Length of a word in training."""
_STRETCH = re.compile(rf" ?\S{{{MAX_WORD_BYTES // 4},}}|\s{{{MAX_WORD_BYTES // 4},}}")
"""What may hold a word of more bytes, at four bytes a character."""
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class TokenizerError(ValueError):
    """A tokenizer cannot be trained, loaded or used; the message says why and what to do."""


class CorpusTokenizer:
    """A tokenizer as the corpus build uses it."""

    def __init__(self, folder: Path, fast: bool = True):
        """Open a tokenizer folder that `train` or `adopt` wrote. `fast`: encode with gigatoken where its ids are the same."""
        self.folder = folder
        content = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self._tokenizer = Tokenizer.from_str(content)
        self.eod_token: str = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["eos_token"]
        self._encoder, definition = _encoder(json.loads(content), self._tokenizer, self.eod_token)
        self._fast, self.slow_because = open_fast(definition, self._encoder) if fast else (None, "as asked")
        """`slow_because`: why Hugging Face's tokenizers do the work, when they do."""
        self.forced_cuts = 0
        """Cuts in long texts at places that were not proven to leave the ids as they are."""
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
            ids, offsets = self._fast.encode(texts)
        else:
            found = encode_slowly(self._encoder, texts)
            offsets = np.zeros(len(texts) + 1, np.int64)
            np.cumsum([len(each) for each in found], out=offsets[1:])
            ids = np.concatenate([np.empty(0, np.uint32), *found])
        ends = np.flatnonzero(ids == self.eod_id)
        if len(ends):
            text = texts[int(np.searchsorted(offsets, ends[0], side="right")) - 1]
            raise TokenizerError(
                f"the tokenizer makes its end-of-document token {self.eod_token!r} of text: documents would end where they do "
                f"not. Set tokenizer.eod_token to one that no text makes. The text: {text[:80].decode(errors='replace')!r}"
            )
        return ids, offsets

    def encode_long(self, text: LongText) -> Iterator[np.ndarray]:
        """Token ids (uint32) of a long text, in pieces; see data_prep.long_encoding. Counts `forced_cuts`."""

        def encode(texts: list[bytes]) -> list[np.ndarray]:
            ids, offsets = self.encode_batch([bytes(text) for text in texts])
            return np.split(ids, offsets[1:-1])

        def forced() -> None:
            self.forced_cuts += 1

        return encode_pieces(text.data, encode, forced)

    def check(self, texts: list[bytes] | list[LongText]) -> None:
        """Compare the fast engine with Hugging Face's on stretches of these texts. Raises EngineDiffers."""
        if self._fast is None:
            return
        stretches = [stretch for text in texts for stretch in _stretches(text.data if isinstance(text, LongText) else text)]
        difference = first_difference(self._fast, self._encoder, stretches)
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


def _encoder(definition: dict[str, Any], tokenizer: Tokenizer, eod_token: str) -> tuple[Tokenizer, dict[str, Any]]:
    """(the tokenizer as documents are encoded with, its definition): no text becomes a special token."""
    changed = as_text(definition, eod_token)
    if changed is not definition:
        tokenizer = Tokenizer.from_str(json.dumps(changed))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None  # BPE-dropout (Provilkov et al. 2020) is random: no two builds would be equal
    return tokenizer, changed


def _stretches(text: bytes | bytearray) -> Iterator[str]:
    """The beginning of a text, and what stands in its middle: where a cut leaves half a character, that is left out."""
    yield text[:STRETCH_BYTES].decode("utf-8", "ignore")
    if len(text) > 2 * STRETCH_BYTES:
        yield text[len(text) // 2 :][:STRETCH_BYTES].decode("utf-8", "ignore")


def train(texts: Iterable[str | LongText], vocab_size: int, eod_token: str | None, folder: Path) -> int:
    """Train a byte-level BPE (Sennrich et al. 2016 over bytes, as GPT-2) and write its folder. Returns how many words were cut.

    All 256 bytes are in the vocabulary, so nothing is unknown. The same texts in the same order give the same file. Training
    takes a time quadratic in the longest word, so words of more than MAX_WORD_BYTES are cut into such pieces, for training
    alone: the tokenizer knows of no limit.
    """
    eod_token = eod_token or DEFAULT_EOD
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = training_words()
    counted = _CountLongWords(words)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(eod_token, special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(counted.pass_on(_small(texts)), trainer)
    tokenizer.pre_tokenizer = words
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    _write_config(folder, {}, eod_token)
    return counted.count


def _small(texts: Iterable[str | LongText]) -> Iterator[str]:
    """The texts, long ones in pieces: the trainer holds 256 of what it gets at a time."""
    for text in texts:
        for piece in pieces(text):
            yield from pieces(piece, FED_BYTES) if isinstance(text, LongText) else (piece,)


def training_words() -> pre_tokenizers.PreTokenizer:
    """GPT-2's words over bytes, the long ones in pieces of MAX_WORD_BYTES."""
    limit = pre_tokenizers.Split(Regex(f".{{{MAX_WORD_BYTES}}}"), "isolated")
    return pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False), limit])


class _CountLongWords:
    """Counts the words that training cuts, in the few stretches of a text that may hold one."""

    def __init__(self, words: pre_tokenizers.PreTokenizer):
        self.count = 0
        self._words = words

    def pass_on(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            for stretch in _STRETCH.findall(text):
                self.count += sum(len(word) > MAX_WORD_BYTES for word, _ in self._words.pre_tokenize_str(stretch))
            yield text


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
    _require_no_eod_of_text(file, tokenizer, eod_token)
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


def _require_no_eod_of_text(file: Path, tokenizer: Tokenizer, eod_token: str) -> None:
    """Raise TokenizerError when texts become end-of-document tokens, or cannot be encoded at all."""
    definition = json.loads(file.read_text(encoding="utf-8"))
    advice = "Set tokenizer.eod_token in the recipe to a special token that no text makes, or add one to the tokenizer."
    if is_ordinary(definition, eod_token):
        raise TokenizerError(
            f"{file}: {eod_token!r} is an ordinary piece of text and cannot mark where documents end. {advice}"
        )
    encoder, _ = _encoder(definition, tokenizer, eod_token)
    eod_id = tokenizer.token_to_id(eod_token)
    try:
        for text in (*PROBES, f"a {eod_token} b {eod_token}{eod_token}"):
            if eod_id in encoder.encode(text, add_special_tokens=False).ids:
                raise TokenizerError(f"{file}: it makes {eod_token!r}, the end of a document, of the text {text!r}. {advice}")
    except TokenizerError:
        raise
    except Exception as error:  # the library raises Exception itself where a model has no token for what it does not know
        raise TokenizerError(f"{file}: it cannot encode every text, as a corpus needs: {error}") from None


def _write_config(folder: Path, config: dict[str, Any], eod_token: str) -> None:
    """tokenizer_config.json, such that AutoTokenizer loads the folder offline and without remote code."""
    kept = {key: value for key, value in config.items() if key not in ("auto_map", "tokenizer_file", "name_or_path")}
    kept |= {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eod_token}
    kept.setdefault("clean_up_tokenization_spaces", False)
    (folder / "tokenizer_config.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
