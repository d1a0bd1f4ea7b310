"""What a model can read: its context and its vocabulary are found wherever its config has them, and are kept to."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo.data.encoding import TokenPair
from sparsepo.models.architecture import decoder_layers
from sparsepo.models.limits import check_sequences, context_length, text_config
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.layout_choice import choose_layout

VOCABULARY = 40
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 48,
    "initializer_range": 0.2,
}
PAIRS = [TokenPair([2, 3, 4], [5, 6, 7], [8, 9]), TokenPair([4, 5], [6] * 3, [7, 8, 9, 10])]


def causal_lm(architecture, seed=0, **changed):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, **changed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def of_text_and_images(seed=0):
    """The image encoder has as many blocks as the text model."""
    layers = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision |= {"image_size": 28, "patch_size": 14}
    return causal_lm("gemma3", seed, text_config=SIZES | layers, vision_config=vision, mm_tokens_per_image=4)


@torch.no_grad()
def log_probs(model, prompt, response):
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logits[torch.arange(len(response)), response].tolist()


# --- nested configs


def test_the_text_part_of_a_model_for_images_is_what_is_read_and_masked():
    model = of_text_and_images()
    assert text_config(model).vocab_size == VOCABULARY and context_length(model) == 48
    assert decoder_layers(model) is model.get_decoder().layers


@pytest.mark.parametrize("method", ["tdpo1", "sparsepo_independent", "mapo"])
def test_a_model_for_images_gives_its_own_log_probs_in_every_layout(method):
    policy, reference = of_text_and_images(0), of_text_and_images(1)
    assert choose_layout([copy.deepcopy(policy)], "auto", PAIRS) == "shared"
    for layout in ("padded", "pairs", "shared"):
        models = copy.deepcopy(policy), copy.deepcopy(reference)
        for record, pair in zip(inspect_pairs(*models, PAIRS, method, layout=layout), PAIRS, strict=True):
            for side in ("chosen", "rejected"):
                expected = log_probs(policy, pair.prompt, getattr(pair, side))
                assert record[side]["logps"] == pytest.approx(expected, abs=1e-5)


# --- lengths


def test_the_context_of_mpt_is_its_max_seq_len():
    model = causal_lm("mpt", d_model=16, n_heads=2, n_layers=1, max_seq_len=16, vocab_size=VOCABULARY)
    assert context_length(model) == 16
    check_sequences(model, [[2] * 16])
    with pytest.raises(UserError, match="a sequence has 17 tokens, and MptForCausalLM can read 16"):
        check_sequences(model, [[2] * 16, [2] * 17])


def with_two_tables():
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 5.0, 8.0]}
    rope["original_max_position_embeddings"] = 12
    return causal_lm("phi3", **SIZES, rope_parameters=rope, original_max_position_embeddings=12, pad_token_id=1)


def test_log_probs_that_would_depend_on_the_longest_of_the_batch_are_refused():
    model, long = with_two_tables(), TokenPair([2, 3], [4] * 11, [5])
    with torch.no_grad():  # so that the refusal says something: a longer sequence beside it moves the first one
        alone = model(torch.tensor([[2, 3, 4]])).logits
        padded = torch.tensor([[2, 3, 4] + [0] * 10, list(range(2, 15))])
        positions = torch.tensor([[0, 1, 2] + [2] * 10, list(range(13))])
        beside = model(padded, position_ids=positions, attention_mask=(padded > 0).long()).logits[:1, :3]
        assert (alone - beside).abs().max() > 0.01
    message = r"has 13 tokens, and above 12 the positions of Phi3ForCausalLM \(longrope\) depend on the other sequences"
    with pytest.raises(UserError, match=message):
        inspect_pairs(model, copy.deepcopy(model), [*PAIRS, long], "dpo")
    for record, pair in zip(inspect_pairs(model, copy.deepcopy(model), PAIRS, "dpo"), PAIRS, strict=True):
        assert record["chosen"]["logps"] == pytest.approx(log_probs(model, pair.prompt, pair.chosen), abs=1e-5)


def test_a_table_that_grows_with_the_batch_is_never_grown_within_the_context():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    model = causal_lm("llama", **SIZES | {"max_position_embeddings": 12}, rope_parameters=rope)
    check_sequences(model, [[2] * 12])
    with pytest.raises(UserError, match="a sequence has 13 tokens, and LlamaForCausalLM can read 12"):
        check_sequences(model, [[2] * 13])


# --- ids


def test_ids_below_the_rows_of_the_embedding_are_read_and_others_named():
    model = causal_lm("llama", **SIZES)
    model.resize_token_embeddings(64, mean_resizing=False)
    check_sequences(model, [[0, 63]])
    with pytest.raises(UserError, match="token id 64 is outside of the vocabulary of LlamaForCausalLM, ids 0 to 63: "):
        check_sequences(model, [[0, 64, 70]])
