"""What a tokenizer folder says about ids, for token files that carry no word of their tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.shards.fingerprint import fingerprint_of, load_tokenizer
from data_prep.shards.format import ShardError

KNOWN_EOD = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>")
"""End-of-document tokens of well-known tokenizers, tried in this order when none is declared."""


@dataclass(frozen=True)
class Vocabulary:
    """The ids of a tokenizer."""

    size: int
    """Highest id + 1."""
    eod_id: int
    fingerprint: str
    """As in the shards: `tokenizer_fingerprint`."""


def read_vocabulary(folder: str | Path, eod_token: str | None = None) -> Vocabulary:
    """Read the vocabulary of a Hugging Face tokenizer folder, or of a tokenizer.json.

    The end-of-document token is `eod_token`, else the eos_token of tokenizer_config.json, else the first of KNOWN_EOD that
    there is. Raises ShardError when the folder holds no tokenizer.json, or none of its tokens can serve.
    """
    file = Path(folder) if Path(folder).is_file() else Path(folder) / "tokenizer.json"
    if not file.is_file():
        raise ShardError(
            f"{folder}: no tokenizer.json. `AutoTokenizer.from_pretrained(...).save_pretrained(folder)` writes one."
        )
    tokenizer = load_tokenizer(file)
    ids = _ids(tokenizer, file)
    for token in [eod_token] if eod_token else [_declared_eod(file.with_name("tokenizer_config.json")), *KNOWN_EOD]:
        if token in ids:
            return Vocabulary(max(ids.values()) + 1, ids[token], fingerprint_of(tokenizer))
    asked = f'"{eod_token}" is not in its vocabulary' if eod_token else "it declares no end-of-sequence token"
    raise ShardError(
        f'{file}: {asked}, so documents have no end. Put {{"eos_token": "..."}} with the end-of-document token of these '
        f"tokens into {file.with_name('tokenizer_config.json')}."
    )


def _ids(tokenizer: dict[str, Any], file: Path) -> dict[str, int]:
    """Token -> id. A Unigram model lists [token, score] in the order of ids, the other models map tokens to ids."""
    try:
        vocabulary = tokenizer["model"]["vocab"]
        if isinstance(vocabulary, list):
            vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
        ids = {**vocabulary, **{token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}}
    except (AttributeError, KeyError, TypeError, ValueError):
        ids = {}
    if not ids or not all(type(index) is int and index >= 0 for index in ids.values()):
        raise ShardError(f"{file}: no vocabulary can be read from it: neither a map from tokens to ids nor a list of tokens.")
    return ids


def _declared_eod(config: Path) -> str | None:
    if not config.is_file():
        return None
    try:
        declared = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
    except (AttributeError, OSError, ValueError) as error:
        raise ShardError(f"{config}: not readable: {error}") from None
    declared = declared.get("content") if isinstance(declared, dict) else declared
    return declared if isinstance(declared, str) else None
