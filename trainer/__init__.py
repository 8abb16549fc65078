"""Trains GPT-style models from token shards with DeepSpeed."""
