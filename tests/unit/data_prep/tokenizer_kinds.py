"""One small tokenizer of each kind, trained on a few sentences."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_prep import tokenizer

SPECIAL = ["<unk>", "<s>", "</s>"]
TEXTS = [f"the mill turns, {n} grains in the stone and the river below; das Wasser fließt, 水車が回る。" * 3 for n in range(40)]


def make(kind: str) -> Tokenizer:
    """A tokenizer of a kind of KINDS; its special tokens are <unk>, <s> and </s>."""
    return KINDS[kind]()


def adopt(kind: str, folder: Path, change=lambda definition: None) -> tokenizer.CorpusTokenizer:
    """The same as the corpus build uses it, with </s> at the end of documents; `change` edits its tokenizer.json first."""
    definition = json.loads(make(kind).to_str())
    change(definition)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "given.json").write_text(json.dumps(definition))
    tokenizer.adopt(folder / "given.json", "</s>", folder / "adopted")
    return tokenizer.CorpusTokenizer(folder / "adopted")


def _trained(made: Tokenizer, trainer) -> Tokenizer:
    made.train_from_iterator(TEXTS, trainer)
    return made


def _byte_level(**options) -> Tokenizer:
    made = Tokenizer(models.BPE(**options))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(made, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet))


def _ignoring_merges() -> Tokenizer:
    definition = json.loads(_byte_level().to_str())
    definition["model"]["ignore_merges"] = True
    definition["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "WhitespaceSplit"},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    return Tokenizer.from_str(json.dumps(definition))


def _merged() -> Tokenizer:
    """A BPE whose merges lead to </s>, which is no added token."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>"])
    made.train_from_iterator(["</s> a </s> b </s>x </s>y <s> c"] * 20 + TEXTS, trainer)
    assert made.token_to_id("</s>") is not None
    return made


def _byte_fallback() -> Tokenizer:
    """As Llama 2: no words, a space in front, unknown characters as bytes."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    _trained(made, trainers.BpeTrainer(vocab_size=600, special_tokens=[*SPECIAL, *(f"<0x{n:02X}>" for n in range(256))]))
    definition = json.loads(made.to_str())
    definition["pre_tokenizer"] = None
    definition["added_tokens"] = definition["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(definition))


def _unigram(byte_fallback: bool) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    extra = [f"<0x{n:02X}>" for n in range(256)] if byte_fallback else []
    _trained(made, trainers.UnigramTrainer(vocab_size=600, special_tokens=[*SPECIAL, *extra], unk_token="<unk>"))
    definition = json.loads(made.to_str())
    definition["model"]["byte_fallback"] = byte_fallback
    definition["added_tokens"] = definition["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(definition))


def _word_piece(words) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = words
    return _trained(made, trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL))


def _word_level() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _trained(made, trainers.WordLevelTrainer(special_tokens=SPECIAL))


def _not_special() -> Tokenizer:
    """</s> is an added token that is not special, as some files have it: it is looked for in texts."""
    definition = json.loads(_byte_level().to_str())
    for token in definition["added_tokens"]:
        token["special"] = False
    made = Tokenizer.from_str(json.dumps(definition))
    made.add_tokens([AddedToken("<|more|>", normalized=False)])
    return made


KINDS = {
    "BPE": _byte_level,
    "BPE, merges ignored": _ignoring_merges,
    "BPE, merged": _merged,
    "BPE, bytes": _byte_fallback,
    "BPE, not special": _not_special,
    "Unigram": lambda: _unigram(False),
    "Unigram, bytes": lambda: _unigram(True),
    "WordPiece": lambda: _word_piece(pre_tokenizers.BertPreTokenizer()),
    "WordPiece, spaces": lambda: _word_piece(pre_tokenizers.WhitespaceSplit()),
    "WordLevel": _word_level,
}
