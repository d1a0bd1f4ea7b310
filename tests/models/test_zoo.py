"""Causal LMs of many more families: each is computed right, in some layout and in any batch, or refused by name."""

import copy
import random
from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import AdapterConfig
from sparsepo.data.encoding import TokenPair
from sparsepo.data.records import Prompt
from sparsepo.generation.generate import sample
from sparsepo.models import adapters
from sparsepo.models.architecture import check_lm_head, checkpoint_blocks
from sparsepo.models.loading import disable_dropout
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.layout_choice import choose_layout

VOCABULARY, WINDOW = 37, 12
SIZES = {
    **{name: 32 for name in ("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim", "lru_width")},
    **{name: 2 for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_key_value_heads")},
    **{name: 4 for name in ("num_attention_heads", "n_head", "n_heads", "num_heads", "rotary_dim", "state_size")},
    **{name: 24 for name in ("intermediate_size", "n_inner", "ffn_dim", "intermediate_size_mlp", "dim_ff")},
    **{name: 8 for name in ("head_dim", "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim")},
    **{name: 8 for name in ("v_head_dim", "mamba_d_head", "mamba_n_heads", "moe_intermediate_size")},
    **{name: 64 for name in ("max_position_embeddings", "n_positions", "max_seq_len")},
    **{name: 4 for name in ("num_experts", "num_local_experts", "n_routed_experts", "hidden_size_per_layer_input")},
    **{name: WINDOW for name in ("sliding_window", "window_size", "attention_window_size")},
    **{"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "mamba_d_state": 4},
    **{"vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1},
    **{"pad_token_id": 1, "is_decoder": True},
}
"""Whatever an architecture calls it; it is given what its config knows."""
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
SHARED = {  # with what has to be told
    "cohere2": MIXED,
    "deepseek_v3": {"num_key_value_heads": 4, "qk_head_dim": 16},
    "gemma3_text": MIXED,
    "granitemoe": {},
    "helium": {},
    "minicpm3": {"num_key_value_heads": 4, "head_dim": 16},
    "mixtral": {},
    "nemotron": {},
    "olmo2": {},
    "phi": {},
    "phi3": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 1},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
}
OTHERS = {  # whose attention is closed, has a window that nobody is told, or is none
    "bloom": {},
    "codegen": {},
    "falcon": {"alibi": False},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64, "lm_head_multiplier": 0.3},
    "gpt_neo": {"num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gpt_oss": MIXED,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {"attention_chunk_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "mpt": {},
    "openai-gpt": {},
    "phimoe": {},
    "recurrent_gemma": {"num_hidden_layers": 3, "logits_soft_cap": 3.0},
    "vaultgemma": {"final_logit_softcapping": 3.0, "attn_logit_softcapping": None, **MIXED},
    "xglm": {"num_layers": 2, "attention_heads": 4},
    "rwkv": {"attention_hidden_size": 32},
    "xlstm": {"output_logit_soft_cap": 3.0},
}
COMPUTED = SHARED | OTHERS
APART = {"recurrent_gemma": "in batches of one length", "rwkv": "one at a time"}
FAILS_TO_GENERATE = ("xlstm",)
"""In transformers' own `generate`, with heads as small as these."""
REFUSED = {
    "bert": "changes its logits",
    "cpmant": "is no causal LM",
    "modernbert-decoder": "changes its logits",
    "rembert": "changes its logits",
    "xlnet": "is no causal LM",
}
DRAWN = random.Random(0)
PAIRS = [
    TokenPair(*([DRAWN.randrange(2, VOCABULARY) for _ in range(size)] for size in sizes))
    for sizes in ((3, 4, 2), (14, 1, 7), (1, 3, 2), (8, 5, 2))
]
"""Sequences of 3 to 21 tokens, two of them longer than any window."""


@cache
def model(architecture, seed):
    """Tiny and random, its weights large enough that nothing is nearly linear."""
    told = COMPUTED.get(architecture, {})
    config = AutoConfig.for_model(architecture)
    known, other_name = set(config.to_dict()) | set(config.attribute_map), config.attribute_map
    given = {name: size for name, size in SIZES.items() if name in known} | told
    given = {name: size for name, size in given.items() if other_name.get(name) not in given}
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **given))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return disable_dropout(made).eval()


@torch.no_grad()
def log_probs(causal_lm, prompt, response):
    ids = torch.tensor([prompt + response])
    logits = causal_lm(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(response)), response]


@pytest.mark.parametrize("architecture", COMPUTED)
def test_log_probs_in_the_best_layout_are_those_of_the_models_own_logits(architecture, capsys):
    """Alone and without padding; in a layout that was tried before, with a line for each that does not do."""
    policy, reference = model(architecture, 0), model(architecture, 1)
    check_lm_head(policy)
    best = choose_layout([copy.deepcopy(policy)], "auto", PAIRS)
    assert (best == "shared") == (architecture in SHARED), capsys.readouterr().out
    for layout in {"padded", best}:
        records = inspect_pairs(copy.deepcopy(policy), copy.deepcopy(reference), PAIRS, "dpo", layout=layout)
        for record, pair in zip(records, PAIRS, strict=True):
            for side in ("chosen", "rejected"):
                for field, causal_lm in (("logps", policy), ("ref_logps", reference)):
                    expected = log_probs(causal_lm, pair.prompt, getattr(pair, side))
                    torch.testing.assert_close(torch.tensor(record[side][field]), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("architecture", REFUSED)
def test_an_architecture_whose_log_probs_would_be_wrong_is_refused(architecture):
    causal_lm = model(architecture, 0)
    with pytest.raises(UserError, match=f"{type(causal_lm).__name__} .*{REFUSED[architecture]}"):
        check_lm_head(causal_lm)


def test_a_model_that_is_moved_by_padding_behind_its_tokens_is_refused(monkeypatch):
    causal_lm = copy.deepcopy(model("qwen3", 0))
    check_lm_head(causal_lm)
    forward = causal_lm.model.forward

    def counts_padding(input_ids, attention_mask, **others):
        embedded = causal_lm.get_input_embeddings()(input_ids) + (attention_mask == 0).sum()
        return forward(attention_mask=attention_mask, **others | {"inputs_embeds": embedded})

    monkeypatch.setattr(causal_lm.model, "forward", counts_padding)
    with pytest.raises(UserError, match="Qwen3ForCausalLM reads padding"):
        check_lm_head(causal_lm)


@pytest.mark.parametrize("architecture", ["qwen4_exp_text", "hy_v4"])
def test_learned_masks_refuse_blocks_that_put_out_several_states_a_token(architecture):
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"layer 0 of 2 is \(.*not one state of width 32 a token.*another `mask`"):
        inspect_pairs(model(architecture, 0), model(architecture, 1), PAIRS, "sparsepo_common")


# --- activations


LACKING = {
    **dict.fromkeys(("bloom", "falcon", "mpt", "openai-gpt", "xglm"), "query in 2 of 2 layers"),
    **dict.fromkeys(("granitemoe", "mixtral", "gpt_oss", "llama4_text", "phimoe"), "nonlinearity in 2 of 2 layers"),
    **dict.fromkeys(("lfm2", "mamba2", "rwkv", "xlstm"), "nonlinearity in 2 of 2 layers"),
    "xlstm": "attention output in 2 of 2 layers",
    "cohere2": "rotated query in 1 of 2 layers",
    "deepseek_v3": "nonlinearity in 1 of 2 layers",
    "recurrent_gemma": "attention output in 2 of 3 layers",
}
"""Architecture -> one of the activations that are told as left out in the authors' reading; else none is."""


@pytest.mark.parametrize("architecture", COMPUTED)
def test_a_mask_from_activations_tells_what_an_architecture_lacks(architecture, capsys):
    weights = {}
    for reading in ("paper", "authors"):
        causal_lm = copy.deepcopy(model(architecture, 0))
        given = {"reading": reading}
        records = [
            inspect_pairs(causal_lm, causal_lm, PAIRS, "mapo", given, batch_size=size, layout="padded")
            for size in (1, 4)
        ]
        weights[reading], alone = (
            torch.tensor([weight for record in each for weight in record["chosen"]["m_u"]]) for each in records
        )
        torch.testing.assert_close(weights[reading], alone, rtol=1e-3, atol=1e-3)
    assert weights["authors"].min() >= 0 and weights["paper"].min() < 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mask from")]
    assert len(lines) == 2
    assert ("left out" in lines[1]) == (architecture in LACKING)
    assert LACKING.get(architecture, "") in lines[1]


# --- sampling


PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [3, 4, 5], [12, 2, 5, 7, 2, 9, 8, 9, 9, 3, 12, 31, 14, 15], [36], [4] * 8]
NEW = 6


class Ids:
    """A tokenizer of texts that are numbers."""

    pad_token_id, eos_token_id = 1, 1

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [int(number) for number in text.split() if number.isdigit()]}

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(map(str, ids))


@torch.no_grad()
def most_likely(causal_lm, prompt):
    """The greedy continuation, computed from the start for each token; up to the end token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + NEW and ids[len(prompt) :][-1:] != [Ids.eos_token_id]:
        row = torch.tensor([ids])
        ids.append(int(causal_lm(row, attention_mask=torch.ones_like(row), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("architecture", [name for name in COMPUTED if name not in FAILS_TO_GENERATE])
def test_a_sampled_text_does_not_depend_on_the_prompts_beside_it(architecture, capsys):
    causal_lm = model(architecture, 0)
    config = SamplingConfig(max_new_tokens=NEW, temperature=1e-3, batch_size=4)
    prompts = [Prompt(" ".join(map(str, prompt))) for prompt in PROMPTS]
    found = [made.tokens for made in sample(causal_lm, Ids(), prompts, config)]
    assert found == [most_likely(causal_lm, prompt) for prompt in PROMPTS]
    warnings = [line for line in capsys.readouterr().out.splitlines() if type(causal_lm).__name__ in line]
    assert len(warnings) == (architecture in APART)
    assert all(APART[architecture] in line for line in warnings)


# --- adapters and checkpointing


@pytest.mark.parametrize("architecture", ["bloom", "gpt_oss", "llama4_text", "mixtral", "phi3", "phimoe", "rwkv"])
def test_what_an_adapter_learned_is_merged_into_plain_weights(architecture):
    """Routers of experts, which are linear maps in some of these, are not adapted."""
    causal_lm, ids = copy.deepcopy(model(architecture, 0)), torch.tensor([[3, 4, 5, 6, 7]])
    adapters.add_adapter(causal_lm, AdapterConfig(rank=2))
    torch.manual_seed(0)
    for value in adapters.adapter_parameters(causal_lm).values():
        torch.nn.init.normal_(value, std=0.2)
    with torch.no_grad():
        plain, adapted, first = (
            each(ids).logits for each in (adapters.merge_adapter(causal_lm), causal_lm, model(architecture, 0))
        )
    torch.testing.assert_close(plain, adapted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(adapted, first, atol=0.1)


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys")  # of peft, about the experts
@pytest.mark.parametrize(
    "architecture, reason", [("deepseek_v3", "would adapt the experts"), ("mamba2", "cannot adapt")]
)
def test_maps_that_cannot_be_adapted_are_told_and_others_can(architecture, reason):
    with pytest.raises(UserError, match=f"peft .*{reason}.*adapter.target_modules"):
        adapters.add_adapter(copy.deepcopy(model(architecture, 0)), AdapterConfig())
    adapters.add_adapter(copy.deepcopy(model("deepseek_v3", 0)), AdapterConfig(target_modules=["o_proj"]))


def test_a_model_that_cannot_compute_blocks_again_is_told():
    with pytest.raises(UserError, match="gradient_checkpointing: OpenAIGPTLMHeadModel does not support"):
        checkpoint_blocks(model("openai-gpt", 0))
