"""Batches without padding and with shared prompts: the same numbers wherever they can be had, a reason elsewhere."""

import copy
import random
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo.data.collation import LAYOUTS, collate_pairs
from sparsepo.data.encoding import TokenPair
from sparsepo.models.architecture import hidden_states
from sparsepo.models.segment_attention import SEGMENTED, UnsupportedLayout
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.layout_choice import choose_layout, layout_problem
from sparsepo.training.method_masks import build_method_masks
from sparsepo.training.pair_objective import PairObjective

VOCABULARY = 37
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
MODERN = {**SIZES, "max_position_embeddings": 64, "num_key_value_heads": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
SEGMENTS = {  # architectures that attend through transformers' interface
    "gpt2": GPT2,
    "gpt_neox": {**SIZES, "max_position_embeddings": 64},
    "llama": MODERN,
    "qwen2": MODERN,
    "gpt_bigcode": GPT2,
    "granite": MODERN,
    "cohere": MODERN,
    "mistral": {**MODERN, "sliding_window": 4, "head_dim": 4},
    "opt": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 24},
}
OTHERS = {  # the best layout that each computes right
    "gptj": ("pairs", {**GPT2, "rotary_dim": 4}),
    "gemma2": ("padded", {**MODERN, "head_dim": 4, "sliding_window": 5}),
    "bloom": ("padded", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "mamba": ("padded", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
}
PAIRS = [
    TokenPair([3, 4, 5], [6, 7, 8, 9], [10, 11]),
    TokenPair([12, 2, 5, 1, 2, 9, 8], [6], [10, 11, 3, 4, 5, 30, 31]),
    TokenPair([36], [1, 1, 1], [1, 2]),
    TokenPair([5, 6, 7, 8, 9, 10, 11, 12], [20, 21, 22, 23, 24], [25, 1]),
]


@cache
def made(architecture, seed):
    torch.manual_seed(seed)
    sizes = SEGMENTS[architecture] if architecture in SEGMENTS else OTHERS[architecture][1]
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = AutoConfig.for_model(architecture, **sizes, vocab_size=VOCABULARY, **ids)
    dtype = torch.float32 if architecture in ("gemma2", "mamba") else torch.float64
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def model(architecture, seed=0):
    """A new one each time, as a layout may change how it attends."""
    return copy.deepcopy(made(architecture, seed))


def values(records):
    if isinstance(records, dict):
        records = [records[key] for key in sorted(records)]
    return [number for part in records for number in (values(part) if isinstance(part, list | dict) else [part])]


def gradients(policy, reference, layout, gradients):
    torch.manual_seed(0)
    masks = build_method_masks("sparsepo_independent", reference, {"l1_u": 0.01}).to(policy.dtype)
    hyper = {"beta": 0.5, "form": "paper"}
    objective = PairObjective(policy, reference, "sparsepo_independent", hyper, masks, gradients=gradients)
    objective(collate_pairs(PAIRS, 0, layout)).total.backward()
    return {name: parameter.grad for name, parameter in objective.named_parameters() if parameter.grad is not None}


# --- the same numbers


CAN = [(name, layout) for name in SEGMENTS for layout in ("shared", "pairs")]
CAN.remove(("mistral", "pairs"))  # a prepared mask would lift its sliding window; refused, see below


@pytest.mark.parametrize("architecture, layout", CAN)
def test_every_number_of_a_pair_is_that_of_plain_padding(architecture, layout):
    """Rotary tables and norms are float32 in some architectures, hence the tolerance."""
    for method in ("tdpo1", "mapo", "sparsepo_independent"):
        found = []
        for name in ("padded", layout):
            torch.manual_seed(0)
            policy, reference = model(architecture, 0), model(architecture, 1)
            found.append(values(inspect_pairs(policy, reference, PAIRS, method, layout=name)))
        assert found[1] == pytest.approx(found[0], rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("way", ["recompute", "forward"])
@pytest.mark.parametrize("layout", ["shared", "pairs"])
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama"])
def test_every_gradient_is_that_of_plain_padding(architecture, layout, way):
    expected = gradients(model(architecture, 0), model(architecture, 1), "padded", "recompute")
    found = gradients(model(architecture, 0), model(architecture, 1), layout, way)
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        assert (grad - expected[name]).norm() <= 1e-6 * expected[name].norm()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), layout=st.sampled_from(sorted(LAYOUTS)))
def test_a_pair_is_the_same_whatever_is_in_its_batch_and_in_whatever_order(seed, layout):
    draw = random.Random(seed)
    pairs = [TokenPair(*([draw.randrange(37) for _ in range(draw.randint(1, 9))] for _ in range(3))) for _ in range(4)]
    policy, reference = model("llama", 0), model("llama", 1)
    together = inspect_pairs(policy, reference, pairs, "tdpo2", layout=layout)
    order = draw.sample(range(4), 4)
    shuffled = inspect_pairs(policy, reference, [pairs[at] for at in order], "tdpo2", layout=layout)
    alone = inspect_pairs(policy, reference, pairs[:1], "tdpo2", layout=layout)
    assert values([shuffled[order.index(at)] for at in range(4)]) == pytest.approx(values(together), rel=1e-9, abs=1e-9)
    assert values(alone) == pytest.approx(values(together[:1]), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("layout", ["shared", "pairs"])
def test_neither_response_sees_the_other_nor_another_pair(layout):
    """Another rejected response, and another second pair, leave the chosen side of the first as it was."""
    policy = model("llama")
    first, states = TokenPair([3, 4, 5], [6, 7, 8], [10, 11]), []
    for rejected, second in (([10, 11], PAIRS[1]), ([30, 2], PAIRS[3])):
        batch = collate_pairs([TokenPair(first.prompt, first.chosen, rejected), second], 0, layout)
        with torch.no_grad():
            states.append(batch.responses.select_hidden(hidden_states(policy, batch.inputs))[:3])
    torch.testing.assert_close(*states)


def test_a_model_that_attends_by_segments_still_attends_as_before():
    """It is sampled from while it trains: padding, generation and a cache of keys go the usual way."""
    plain, changed = model("llama"), model("llama")
    batch = collate_pairs(PAIRS, 0)
    with torch.no_grad():
        hidden_states(changed, collate_pairs(PAIRS, 0, "shared").inputs)
        assert changed.config._attn_implementation == SEGMENTED
        assert torch.equal(hidden_states(changed, batch.inputs), hidden_states(plain, batch.inputs))
    ids, mask = torch.tensor([[0, 3, 4], [5, 6, 7]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    assert torch.equal(changed.generate(ids, **options), plain.generate(ids, **options))


@pytest.mark.parametrize(
    "able, inner",
    [({"amx_tile": True}, torch.bfloat16), ({"amx_tile": False}, torch.float32), ({}, torch.bfloat16)],
    ids=["tiles", "no tiles", "no x86"],
)
def test_half_precision_attends_in_float32_where_that_is_faster(able, inner, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    attend, seen = F.scaled_dot_product_attention, set()
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda query, *a, **k: seen.add(query.dtype) or attend(query, *a, **k)
    )
    batch, exact = collate_pairs(PAIRS, 0, "shared"), model("llama")
    half = model("llama").bfloat16()
    states = batch.responses.select_hidden(hidden_states(half, batch.inputs))
    assert states.dtype == torch.bfloat16 and seen == {inner}
    states.sum().backward()
    assert {weight.grad.dtype for weight in half.model.layers.parameters()} == {torch.bfloat16}
    wanted = batch.responses.select_hidden(hidden_states(exact, batch.inputs))
    assert (states - wanted).norm() < 0.02 * wanted.norm()
    seen.clear()
    hidden_states(exact, batch.inputs)
    assert seen == {torch.float64}


def test_checkpointed_blocks_are_computed_again_with_the_same_segments():
    found = []
    for checkpointing in (False, True):
        policy = model("llama").train()
        if checkpointing:
            policy.activation_checkpointing_enable()
        found.append(gradients(policy, model("llama", 1), "shared", "forward"))
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad)


# --- what a model cannot do


@pytest.mark.parametrize("architecture", SEGMENTS)
def test_a_prompt_is_shared_wherever_attention_is_open(architecture, capsys):
    assert choose_layout([model(architecture)], "auto", PAIRS) == "shared"
    assert capsys.readouterr().out == "layout: shared\n"


@pytest.mark.parametrize("architecture", OTHERS)
def test_other_architectures_fall_back_by_name_and_compute_right(architecture, capsys):
    best, name = OTHERS[architecture][0], type(model(architecture)).__name__
    assert choose_layout([model(architecture)], "auto", PAIRS) == best
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"layout 'shared' does not work for {name}: ") and lines[-1] == f"layout: {best}"
    found = [
        values(inspect_pairs(model(architecture, 0), model(architecture, 1), PAIRS, "tdpo1", layout=layout))
        for layout in ("padded", best)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-6, abs=1e-6)


def test_a_layout_that_is_asked_for_and_cannot_be_is_refused_by_name():
    with pytest.raises(UserError, match="'shared' does not work for GPTJForCausalLM: it attends by 'eager'.*'auto'"):
        choose_layout([model("gptj")], "shared", PAIRS)


def test_a_window_that_rows_of_pairs_exceed_is_told():
    """A window of 5 is fine for rows of 5 tokens, not for the 15 of the second pair."""
    short = [TokenPair([1], [2, 3], [4])]
    assert (
        layout_problem(model("gemma2"), "pairs", short) is not None
    )  # made-up pairs are tried, too, and longer than that
    assert "attend to 5 tokens" in layout_problem(model("gemma2"), "pairs", PAIRS)
    with pytest.raises(UnsupportedLayout, match="attend to 5 tokens, and prompt, chosen and rejected have 15"):
        inspect_pairs(model("gemma2", 0), model("gemma2", 1), PAIRS, "dpo", layout="pairs")
    found = [
        values(inspect_pairs(model("gemma2", 0), model("gemma2", 1), short, "dpo", layout=layout))
        for layout in ("pairs", "padded")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6, abs=1e-6)


def test_a_layout_that_would_be_wrong_is_found_out(monkeypatch):
    """An attention that forgets who sees whom: every token sees all before it."""

    def forgetful(module, query, key, value, attention_mask, scaling=None, **_):
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2), None

    monkeypatch.setattr("sparsepo.models.segment_attention.ALL_ATTENTION_FUNCTIONS", {"sdpa": forgetful})
    from transformers import AttentionInterface

    from sparsepo.models.segment_attention import segment_attention

    AttentionInterface.register(SEGMENTED, forgetful)
    try:
        assert "off by" in layout_problem(model("llama"), "shared", PAIRS)
    finally:
        AttentionInterface.register(SEGMENTED, segment_attention)
    assert layout_problem(model("llama"), "shared", PAIRS) is None
