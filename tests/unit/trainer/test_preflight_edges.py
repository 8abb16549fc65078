"""More of what stands before a run: damaged and mixed-up inputs. Whatever is refused, no byte on disk changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.shards import ShardWriter, tokenizer_fingerprint, write_manifest
from tests.corpora import FINGERPRINT, write_shards
from tests.models import FAMILIES, run_file
from trainer import run_folder
from trainer.__main__ import main as trainer
from trainer.data.loader import Loader
from trainer.preflight import prepare
from trainer.state import TrainState

TOKENIZER = {"model": {"type": "BPE", "vocab": {"a": 0}}, "truncation": None}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("corpus") / "shards" / "train")


def plan(tmp_path: Path, config: dict[str, Any], world_size: int = 2):
    (tmp_path / "run.json").write_text(json.dumps(config))
    return prepare(tmp_path / "run.json", [], world_size)


def refused(tmp_path: Path, config: dict[str, Any], *parts: str, world_size: int = 2) -> None:
    (tmp_path / "run.json").write_text(json.dumps(config))
    before = {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError) as refusal:
        prepare(tmp_path / "run.json", [], world_size)
    for part in parts:
        assert part in str(refusal.value)
    assert {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")} == before


def test_a_folder_of_shards_whose_build_did_not_finish(tmp_path):
    folder = write_shards(tmp_path / "train")
    (folder / "manifest.json").unlink()
    refused(tmp_path, run_file(tmp_path / "run", folder), "data.train", "no manifest.json", "did not finish", "data_prep run")


def test_a_manifest_that_was_edited(tmp_path):
    folder = write_shards(tmp_path / "train")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"tokens"', '"token"', 1))
    refused(tmp_path, run_file(tmp_path / "run", folder), "data.train", "manifest.json", "checksum")


def test_a_shard_of_another_build_under_the_same_name(tmp_path):
    folder, other = write_shards(tmp_path / "train"), write_shards(tmp_path / "other", seed=1)
    shutil.copyfile(other / "shard-00001.tokens", folder / "shard-00001.tokens")
    refused(tmp_path, run_file(tmp_path / "run", folder), "data.train", "shard-00001.tokens", "replaced after the build")


def test_selective_recomputation_of_slices_under_zero_3(tmp_path, shards):
    model = {"config": {**FAMILIES["llama"], "vocab_size": "auto"}, "activation_checkpointing": "selective"}
    config = run_file(tmp_path / "run", shards, model=model, parallel={"zero_stage": 3, "tensor": 2})
    refused(tmp_path, config, '"selective" with parallel.tensor and parallel.zero_stage 3', "to true, or zero_stage to 1 or 2")


def test_a_run_keeps_the_keys_of_deepspeed_that_change_its_numbers(tmp_path, shards):
    def identity(deepspeed: dict[str, Any]) -> dict[str, Any]:
        return plan(tmp_path, run_file(tmp_path / "run", shards, deepspeed=deepspeed)).record["identity"]

    usual, cast = identity({"steps_per_print": 7}), identity({"torch_autocast": {"enabled": True}, "prescale_gradients": True})
    assert "deepspeed" not in usual
    assert cast == usual | {"deepspeed": {"torch_autocast": {"enabled": True}, "prescale_gradients": True}}


@pytest.mark.parametrize("state", ["missing", "half"])
def test_validation_shards_are_looked_at_as_well(tmp_path, shards, state):
    held_out = write_shards(tmp_path / "validation")
    shard = held_out / "shard-00000.tokens"
    shard.write_bytes(shard.read_bytes()[:5000]) if state == "half" else shard.unlink()
    refused(tmp_path, run_file(tmp_path / "run", shards, held_out), "data.validation", "shard-00000.tokens")


def test_validation_with_another_vocabulary(tmp_path, shards):
    held_out = write_shards(tmp_path / "validation", vocab_size=200)
    refused(tmp_path, run_file(tmp_path / "run", shards, held_out), "data.validation", "vocab_size 200, not 300")


def test_validation_on_what_is_trained(tmp_path, shards):
    copy = shutil.copytree(shards, tmp_path / "copy")
    config = run_file(tmp_path / "run", shards, copy)
    said = f"data.validation ({copy}) and data.train ({shards}) are the same shards"
    refused(tmp_path, config, said, "held out", "set data.validation to null")
    other = write_shards(tmp_path / "other", seed=7)
    config["data"]["sources"] = {"a": {"shards": str(other)}, "b": {"shards": str(shards)}}
    config["data"]["train"] = None
    refused(tmp_path, config, f"and data.sources.b.shards ({shards}) are the same shards")


def test_empty_validation(tmp_path, shards):
    held_out = tmp_path / "validation"
    held_out.mkdir()
    with ShardWriter(held_out / "shard-00000.tokens", 300, eod_id=0, tokenizer_fingerprint=FINGERPRINT) as writer:
        writer.add(np.empty(0, np.int64), 0)
    write_manifest(held_out, ["shard-00000.tokens"])
    refused(tmp_path, run_file(tmp_path / "run", shards, held_out), "data.validation is empty", "null", "hold out more")


@pytest.mark.parametrize("named", [True, False], ids=["named", "beside the shards"])
def test_the_tokenizer_must_be_that_of_the_shards(tmp_path, named):
    folder = tmp_path / ("elsewhere" if named else "tokenizer")
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    own = tokenizer_fingerprint(folder / "tokenizer.json")
    train = write_shards(tmp_path / "shards" / "train", fingerprint=own)
    config = run_file(tmp_path / "run", train)
    config["data"]["tokenizer"] = str(folder) if named else None
    assert plan(tmp_path, config).record["tokenizer_folder"] == str(folder)
    (folder / "tokenizer.json").write_text(json.dumps({**TOKENIZER, "truncation": {"max_length": 9}}))
    assert plan(tmp_path, config).record["tokenizer_folder"] == str(folder)
    (folder / "tokenizer.json").write_text(json.dumps({**TOKENIZER, "model": {"type": "Unigram"}}))
    refused(tmp_path, config, "data.tokenizer", "another tokenizer", own[:16], "build shards with this one")
    if named:
        (folder / "tokenizer.json").unlink()
        refused(tmp_path, config, "data.tokenizer", "holds no tokenizer.json")


def test_weights_with_another_tokenizer(tmp_path, shards):
    spec = {**FAMILIES["llama"], "vocab_size": 320, "max_position_embeddings": 32, "tie_word_embeddings": True}
    weights = tmp_path / "weights"
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**spec)).save_pretrained(weights)
    config = run_file(tmp_path / "run", shards, model={"init_from": str(weights)})
    assert plan(tmp_path, config).hf_config.vocab_size == 320
    del config["model"]["config"]
    assert plan(tmp_path, config).hf_config.hidden_size == 64
    (weights / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    refused(tmp_path, config, "model.init_from", "another tokenizer", FINGERPRINT[:16])


def test_attention_that_does_not_exist(tmp_path, shards):
    refused(tmp_path, run_file(tmp_path / "run", shards, model={"attention": "sdpaa"}), '"llama"', "sdpaa", "sdpa")


def test_a_model_that_is_no_causal_language_model(tmp_path, shards):
    config = run_file(tmp_path / "run", shards)
    config["model"]["config"] = {"model_type": "t5", "vocab_size": "auto"}
    refused(tmp_path, config, 'a "t5" model is no causal language model, but encoder and decoder', '"llama"')
    config["model"]["config"]["max_position_embeddings"] = 32  # the first thing to say is still what it is
    refused(tmp_path, config, 'a "t5" model is no causal language model')
    config["model"]["config"]["model_type"] = "bert"
    config["model"]["config"]["num_key_value_heads"] = 2
    refused(tmp_path, config, 'a "bert" model with is_decoder false', 'Set "is_decoder": true')
    config["model"]["config"]["is_decoder"] = True
    refused(tmp_path, config, 'a "bert" model has no num_key_value_heads', "Remove what it does not have")
    config["model"]["config"] |= {"model_type": "mamba"}
    del config["model"]["config"]["is_decoder"]
    refused(tmp_path, config, 'a "mamba" model has no max_position_embeddings, num_key_value_heads')
    config["model"]["config"]["hiden_size"] = 2
    refused(tmp_path, config, 'model.config.hiden_size: unknown key of a "mamba" configuration. Did you mean "hidden_size"?')


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_hidden_layers", 0, "model.config.num_hidden_layers is 0, not at least 1."),
        ("hidden_act", "geluu", 'hidden_act is "geluu", which transformers does not know. Did you mean "gelu"?'),
        ("hidden_act", "nope", "Activations are gelu, "),
        ("eos_token_id", 99999, "model.config.eos_token_id is 99999, which is no token of the model's 320"),
        ("eos_token_id", [3, -1], "model.config.eos_token_id is -1"),
    ],
)
def test_values_that_no_model_has(tmp_path, shards, key, value, said):
    config = run_file(tmp_path / "run", shards)
    config["model"]["config"][key] = value
    refused(tmp_path, config, said)


def test_attention_that_is_not_installed(tmp_path, shards):
    config = run_file(tmp_path / "run", shards, model={"attention": "flash_attention_2"})
    refused(tmp_path, config, "FlashAttention2", 'Install it, or set model.attention to "sdpa".')


@pytest.mark.parametrize(
    ("section", "key"), [("run", "folder"), ("model", "init_from"), ("data", "train"), ("model", "config")]
)
def test_names_are_not_empty(tmp_path, shards, section, key):
    refused(tmp_path, run_file(tmp_path / "run", shards, **{section: {key: ""}}), f"{section}.{key}: must not be empty.")


def test_weights_from_a_folder_that_does_not_exist(tmp_path, shards):
    config = run_file(tmp_path / "run", shards, model={"init_from": "runs/none"})
    refused(tmp_path, config, "model.init_from: runs/none: no such folder")
    del config["model"]["config"]
    refused(tmp_path, config, "model.init_from: runs/none: no such folder")


def test_stages_fit_the_layers_and_the_ranks_at_once(tmp_path, shards):
    config = run_file(tmp_path / "run", shards, parallel={"pipeline_stages": 5})
    refused(tmp_path, config, "the model has 4 layers", "On 4 ranks, set pipeline_stages to one of 1, 2, 4.", world_size=4)
    refused(tmp_path, config, "On 5 ranks, set pipeline_stages to 1.", world_size=5)
    config["parallel"]["pipeline_stages"] = 2
    refused(tmp_path, config, "Start 4 or 6 ranks, or set pipeline_stages to 1.", world_size=5)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("phi3", 'pad_token_id is 32000, which is no token. Set "pad_token_id": null'), ("nemotron", "cannot be built")],
)
def test_defaults_that_a_model_class_cannot_be_built_with(tmp_path, shards, kind, said):
    config = run_file(tmp_path / "run", shards)
    config["model"]["config"] = {"model_type": kind, "vocab_size": "auto", "num_hidden_layers": 2}
    refused(tmp_path, config, said)


def test_key_heads_left_at_the_default_of_another_size(tmp_path, shards):
    config = run_file(tmp_path / "run", shards)
    config["model"]["config"] = {"model_type": "gemma", "vocab_size": "auto", "hidden_size": 64, "num_attention_heads": 4}
    refused(tmp_path, config, "4 heads (num_attention_heads), no multiple of its 16 key heads", "divisor of 4")


@pytest.mark.parametrize("number", ["0", "-2", "x"])
def test_a_number_of_devices_that_is_none(number, capsys):
    with pytest.raises(SystemExit):
        trainer(["check", "run.json", "--world-size", number])
    assert f'"{number}" is no number of devices' in capsys.readouterr().err


def test_a_window_longer_than_the_positions_in_weights(tmp_path, shards):
    spec = {**FAMILIES["gpt2"], "vocab_size": 320, "n_positions": 16}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**spec)).save_pretrained(tmp_path / "weights")
    config = run_file(tmp_path / "run", shards)
    config["model"] = {"init_from": str(tmp_path / "weights")}
    refused(tmp_path, config, "data.sequence_length is 32", "16 positions", "at most 16")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_effective_config_continues_a_run_that_started_from_a_folder(tmp_path, shards, family):
    positions = {"n_positions": 32} if family == "gpt2" else {"max_position_embeddings": 32}
    AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**{**FAMILIES[family], **positions, "vocab_size": 320, "eos_token_id": 5, "bos_token_id": None})
    ).save_pretrained(tmp_path / "weights")
    config = run_file(tmp_path / "run", shards)
    config["model"] = {"init_from": str(tmp_path / "weights")}
    first = plan(tmp_path, config)
    run_folder.take(first.folder, first.record).close()
    again = plan(tmp_path, first.effective_config())
    assert again.record == first.record == run_folder.read_record(first.folder)
    assert (again.start, again.hf_config.eos_token_id) == (TrainState(), 5)


@settings(max_examples=15, deadline=None)
@given(total=st.integers(2000, 200_000))
def test_the_last_step_is_the_first_to_reach_the_total(shards, tmp_path_factory, total):
    folder = tmp_path_factory.mktemp("length")
    decided = plan(folder, run_file(folder / "run", shards, schedule={"total_tokens": total, "warmup_tokens": 0}))
    assert (decided.total_steps - 1) * 512 < total <= decided.total_steps * 512
    assert f"{decided.total_steps:,} steps, {total:,} tokens" in decided.describe()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"optimizer": {"learning_rate": 2e-3}}, "optimizer.learning_rate: 0.001 in the run folder, 0.002"),
        ({"batch": {"micro_batch_size": 4}}, "micro_batch_size: 2 in the run folder, 4"),
        ({"parallel": {"zero_stage": 2}}, "zero_stage: 0 in the run folder, 2"),
        ({"deepspeed": {"bf16": {"enabled": True}}}, "precision: fp32 in the run folder, bf16"),
        ({"model": {"attention": "eager"}}, "attention: sdpa in the run folder, eager"),
        ({"data": {"sequence_length": 16}}, "sequence_length: 32 in the run folder, 16"),
    ],
)
def test_what_would_bend_the_curve_is_another_run(tmp_path, shards, change, key):
    first = plan(tmp_path, run_file(tmp_path / "run", shards))
    run_folder.take(first.folder, first.record).close()
    refused(tmp_path, run_file(tmp_path / "run", shards, **change), "holds another run", key, "Nothing was written")


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": {"total_tokens": 40 * 512}},
        {"checkpoint": {"every_steps": 3, "keep": 1}},
        {"evaluation": {"every_steps": 7}},
        {"monitor": {"log_every": 5}},
        {"deepspeed": {"wall_clock_breakdown": True}},
    ],
)
def test_what_may_change_on_the_way_does_not_stop_a_resume(tmp_path, shards, change):
    first = plan(tmp_path, run_file(tmp_path / "run", shards))
    run_folder.take(first.folder, first.record).close()
    assert plan(tmp_path, run_file(tmp_path / "run", shards, **change)).record == first.record


def test_the_same_corpus_elsewhere_is_the_same_run(tmp_path, shards):
    first = plan(tmp_path, run_file(tmp_path / "run", shards))
    run_folder.take(first.folder, first.record).close()
    shutil.copytree(shards, tmp_path / "moved")
    assert plan(tmp_path, run_file(tmp_path / "run", tmp_path / "moved")).record["identity"] == first.record["identity"]


def test_shards_behind_a_url_give_the_same_batches(tmp_path, shards):
    config = run_file(tmp_path / "run", shards)
    local = plan(tmp_path, config)
    held_out = write_shards(tmp_path / "validation", documents=6, shards=1, seed=5)
    config["data"] |= {
        "train": shards.as_uri(),
        "validation": held_out.as_uri(),
        "cache": {"folder": str(tmp_path / "cache"), "gigabytes": 0.01, "chunk_kib": 64},
    }
    remote = plan(tmp_path, config)
    assert remote.record["identity"] == local.record["identity"]
    one, other = (Loader(found.corpus, found.batches, 1).step(0) for found in (local, remote))
    assert one.digest == other.digest
    for ours, theirs in zip(one.micro_batches, other.micro_batches, strict=True):
        assert torch.equal(ours.inputs, theirs.inputs) and torch.equal(ours.targets, theirs.targets)
    assert len(list((tmp_path / "cache").rglob("*"))) > 3


def test_a_cache_that_cannot_be_and_a_url_that_is_wrong(tmp_path, shards):
    config = run_file(tmp_path / "run", shards)
    refused(tmp_path, config | {"data": config["data"] | {"cache": {"gigabytes": 0.001}}}, "16 chunks", "0.01678 GB")
    refused(tmp_path, config | {"data": config["data"] | {"cache": {"chunk_kib": 100}}}, "data.cache.chunk_kib", "64")
    wrong = config["data"] | {"train": (tmp_path / "nothing").as_uri()}
    refused(tmp_path, config | {"data": wrong}, "data.train", "no manifest.json")
