"""Causal LMs of many architectures: the numbers of their own logits, their blocks, and loading."""

from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from sparsepo.data.batches import ModelInputs
from sparsepo.models.architecture import check_lm_head, decoder_layers, hidden_states
from sparsepo.models.limits import context_length
from sparsepo.models.loading import disable_dropout
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs

VOCABULARY = 37
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
MODERN = {**SIZES, "max_position_embeddings": 64, "num_key_value_heads": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
CONFIGS = {
    "gpt2": GPT2,
    "gpt_neox": {**SIZES, "max_position_embeddings": 64},
    "llama": MODERN,
    "qwen2": MODERN,
    "gpt_bigcode": GPT2,
    "gptj": {**GPT2, "rotary_dim": 4},
    "gemma2": {
        **MODERN,
        "head_dim": 4,
        "query_pre_attn_scalar": 4,
        "final_logit_softcapping": 2.0,
        "sliding_window": 5,
    },
    "granite": {**MODERN, "logits_scaling": 3.0},
    "cohere": {**MODERN, "logit_scale": 0.3},
}
BLOCKS = {
    "gpt2": "transformer.h",
    "gpt_bigcode": "transformer.h",
    "gptj": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
}
PAIRS = [
    {"prompt": [3, 4, 5], "chosen": [6, 7, 8, 9], "rejected": [10, 11]},
    {"prompt": [12, 2, 5, 1, 2, 9, 8], "chosen": [6], "rejected": [10, 11, 3, 4, 5, 30, 31]},
    {"prompt": [36], "chosen": [1, 1, 1], "rejected": [0, 2]},
    {"prompt": [5, 6, 7, 8, 9, 10, 11, 12], "chosen": [20, 21, 22, 23, 24], "rejected": [25, 1]},
    {"prompt": [0, 1], "chosen": [2, 3], "rejected": [3, 2]},
]


@cache
def model(architecture, seed):
    """A tiny random model in float64, its weights large enough that nothing is nearly linear.

    Gemma 2 is in float32: in float64 the eager attention of transformers makes nan of a window that is all padding.
    """
    torch.manual_seed(seed)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = AutoConfig.for_model(architecture, **CONFIGS[architecture], vocab_size=VOCABULARY, **ids)
    dtype = torch.float32 if architecture == "gemma2" else torch.float64
    made = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return disable_dropout(made).eval()


@torch.no_grad()
def log_probs(causal_lm, prompt, response):
    """(response, vocabulary) of one unpadded sequence, from the model's own logits."""
    ids = torch.tensor([prompt + response])
    return causal_lm(ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)


def close(actual, expected, tolerance=2e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(actual, dtype=torch.float64), expected, rtol=tolerance, atol=tolerance)


# --- terms of every architecture


@pytest.mark.parametrize("architecture", CONFIGS)
def test_terms_are_those_of_the_models_own_logits_one_unpadded_sequence_at_a_time(architecture):
    """Some architectures normalise or rotate in float32 whatever their dtype, hence the tolerance."""
    policy, reference = model(architecture, 0), model(architecture, 1)
    for record, pair in zip(inspect_pairs(policy, reference, PAIRS, "tdpo1"), PAIRS, strict=True):
        for side in ("chosen", "rejected"):
            log_p, log_q = (log_probs(m, pair["prompt"], pair[side]) for m in (policy, reference))
            rows = torch.arange(len(pair[side]))
            close(record[side]["logps"], log_p[rows, pair[side]])
            close(record[side]["ref_logps"], log_q[rows, pair[side]])
            close(record[side]["reverse_kl"], (log_p.exp() * (log_p - log_q)).sum(-1))
            close(record[side]["forward_kl"], (log_q.exp() * (log_q - log_p)).sum(-1))


def values(records):
    """All numbers of inspected pairs as one flat list."""
    if isinstance(records, dict):
        records = [records[key] for key in sorted(records)]
    return [number for part in records for number in (values(part) if isinstance(part, list | dict) else [part])]


@pytest.mark.parametrize("method", ["dpo", "mapo"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_pair_is_the_same_whatever_is_in_its_batch(architecture, method):
    policy, reference = model(architecture, 0), model(architecture, 1)
    together = inspect_pairs(policy, reference, PAIRS, method, batch_size=8)
    alone = inspect_pairs(policy, reference, PAIRS, method, batch_size=1)
    backwards = inspect_pairs(policy, reference, PAIRS[::-1], method, batch_size=3)[::-1]
    assert [len(record["chosen"]["logps"]) for record in together] == [4, 1, 3, 5, 2]
    close(values(alone), values(together))
    close(values(backwards), values(together))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_policy_equal_to_its_reference_has_no_reward_and_no_kl(architecture):
    same = model(architecture, 0)
    for record in inspect_pairs(same, same, PAIRS, "tdpo1"):
        assert record["reward_chosen"] == record["reward_rejected"] == 0
        assert not any(record["chosen"]["reverse_kl"] + record["rejected"]["forward_kl"])
        assert record["loss"] == pytest.approx(0.6931471805599453)


# --- hidden states


def all_states(reference, inputs):
    """The states of every layer."""
    calls = []
    with torch.no_grad():
        last = hidden_states(reference, inputs, lambda layer, depth, states: calls.append((layer, depth, states)))
    assert [(layer, depth) for layer, depth, _ in calls] == [(0, 2), (1, 2)]
    assert last is calls[1][2]
    return [states for _, _, states in calls]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_states_are_the_outputs_of_the_blocks_and_the_last_what_the_head_multiplies(architecture):
    reference = model(architecture, 1)
    inputs = ModelInputs.with_padding(torch.tensor([[3, 4, 5, 6]]), torch.ones(1, 4, dtype=torch.long))
    plain = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
    first, entering = [], []
    handles = [
        decoder_layers(reference)[0].register_forward_hook(lambda _, __, out: first.append(out)),
        reference.get_output_embeddings().register_forward_pre_hook(lambda _, args: entering.append(args[0])),
    ]
    with torch.no_grad():
        reference(**plain)
    for handle in handles:
        handle.remove()
    states = all_states(reference, inputs)
    torch.testing.assert_close(states[0], first[0][0] if isinstance(first[0], tuple) else first[0])
    torch.testing.assert_close(states[1], entering[0])
    with torch.no_grad():
        torch.testing.assert_close(hidden_states(reference, inputs), entering[0])
        own = reference(**plain, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states, list(own[1:]))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_padding_on_neither_side_moves_a_token(architecture):
    """Ten pads, more than Gemma's window of five."""
    reference, tokens = model(architecture, 1), [3, 4, 5, 6, 7, 8]
    results = []
    for left, right in ((0, 0), (10, 0), (0, 10), (3, 7)):
        ids = torch.tensor([[9] * left + tokens + [9] * right])
        mask = torch.tensor([[0] * left + [1] * 6 + [0] * right])
        states = all_states(reference, ModelInputs.with_padding(ids, mask))
        results.append([state[:, left : left + 6] for state in states])
    for padded in results[1:]:
        for mine, theirs in zip(padded, results[0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_context_is_told_whatever_an_architecture_calls_it(architecture):
    assert context_length(model(architecture, 0)) == 64


def test_a_model_without_a_limit_has_a_context_longer_than_any_text():
    config = AutoConfig.for_model("bloom", hidden_size=16, n_layer=1, n_head=2, vocab_size=VOCABULARY)
    assert context_length(AutoModelForCausalLM.from_config(config)) >= 10**6


# --- heads


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_output_head_of_an_architecture_is_accepted(architecture):
    check_lm_head(model(architecture, 0))


@pytest.mark.parametrize("architecture", ["gemma2", "granite", "cohere"])
def test_a_plain_output_matrix_is_not_enough_for_scaled_and_capped_models(architecture):
    """So that the acceptance above says something."""
    capped, ids = model(architecture, 0), torch.arange(6)[None]
    with torch.no_grad():
        plain = capped.lm_head(capped.model(ids).last_hidden_state)
        assert not torch.allclose(capped(ids).logits.log_softmax(-1), plain.log_softmax(-1), rtol=0.1)


class AltersLogits(LlamaForCausalLM):
    """A Llama with a last step that its configuration does not tell."""

    alter = staticmethod(lambda logits: logits)

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = self.alter(out.logits)
        return out


@pytest.mark.parametrize(
    "alter",
    [
        lambda logits: logits + torch.linspace(0, 1, VOCABULARY),
        lambda logits: 1.5 * logits,
        lambda logits: 3 * torch.tanh(logits / 3),
        lambda logits: logits.flip(-1),
    ],
    ids=["bias", "scale", "cap", "order"],
)
def test_an_architecture_that_alters_its_logits_in_an_unknown_way_is_refused_by_name(alter):
    plain = model("llama", 0)
    altered = AltersLogits(plain.config).double().eval()
    altered.load_state_dict(plain.state_dict())
    check_lm_head(altered)
    altered.alter = alter
    with pytest.raises(UserError, match="AltersLogits changes its logits"):
        check_lm_head(altered)


# --- blocks


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_stack_of_blocks_is_found(architecture):
    reference = model(architecture, 0)
    assert decoder_layers(reference) is reference.get_submodule(BLOCKS.get(architecture, "model.layers"))


# --- dropout


@pytest.mark.parametrize("architecture", CONFIGS)
def test_dropout_is_off_in_training_mode_also_where_it_is_a_number(architecture):
    config = AutoConfig.for_model(architecture, **CONFIGS[architecture], vocab_size=VOCABULARY, eos_token_id=1)
    rates = [name for name, value in config.to_dict().items() if "drop" in name and isinstance(value, float)]
    assert rates or architecture == "cohere"
    for name in rates:
        setattr(config, name, 0.5)
    torch.manual_seed(0)
    noisy = AutoModelForCausalLM.from_config(config).train()
    with torch.no_grad():
        for parameter in noisy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ids = torch.arange(12)[None]

    def logits(mode):
        with torch.no_grad():
            return noisy.train(mode)(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits

    if rates:
        assert not torch.allclose(logits(True), logits(False))
    disable_dropout(noisy)
    assert torch.equal(logits(True), logits(False))


def test_a_model_that_looks_ahead_is_refused_by_name():
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    looking = BertLMHeadModel(BertConfig(vocab_size=20, initializer_range=0.5, **sizes)).eval()
    with pytest.raises(UserError, match="BertLMHeadModel (is no causal LM|changes its logits in an unknown way)"):
        check_lm_head(looking)
