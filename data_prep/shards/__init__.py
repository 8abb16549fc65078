"""The contract between the two halves: data_prep writes token shards, trainer reads them, nothing else passes.

numpy, xxhash and the standard library only; fsspec where shards are remote.
"""

from data_prep.shards.cache import CacheSettings
from data_prep.shards.fingerprint import tokenizer_fingerprint
from data_prep.shards.format import ShardError, ShardHeader, token_dtype
from data_prep.shards.megatron import MegatronShards, open_shards
from data_prep.shards.megatron_format import MegatronWriter, megatron_dtype
from data_prep.shards.reader import TokenShards
from data_prep.shards.windows import WindowBatch, Windows
from data_prep.shards.writer import ShardWriter, remove_manifest, write_manifest

__all__ = [
    "CacheSettings",
    "MegatronShards",
    "MegatronWriter",
    "ShardError",
    "ShardHeader",
    "ShardWriter",
    "TokenShards",
    "WindowBatch",
    "Windows",
    "megatron_dtype",
    "open_shards",
    "remove_manifest",
    "token_dtype",
    "tokenizer_fingerprint",
    "write_manifest",
]
