"""Turns raw text into token shards. Imports neither torch, deepspeed nor trainer."""
