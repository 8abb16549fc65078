"""Special tokens that a document spells, by chance or malice, are to be read as text.

tokenizers' `encode_special_tokens` only keeps them from being looked for in the text. A model may still make them of it:
Unigram takes any piece of its vocabulary, WordLevel and WordPiece any word, BPE what its merges (or `ignore_merges`) lead to.
So their entries in the vocabulary are renamed, with ids and scores as they are, to what no text holds.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

_MARKER = re.compile(r"[<\[{(|].*[>\]})|]|[^\w\s]{2,}.*", re.DOTALL)


def as_text(definition: dict[str, Any], eod_token: str) -> dict[str, Any]:
    """A tokenizer.json's content, such that no text is encoded as a special token, nor as `eod_token`, whatever it is.

    The same object where that is so already.
    """
    model, added = definition["model"], definition.get("added_tokens") or []
    # a single character that is declared special, as "·" in one published file, is what texts are made of all the same
    names = {token["content"] for token in added if token["special"] and len(token["content"]) > 1} | {eod_token}
    looked_for = any(token["content"] == eod_token and not token["special"] for token in added)
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model.get("merges") or []]
    prefix = len(model.get("continuing_subword_prefix") or "")
    made = {one + other[prefix:] for one, other in merges} & names if merges else set()
    if _is_bpe(model) and not (looked_for or made or model.get("ignore_merges")):
        return definition
    # drawn at random, so that no text can spell it; of hexadecimal digits, which every byte-level alphabet has
    unspelt = {name: secrets.token_hex(16) + name for name in names}

    def rename(name: Any) -> Any:
        return unspelt.get(name, name) if isinstance(name, str) else name

    vocabulary = model["vocab"]
    renamed = {**model, "unk_token": rename(model["unk_token"])} if "unk_token" in model else dict(model)
    if isinstance(vocabulary, dict):
        renamed["vocab"] = {rename(name): index for name, index in vocabulary.items()}
    else:
        renamed["vocab"] = [[rename(name), *score] for name, *score in vocabulary]
    if merges:
        renamed["merges"] = [
            [one, other] for one, other in merges if not {one, other, one + other[prefix:]} & names
        ]  # what led to a special token ends one merge before
    tokens = [{**token, "content": rename(token["content"])} for token in added]
    return {**definition, "model": renamed, "added_tokens": tokens, "post_processor": None}


def _is_bpe(model: dict[str, Any]) -> bool:
    return model.get("type") == "BPE" or ("type" not in model and "merges" in model)


def is_ordinary(definition: dict[str, Any], token: str) -> bool:
    """Whether a token is one that texts are made of: neither added nor written like a marker, as <s>, [SEP] and |end| are."""
    added = {entry["content"] for entry in definition.get("added_tokens") or []}
    return token not in added and not _MARKER.fullmatch(token)
