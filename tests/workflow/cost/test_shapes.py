"""How large a model is, told without loading it: the counts of transformers, from configs, headers and names."""

import json

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo.config.models import FolderModel, GgufModel, HubModel, ScratchModel, TokenizerConfig
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.cost.shapes import number_in, shape_of, typical

GPT2 = {"n_layer": 3, "n_embd": 48, "n_head": 4, "n_positions": 32}
LLAMA = {
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
TYPES = {
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gptj": GPT2 | {"rotary_dim": 4},
    "gpt_neox": {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"},
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 12},
    "llama-tied": LLAMA | {"tie_word_embeddings": True},
}
VOCABULARY = 100


def made(name):
    """A random model of this type, and the config that makes it."""
    given = {"model_type": name.split("-")[0], **TYPES[name]}
    config = AutoConfig.for_model(**given, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=1)
    return AutoModelForCausalLM.from_config(config), given


def scratch(given):
    return ScratchModel(source="scratch", config=given, tokenizer=TokenizerConfig(vocab_size=VOCABULARY))


@pytest.mark.parametrize("name", TYPES)
def test_a_config_says_within_two_percent_how_many_weights_it_makes(name):
    model, given = made(name)
    shape = shape_of(scratch(given))
    assert shape.parameters == pytest.approx(model.num_parameters(), rel=0.02)
    assert (shape.layers, shape.width, shape.vocabulary, shape.context) == (3, 48, VOCABULARY, shape.context)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_the_weights_of_a_folder_are_counted_without_reading_them(tmp_path, name):
    model, _ = made(name)
    model.save_pretrained(tmp_path)
    shape = shape_of(FolderModel(source="folder", path=tmp_path))
    assert shape.parameters == model.num_parameters()
    outside = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    assert shape.embeddings == sum(weight.numel() for weight in outside)


def test_what_the_config_says_of_a_folder_does_not_replace_what_its_files_hold(tmp_path):
    model, _ = made("gpt2")
    model.save_pretrained(tmp_path)
    assert shape_of(FolderModel(source="folder", path=tmp_path), 7e9).parameters == model.num_parameters()


@pytest.mark.parametrize("damage", ["cut", "text", "config"])
def test_a_folder_that_cannot_be_read_is_named_in_a_sentence(tmp_path, damage):
    model, _ = made("gpt2")
    model.save_pretrained(tmp_path)
    target = tmp_path / ("config.json" if damage == "config" else "model.safetensors")
    target.write_bytes({"cut": target.read_bytes()[:100], "text": b"no weights", "config": b"[1]"}[damage])
    with pytest.raises(UserError, match=f"{tmp_path.name}: its config.json or the header of its weights cannot be"):
        shape_of(FolderModel(source="folder", path=tmp_path))


NAMES = {
    "pythia-1.4b-deduped": 1.4e9,
    "Meta-Llama-3-8B-Instruct": 8e9,
    "SmolLM2-135M-Instruct.Q4_1.gguf": 1.35e8,
    "Qwen3-30B-A3B": 3e10,
    "opt-350m": 3.5e8,
    "gpt2-large": None,
    "Mixtral-8x7B-v0.1": None,
    "phi-2": None,
    "gpt-4bit": None,
}


@pytest.mark.parametrize(("name", "count"), NAMES.items(), ids=NAMES)
def test_a_name_says_how_many_weights_there_are_or_nothing(name, count):
    assert number_in(name) == count


def test_the_organisation_of_a_hub_model_says_nothing_of_its_size():
    with pytest.raises(UserError, match="how large '7b/gpt2' is cannot be told"):
        shape_of(HubModel(source="hub", id="7b/gpt2"))


@pytest.mark.parametrize(
    "model",
    [
        HubModel(source="hub", id="gpt2-large"),
        GgufModel(source="gguf", package="not-installed"),
        scratch({"model_type": "gpt2"}),
        scratch({"model_type": "gpt2", "n_layer": "four", "n_embd": True}),
    ],
    ids=["hub", "gguf", "scratch", "wrong"],
)
def test_a_size_that_nobody_knows_is_asked_for_and_believed(model):
    with pytest.raises(UserError, match=r"give resources.parameters, its number of weights, as in 1.4e9"):
        shape_of(model)
    assert shape_of(model, 7.74e8).parameters == 7.74e8


# parameters, layers, width of GPT-2 large, Pythia-1.4B, Llama-3-8B and Llama-3-70B as their configs have them
KNOWN = {"gpt2-large": (7.74e8, 36, 1280), "1.4b": (1.4e9, 24, 2048), "8b": (8e9, 32, 4096), "70b": (7e10, 80, 8192)}


@pytest.mark.parametrize(("count", "layers", "width"), KNOWN.values(), ids=KNOWN)
def test_layers_times_width_of_a_number_of_weights_are_a_fair_guess(count, layers, width):
    """Activations and caches grow with this product."""
    shape = typical(count)
    assert shape.layers * shape.width == pytest.approx(layers * width, rel=0.35)


def test_headers_of_shards_are_added_up(tmp_path):
    model, _ = made("llama")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == VOCABULARY
    assert shape_of(FolderModel(source="folder", path=tmp_path)).parameters == model.num_parameters()
