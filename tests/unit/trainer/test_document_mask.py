"""Document masks: a packed window gives what each of its documents gives alone, in stock models of many families."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.models import FAMILIES
from trainer.model import build, document_mask, document_probe
from trainer.model.document_mask import DocumentMaskError, DocumentMasks, Documents
from trainer.model.loss import nll_sum

LENGTH = 32
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
MODELS = {
    "gpt2": FAMILIES["gpt2"],
    "gpt_neox": FAMILIES["gpt_neox"],
    "llama": FAMILIES["llama"],
    "mistral, window 5": {"model_type": "mistral", **GROUPED, "sliding_window": 5},
    "qwen2": {"model_type": "qwen2", **GROUPED},
    "qwen3": {"model_type": "qwen3", **GROUPED, "head_dim": 8},
    "gemma2, window 4": {"model_type": "gemma2", **GROUPED, "head_dim": 8, "sliding_window": 4},
    "gemma3_text, window 4": {
        "model_type": "gemma3_text", **GROUPED, "head_dim": 8, "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "olmo2": {"model_type": "olmo2", **GROUPED},
    "phi": {"model_type": "phi", **GROUPED},
    "phi3, window 6": {"model_type": "phi3", **GROUPED, "sliding_window": 6, "pad_token_id": 0},
    "stablelm": {"model_type": "stablelm", **GROUPED},
    "gptj": {"model_type": "gptj", "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "opt": {"model_type": "opt", **SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon, rotary": {"model_type": "falcon", **SIZES, "alibi": False, "new_decoder_architecture": False},
    "falcon, ALiBi": {"model_type": "falcon", **SIZES, "alibi": True, "multi_query": False, "parallel_attn": False},
    "mpt": {"model_type": "mpt", "d_model": 32, "n_heads": 4, "n_layers": 2},
    "codegen": {"model_type": "codegen", "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "gpt_neo, window 5": {
        "model_type": "gpt_neo", "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 5,
        "attention_types": [[["global", "local"], 1]],
    },
    "mixtral": {"model_type": "mixtral", **GROUPED, "num_local_experts": 4},
    "starcoder2, window 5": {"model_type": "starcoder2", **GROUPED, "sliding_window": 5},
    "cohere": {"model_type": "cohere", **GROUPED},
    "granite": {"model_type": "granite", **GROUPED},
    "gpt_bigcode": {"model_type": "gpt_bigcode", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
    "biogpt": {"model_type": "biogpt", **SIZES, "intermediate_size": 48},
    "xglm": {"model_type": "xglm", "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
    "ctrl": {"model_type": "ctrl", "n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48},
    "deepseek_v3": {
        "model_type": "deepseek_v3", **SIZES, "num_key_value_heads": 4, "intermediate_size": 48, "moe_intermediate_size": 16,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
    },
    "llama4_text, chunks of 6": {
        "model_type": "llama4_text", **GROUPED, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2,
        "attention_chunk_size": 6, "interleave_moe_layer_step": 2, "no_rope_layers": [1, 1], "pad_token_id": 0,
    },
    "gpt_oss, window 4": {"model_type": "gpt_oss", **GROUPED, "head_dim": 8, "sliding_window": 4, "num_local_experts": 4},
}  # fmt: skip
NO_SDPA = {"gemma2, window 4", "bloom", "mpt", "gpt_neo, window 5", "xglm", "gpt_oss, window 4"}
"""Hugging Face offers them no sdpa; the run file's model.attention must be eager."""
DENSE = {"falcon, rotary", "falcon, ALiBi"}
"""They have an sdpa of their own, which takes a mask."""
PAIRS = [(name, attention) for name in MODELS for attention in ("sdpa", "eager") if (name, attention) not in
         {(without, "sdpa") for without in NO_SDPA}]  # fmt: skip
ROWS = [[13, 1, 9, 9], [32], [3, 17, 12]]
"""Lengths of the documents of each window; the last one may be its padding."""


@pytest.fixture(autouse=True, scope="module")
def _installed():
    document_mask.install()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are tiny
    yield
    torch.set_num_threads(threads)


def built(name: str, attention: str, **changes) -> torch.nn.Module:
    """A tiny model without dropout, its parameters larger than fresh ones, so that what leaks would show."""
    spec = {**MODELS[name], "vocab_size": "auto", **changes}
    config = build.load_config(spec, vocab_size=64, eod_id=0, sequence_length=LENGTH)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
    for module in model.modules():
        for attribute, value in list(vars(module).items()):
            if isinstance(value, float) and ("dropout" in attribute or isinstance(module, torch.nn.Dropout)):
                setattr(module, attribute, 0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.size(-1) < 64 else 0.15))
    return model


def packed_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, positions), int64 [3, LENGTH]."""
    tokens = torch.from_numpy(np.random.default_rng(0).integers(1, 64, (len(ROWS), LENGTH)))
    return tokens, torch.stack([torch.cat([torch.arange(length) for length in row]) for row in ROWS])


def documents_alone() -> list[tuple[int, int, int]]:
    """(row, start, stop) of each document."""
    bounds = [np.cumsum([0, *row]) for row in ROWS]
    return [(row, int(a), int(b)) for row, ends in enumerate(bounds) for a, b in pairwise(ends)]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    taken = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return taken


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("name", "attention"), PAIRS)
def test_packed_documents_are_as_if_alone(name, attention, recompute):
    model = built(name, attention)
    if recompute and not model.supports_gradient_checkpointing:
        pytest.skip("Hugging Face offers no activation checkpointing for it")
    tokens, positions = packed_rows()
    alone = torch.zeros(*tokens.shape, model.config.vocab_size)
    for row, start, stop in documents_alone():  # outside any context: stock Hugging Face
        logits = model(tokens[row : row + 1, start:stop], use_cache=False).logits
        alone[row, start:stop] = logits[0].detach()
        functional.cross_entropy(logits[0], tokens[row, start:stop], reduction="sum").backward()
    expected = gradients(model)
    if recompute:
        model.train()  # activations are recomputed in training alone; there is no dropout
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with DocumentMasks(model)(positions, torch.device("cpu")) as options:
        logits = model(tokens, use_cache=False, **options).logits
        functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum").backward()
    scale = alone.abs().max()
    assert scale > 0.1
    assert (logits - alone).abs().max() <= 1e-5 * max(1, scale)
    got = gradients(model)
    assert got.keys() == expected.keys()
    total = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for parameter, gradient in got.items():
        difference = (gradient - expected[parameter]).norm()
        assert difference <= 1e-4 * expected[parameter].norm() + 1e-6 * total, parameter  # some are 0 but for rounding
    with torch.no_grad():  # and the test can fail: without masks, documents see each other
        leaking = model.eval()(tokens, use_cache=False).logits
    assert (leaking - alone).abs().max() > 1e-2 * scale


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def largest_tensor(name: str, attention: str, lengths: list[int]) -> int:
    """Of forward and backward over one window."""
    length = sum(lengths)
    model = built(name, attention, **{"n_positions" if name == "gpt2" else "max_position_embeddings": length})
    tokens = torch.randint(1, 64, (1, length))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    with DocumentMasks(model)(positions, torch.device("cpu")) as options, LargestTensor() as watch:
        model(tokens, use_cache=False, **options).logits.sum().backward()
    return watch.elements


@pytest.mark.parametrize(
    "name", ["llama", "mistral, window 5", "qwen3", "gpt2", "gpt_neox", "mixtral", "gemma3_text, window 4"]
)
def test_sdpa_makes_nothing_quadratic(name):
    longest = {length: largest_tensor(name, "sdpa", [length // 2, 5, length // 2 - 5]) for length in (512, 1024)}
    assert longest[1024] <= 2.2 * longest[512] and longest[1024] < 1024 * 1024 // 2
    assert largest_tensor(name, "eager", [256, 5, 251]) >= 512 * 512  # what it would be


lengths_of_rows = st.integers(1, 40).flatmap(
    lambda length: st.lists(
        st.lists(st.integers(1, length), min_size=1, max_size=length).map(lambda parts: cut(parts, length)),
        min_size=1,
        max_size=3,
    )
)


def cut(parts: list[int], length: int) -> list[int]:
    """Lengths that begin as `parts` and add up to `length`."""
    ends = [end for end in np.cumsum(parts).tolist() if end < length]
    return np.diff([0, *ends, length]).tolist()


def positions_of(rows: list[list[int]]) -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


@settings(deadline=None, max_examples=150)
@given(rows=lengths_of_rows, window=st.one_of(st.none(), st.integers(1, 40)), groups=st.sampled_from([1, 2]))
def test_regrouped_attention_is_attention_under_a_mask(rows, window, groups):
    """Output and gradients, for any documents, any sliding window, with grouped queries and a value width of its own."""
    positions = positions_of(rows)
    documents = Documents.of(positions, torch.device("cpu"), maskless=True)
    batch, length = positions.shape
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, 2 * groups, length, 4), (batch, 2, length, 4), (batch, 2, length, 6)]
    states = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    module = SimpleNamespace(num_key_value_groups=groups, is_causal=True)
    with document_mask.within(documents):
        ours, _ = document_mask.sdpa(module, *states, None, scaling=0.3, sliding_window=window)
    by_hand = np.full((batch, 1, length, length), False)
    for row, lengths in enumerate(rows):
        for start, stop in pairwise(np.cumsum([0, *lengths])):
            for query in range(start, stop):
                by_hand[row, 0, query, max(start, query - window + 1 if window else start) : query + 1] = True
    assert np.array_equal(documents.mask(window).expand(batch, 1, length, length).numpy(), by_hand)
    key, value = (part.repeat_interleave(groups, 1) for part in states[1:])
    theirs = functional.scaled_dot_product_attention(states[0], key, value, torch.from_numpy(by_hand), scale=0.3).transpose(
        1, 2
    )
    assert torch.allclose(ours, theirs, atol=2e-6)
    weights = torch.randn(ours.shape, generator=generator)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), states), torch.autograd.grad((theirs * weights).sum(), states), strict=True
    ):
        assert torch.allclose(mine, other, atol=2e-5)


@given(rows=lengths_of_rows, first=st.integers(0, 3))
def test_documents_begin_where_positions_do_not_go_on(rows, first):
    positions = positions_of(rows)
    positions[0, : rows[0][0]] += first  # a window may begin within a document
    documents = Documents.of(positions, torch.device("cpu"), maskless=True)
    expected = np.cumsum([0, *(length for row in rows for length in row)])
    assert documents.starts.tolist() == expected[:-1].tolist() and documents.stops.tolist() == expected[1:].tolist()
    assert documents.bounds.tolist() == expected.tolist()
    numbers = np.repeat(np.arange(len(expected) - 1), np.diff(expected)).reshape(positions.shape)
    assert np.array_equal(documents.ids.numpy() - 1, numbers)


def test_many_documents_need_few_attention_calls():
    lengths = np.random.default_rng(0).integers(1, 64, 2000)
    documents = Documents.of(positions_of([lengths.tolist()]), torch.device("cpu"), maskless=True)
    layout = documents.layout(None)
    assert len(layout.groups) <= 5
    assert sum(group.queries.numel() for group in layout.groups) < 1.6 * lengths.sum()
    long = Documents.of(torch.arange(10_000)[None], torch.device("cpu"), maskless=True)
    assert long.layout(None) is None  # as it is
    banded = long.layout(100)
    assert sum(group.keys.numel() for group in banded.groups) < 2.1 * 10_000 and len(banded.groups) == 2


def varlen(query, key, value, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, window_size=(-1, -1), **options):
    """What flash attention's varlen kernel does, [tokens, heads, width], in plain PyTorch."""
    assert torch.equal(cu_seqlens_q, cu_seqlens_k) and cu_seqlens_q.dtype == torch.int32 and options.pop("causal")
    assert isinstance(max_seqlen_q, int) and max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    outputs = []
    for start, stop in pairwise(cu_seqlens_q.tolist()):
        parts = [part[start:stop].transpose(0, 1) for part in (query, key, value)]
        parts[1:] = [part.repeat_interleave(len(parts[0]) // len(part), 0) for part in parts[1:]]
        places = torch.arange(stop - start)
        mask = places[:, None] >= places
        if window_size[0] >= 0:
            mask &= places[:, None] - places <= window_size[0]
        scale = options["softmax_scale"]
        outputs.append(functional.scaled_dot_product_attention(*parts, mask, scale=scale).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("name", ["llama", "mistral, window 5", "gpt_neox", "qwen3", "gemma3_text, window 4", "opt"])
def test_flash_attention_gets_the_bounds_of_documents(name, monkeypatch):
    """Through Hugging Face's own code around the kernel; the kernel itself, which needs a GPU, is played by `varlen`."""
    from transformers import modeling_flash_attention_utils as flash_utils

    process = flash_utils._lazy_define_process_function(varlen_signature)
    monkeypatch.setattr(flash_utils, "lazy_import_flash_attention", lambda *_: ((None, varlen, *[None] * 3), (process, None)))
    model = built(name, "sdpa")
    tokens, positions = packed_rows()
    with torch.no_grad(), DocumentMasks(model)(positions, torch.device("cpu")) as options:
        expected = model(tokens, use_cache=False, **options).logits
        model.config._attn_implementation = "flash_attention_2"
        assert (model(tokens, use_cache=False, **options).logits - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


def torch_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False):
    """The same by the arguments of torch.nn.attention.varlen.varlen_attn."""
    assert window_size[1] == 0 and (enable_gqa or key.size(1) == query.size(1))
    lengths = {"cu_seqlens_q": cu_seq_q, "cu_seqlens_k": cu_seq_k, "max_seqlen_q": max_q, "max_seqlen_k": max_k}
    return varlen(query, key, value, **lengths, window_size=window_size, softmax_scale=scale, causal=True)


@pytest.mark.parametrize("name", ["llama", "mistral, window 5", "gpt_neox", "gemma3_text, window 4", "opt", "granite"])
def test_torchs_own_varlen_kernel_gets_the_bounds_of_documents(name, monkeypatch):
    """The kernel, which needs a GPU, is played by `varlen`."""
    assert not document_mask._varlen_takes(*[torch.zeros(3, 4, 8, dtype=torch.bfloat16)] * 3, 0.0)  # not on a CPU
    model = built(name, "sdpa")
    tokens, positions = packed_rows()
    with torch.no_grad(), DocumentMasks(model)(positions, torch.device("cpu")) as options:
        expected = model(tokens, use_cache=False, **options).logits
        kernel = Mock(side_effect=torch_varlen)
        monkeypatch.setattr(document_mask, "varlen_attn", kernel)
        monkeypatch.setattr(document_mask, "_varlen_takes", lambda *_: True)
        assert (model(tokens, use_cache=False, **options).logits - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    assert kernel.call_count == model.config.num_hidden_layers
    assert inspect.signature(torch_varlen).parameters.keys() <= inspect.signature(varlen_attn).parameters.keys()


def test_groups_of_any_shape_are_kept_from_cudnn(monkeypatch):
    """Which would plan anew for each."""
    allowed = []

    def noted(*arguments, **options):
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return sdpa_attention_forward(*arguments, **options)

    monkeypatch.setattr(document_mask, "sdpa_attention_forward", noted)
    model = built("llama", "sdpa")
    tokens, positions = packed_rows()
    with torch.no_grad(), DocumentMasks(model)(positions, torch.device("cpu")) as options:
        model(tokens, use_cache=False, **options)
    assert allowed and not any(allowed) and torch.backends.cuda.cudnn_sdp_enabled()


def test_other_documents_compile_nothing_anew():
    model = built("llama", "sdpa")
    for block in model.model.layers:
        block.compile(backend="eager")
    graphs = torch._dynamo.utils.counters["stats"]
    for seed, cuts in enumerate(([13, 19], [3, 17, 12], [1, 30, 1], [8, 8, 8, 8])):
        tokens = torch.from_numpy(np.random.default_rng(seed).integers(1, 64, (1, LENGTH)))
        with DocumentMasks(model)(positions_of([cuts]), torch.device("cpu")) as options:
            model(tokens, use_cache=False, **options).logits.sum().backward()
        if seed == 0:
            first = graphs["unique_graphs"]
    assert graphs["unique_graphs"] == first > 0
    torch.compiler.reset()


def varlen_signature(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal, window_size
):
    """The arguments of flash_attn_varlen_func, which Hugging Face looks for by name."""


def test_flex_attention_takes_a_mask_of_blocks():
    model = built("mistral, window 5", "sdpa")
    tokens, positions = (part[:1] for part in packed_rows())
    with torch.no_grad(), DocumentMasks(model)(positions, torch.device("cpu")) as options:
        expected = model(tokens, use_cache=False, **options).logits
        model.config._attn_implementation = "flex_attention"
        assert (model(tokens, use_cache=False, **options).logits - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


def test_nothing_changes_outside():
    """A window that is one document takes Hugging Face's own path, to the bit; so does all without positions."""
    model = built("llama", "sdpa")
    tokens, _ = packed_rows()
    with torch.no_grad():
        plain = model(tokens, use_cache=False).logits
        with DocumentMasks(model)(None, torch.device("cpu")) as options:
            assert options == {}
            assert torch.equal(model(tokens, use_cache=False).logits, plain)
        whole = torch.arange(LENGTH).repeat(len(ROWS), 1)
        with DocumentMasks(model)(whole, torch.device("cpu")) as options:
            assert torch.equal(model(tokens, use_cache=False, **options).logits, plain)


def skeleton(model_type: str, **values) -> torch.nn.Module:
    config = build.load_config({"model_type": model_type, "vocab_size": 64, **values}, 64, eod_id=0, sequence_length=LENGTH)
    return build.skeleton(config, "eager")


@pytest.mark.parametrize(
    ("model_type", "values", "said"),
    [
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 1}, "state"),
        ("mamba2", {"hidden_size": 32, "num_hidden_layers": 1, "head_dim": 8, "num_heads": 8}, "state"),
        ("rwkv", {"hidden_size": 32, "num_hidden_layers": 1}, "state"),
        ("jamba", {**GROUPED, "num_experts": 2}, "state"),
        ("lfm2", {**GROUPED, "layer_types": ["conv", "full_attention"]}, "layers of type conv"),
        ("qwen3_next", {**GROUPED, "num_experts": 2, "num_experts_per_tok": 1}, "state"),
    ],
)
def test_architectures_that_carry_a_state_are_refused(model_type, values, said):
    with pytest.raises(DocumentMaskError, match=said) as refusal:
        document_mask.check(skeleton(model_type, **values), LENGTH)
    assert "data.document_mask to false" in str(refusal.value)


@pytest.mark.parametrize("name", MODELS)
def test_attention_models_are_not_refused(name):
    config = build.load_config({**MODELS[name], "vocab_size": "auto"}, vocab_size=64, eod_id=0, sequence_length=LENGTH)
    document_mask.check(build.skeleton(config, "eager"), LENGTH)


def test_rotary_embeddings_that_follow_the_longest_document_are_refused_beyond_their_length():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = skeleton("llama", **GROUPED, max_position_embeddings=16, rope_parameters=rope)
    document_mask.check(model, 16)
    with pytest.raises(DocumentMaskError, match=r"dynamic.* over 16 positions.* 17"):
        document_mask.check(model, 17)


def probe(model: torch.nn.Module, masks=DocumentMasks, precision: str = "fp32", rows: int = 2, length: int = LENGTH) -> None:
    """The proof, on a model without an engine."""
    applied = masks(model)

    @torch.no_grad()
    def eval_sum(micro_batches):
        total = 0.0
        for micro in micro_batches:
            with applied(micro.positions, torch.device("cpu")) as options:
                inputs, targets = micro.on("cpu")
                total += nll_sum(model(inputs, use_cache=False, **options).logits, targets).item()
        return total, 1

    config = SimpleNamespace(run=SimpleNamespace(seed=1), model=SimpleNamespace(attention=model.config._attn_implementation))
    batch = SimpleNamespace(sequence_length=length, micro_batch_size=rows)
    document_probe.check(eval_sum, SimpleNamespace(config=config, batch=batch, hf_config=model.config, precision=precision))


def fresh(name: str, attention: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """As training starts."""
    config = build.load_config({**MODELS[name], "vocab_size": "auto"}, vocab_size=64, eod_id=0, sequence_length=LENGTH)
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype).eval()


@pytest.mark.parametrize(("name", "attention"), PAIRS)
def test_the_probe_is_content_with_all_of_them(name, attention):
    probe(fresh(name, attention))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "mistral, window 5", "opt", "qwen3", "mixtral"])
@pytest.mark.parametrize("length", [2, 3, 9, LENGTH])
def test_the_probe_is_content_in_bf16_and_in_short_windows(name, length):
    probe(fresh(name, "sdpa", torch.bfloat16), precision="bf16", rows=1, length=length)
    probe(fresh(name, "sdpa"), rows=3, length=length)


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_the_probe_finds_what_leaks(dtype, precision):
    """Without masks; with masks, but positions that go on; in an architecture whose attention asks nobody for a mask."""

    class Leaking(DocumentMasks):
        def __call__(self, positions, device):
            return super().__call__(None, device)

    class GoingOn(DocumentMasks):
        @contextmanager
        def __call__(self, positions, device):
            with super().__call__(positions, device):
                yield {}

    for name, masks in (("llama", Leaking), ("gpt2", Leaking), ("gpt2", GoingOn)):
        with pytest.raises(DocumentMaskError, match=r'with model\.attention "sdpa" does not treat a document') as refusal:
            probe(fresh(name, "sdpa", dtype), masks, precision)
        assert "alone" in str(refusal.value) and "data.document_mask to false" in str(refusal.value)
    config = build.load_config(
        {"model_type": "openai-gpt", "n_embd": 512, "n_layer": 2, "n_head": 4, "vocab_size": 64}, 64, 0, LENGTH
    )
    torch.manual_seed(1)
    with pytest.raises(DocumentMaskError, match='"openai-gpt"'):
        probe(AutoModelForCausalLM.from_config(config, dtype=dtype).eval(), precision=precision)
