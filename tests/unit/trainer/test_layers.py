"""A model taken apart is the stock model, as a row of layers in one process; what differs is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from tests.models import EAGER, FAMILIES, MORE_FAMILIES
from trainer.model import build, document_mask, layers, pipeline_probe, recompute, routing
from trainer.model.families import UnsupportedModelError, anatomy

KINDS = (
    "apertus", "arcee", "bloom", "cohere", "cohere2", "deepseek_v3", "deepseek_v4", "exaone4", "falcon", "flex_olmo",
    "gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "glm4", "glm_moe_dsa", "gpt2", "gpt_bigcode",
    "gpt_neox", "gptj", "granite", "helium", "hy_v4", "llama", "mistral", "mixtral", "olmo2", "olmo3", "opt", "phi", "phi3",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
"""Of those that bench/families.py goes through."""
ALL = {**FAMILIES, **MORE_FAMILIES}


def attention(kind: str) -> str:
    return "eager" if kind in EAGER else "sdpa"


def small(kind: str, **changes) -> torch.nn.Module:
    config = CONFIG_MAPPING[kind](**changes)
    if hasattr(config, "output_router_logits"):
        config.output_router_logits = True
    return pipeline_probe.small_model(config, attention(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_layers_is_the_stock_model(kind):
    model = small(kind)
    experts = layers.Stock(model).experts
    assert (experts is not None) == (kind in {"deepseek_v4", "flex_olmo", "mixtral", "qwen2_moe", "qwen3_moe"})
    assert max(pipeline_probe.compare(model, layers.row(model))) <= 1e-5


@pytest.mark.parametrize(
    ("kind", "travels"),
    [
        ("deepseek_v4", [{"tokens"}, {"tokens"}, {"tokens"}, {"tokens"}, set()]),  # its first 3 layers route by them
        ("gemma4_text", [{"given"}, {"given", "shared"}, {"given", "shared"}, {"given", "shared"}, set()]),
        ("glm_moe_dsa", [set(), {"output"}, {"output"}, {"output"}, set()]),
        ("llama", [set()] * 5),
    ],
)
def test_what_blocks_take_from_tokens_and_from_each_other_travels(kind, travels):
    """Before each block and after the last; and the stages that get it give what the whole model gives."""
    config = build.load_config({**ALL[kind], "vocab_size": "auto"}, 300, 0, 32)
    model = pipeline_probe.filled(build.skeleton(config, attention(kind)))
    row, states = layers.row(model), [torch.randint(300, (2, 32), generator=torch.Generator().manual_seed(0))]
    for layer in row[:-2]:
        states.append(layer(states[-1]))
    assert [{name.split()[0] for name in state.others} for state in states[2:]] == travels
    assert pipeline_probe.compare(model, row) == (0.0, 0.0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "opt"])
def test_tied_and_untied_heads_with_dropout(kind, tied):
    dropout = {"gpt2": "resid_pdrop", "opt": "dropout", "llama": "attention_dropout", "gpt_neox": "hidden_dropout"}[kind]
    model = small(kind, tie_word_embeddings=tied, **{dropout: 0.3})
    assert max(pipeline_probe.compare(model, layers.row(model))) <= 1e-5
    tokens = torch.zeros(pipeline_probe.SHAPE, dtype=torch.int64)
    assert not torch.allclose(model(tokens).logits, model.eval()(tokens).logits)  # there was some


@pytest.mark.parametrize("kind", ["bloom", "gemma3_text", "gemma4_text", "gpt2", "llama", "mistral", "opt"])
def test_documents_stay_apart_in_a_row_of_layers(kind):
    document_mask.install()
    config = build.load_config({**ALL[kind], "vocab_size": "auto"}, 300, 0, 32)
    model = build.skeleton(config, attention(kind))
    list(build.materialise(model, dict(build.chunks(model)), "cpu", torch.float32, seed=1))
    model.tie_weights()
    tokens = torch.randint(300, (2, 32), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(13), torch.arange(19)]).repeat(2, 1)
    with document_mask.DocumentMasks(model)(positions, torch.device("cpu")) as options:
        stock = model(input_ids=tokens, use_cache=False, **options).logits
    apart = layers.run(layers.row(model), (tokens, positions))
    assert torch.equal(apart, stock)
    assert not torch.allclose(layers.run(layers.row(model), tokens), stock, atol=1e-4)


def test_longrope_in_stages_turns_by_the_window_as_the_stock_model():
    """Its short factors up to the original positions, the long ones beyond, whatever windows came before."""
    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 8,
        "long_factor": [float(n) for n in range(1, 9)],
        "original_max_position_embeddings": 16,
    }
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    positions = {"max_position_embeddings": 64, "original_max_position_embeddings": 16, "num_key_value_heads": 4}
    spec = {"model_type": "phi3", "vocab_size": 300, **sizes, **positions, "rope_parameters": scaling, "pad_token_id": None}
    model = build.skeleton(build.load_config(spec, 300, 0, 64))
    list(build.materialise(model, dict(build.chunks(model)), "cpu", torch.float32, seed=1))
    stages = [layers.row(copy.deepcopy(model)) for _ in range(2)]  # each rank has rotary embeddings of its own
    tokens = torch.randint(300, (2, 64), generator=torch.Generator().manual_seed(0))
    for length in (12, 40, 16, 17, 64, 12):
        stock = model(tokens[:, :length], use_cache=False).logits
        carried = tokens[:, :length]
        for layer in (*stages[0][:3], *stages[1][3:]):
            carried = layer(carried)
        assert torch.equal(carried, stock)
        short = model(tokens[:, :12], use_cache=False).logits
        assert torch.allclose(stock[:, :12], short, atol=1e-4) == (length <= 16)


def test_what_differs_is_refused_with_numbers(monkeypatch):
    config = build.load_config({**ALL["gemma3_text"], "vocab_size": "auto"}, 300, 0, 32)
    pipeline_probe.check(config, "sdpa")
    whole = layers.Stock.calls
    monkeypatch.setattr(layers.Stock, "calls", lambda *those: whole(*those)[:1] * 4)  # each block as the first: sliding
    with pytest.raises(UnsupportedModelError, match=r'"gemma3_text" cannot run in pipeline stages: .* logits \d\.\de-\d+ and'):
        pipeline_probe.check(config, "sdpa")


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("xlm", {}, "its forward pass changes hidden states between blocks"),
        ("roberta", {"is_decoder": True}, "5 parameters belong to no stage, first lm_head.bias"),
        ("opt", {"layerdrop": 0.1}, "it skips blocks at random"),
        ("phi", {"tie_word_embeddings": True}, "has a bias of its own"),
        ("hrm_text", {}, "its forward pass changes hidden states between blocks"),
    ],
)
def test_what_the_pipeline_cannot_run_is_refused(kind, changes, reason):
    with pytest.raises(UnsupportedModelError, match=reason) as refusal:
        pipeline_probe.check(CONFIG_MAPPING[kind](**changes), attention(kind))
    assert "ZeRO runs any causal LM" in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "count", "changes"),
    [
        ("gpt2", 4, {}),
        ("gemma3_text", 4, {}),
        ("gemma3n_text", 7, {}),  # sliding or not, sparse or not, the last with keys and values of others
        ("gemma4_text", 5, {"num_kv_shared_layers": 12}),
        ("qwen2_moe", 4, {}),
    ],
)
def test_small_configurations_keep_every_kind_of_layer(kind, count, changes):
    config = CONFIG_MAPPING[kind](**changes)
    small_one = pipeline_probe.small_config(config)
    assert small_one.num_hidden_layers == count and small_one.hidden_size == 64
    assert set(getattr(small_one, "layer_types", None) or ()) == set(getattr(config, "layer_types", None) or ())
    assert sum(p.numel() for p in build.skeleton(small_one).parameters()) < 10**6
    shared = [getattr(one, "kv_sharing_modes", ()) for one in (config, small_one)]
    assert {"store", "reuse"} & set(shared[0]) == {"store", "reuse"} & set(shared[1])


def test_small_configurations_keep_what_each_layer_has_of_its_own():
    config = CONFIG_MAPPING["dots3_note_text"]()
    small_one = pipeline_probe.small_config(config)
    heads = [(layer.num_attention_heads, layer.qk_nope_head_dim) for layer in small_one.per_layer_config]
    assert heads == [(4, 128), (4, 128), (4, 192), (4, 128)] and small_one.hidden_size == 64  # head_dim follows from these
    assert small_one.layer_types == ["indexed_attention", "indexed_attention", "sliding_attention", "indexed_attention"]


def test_names_cover_the_stock_model_and_stages_share_nothing():
    model = build.skeleton(build.load_config({**ALL["opt"], "vocab_size": "auto"}, 300, 0, 32))
    named = [layer.hugging_face_name(name) for layer in layers.row(model) for name, _ in layer.named_parameters()]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    assert anatomy(model).before == ("model.decoder.embed_positions", "model.decoder.project_in")


def test_the_auxiliary_loss_is_hugging_faces():
    model = small("mixtral", router_aux_loss_coef=0.5)
    experts = routing.Experts.of(model)
    gates = [
        torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_() for seed in range(experts.layers)
    ]
    sums = experts.nothing(torch.device("cpu"))
    for gate in gates:  # layer by layer, as the stages do
        sums = experts.add(sums, [gate])
    ours, theirs = experts.loss(sums, tokens=6), 0.5 * load_balancing_loss_func(tuple(gates), 4, 2)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for one, other in zip(torch.autograd.grad(ours, gates), torch.autograd.grad(theirs, gates), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8) and one.abs().max() > 0
    silent = routing.without_value(experts.loss(experts.add(experts.nothing(torch.device("cpu")), gates), tokens=6))
    assert silent.item() == 0.0 and torch.autograd.grad(silent, gates)[0].abs().max() > 0
    model.config.output_router_logits = False
    assert routing.Experts.of(model) is None


class Products(TorchDispatchMode):
    """Counts matrix products and all operations."""

    def __init__(self):
        super().__init__()
        self.products = self.all = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.all += 1
        self.products += operation in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return operation(*arguments, **(options or {}))


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_activation_checkpointing_computes_again_and_changes_nothing(kind):
    counts = {}
    for setting in (False, True, 2, "selective"):
        model = small(kind)
        row = layers.row(model)
        for block in row[2:-2]:
            block.recompute = recompute.of_block(setting, block.index)
        assert max(pipeline_probe.compare(model, row)) <= 1e-5
        with Products() as count:
            pipeline_probe.compare(model, row)
        other = small(kind)
        recompute.enable(other, setting)
        assert pipeline_probe.compare(other, row=layers.row(other))[0] == 0.0
        counts[setting] = count
    assert counts[True].products > counts[2].products > counts[False].products == counts["selective"].products
    assert counts["selective"].all > counts[False].all
