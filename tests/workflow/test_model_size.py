"""How large a model is, without loading it: at least what transformers makes, from configs, headers and names."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo.config.models import FolderModel, GgufModel, HubModel, ScratchModel, TokenizerConfig
from sparsepo.workflow.model_size import model_size, number_in, typical_size

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
def test_a_config_says_how_many_parameters_it_makes_at_most(name):
    model, given = made(name)
    size = model_size(scratch(given))
    assert 0.98 * model.num_parameters() <= size.parameters <= 1.6 * model.num_parameters()
    assert size[1:] == (3, 48, VOCABULARY, 32)


@pytest.mark.parametrize("name", TYPES)
def test_the_parameters_of_a_folder_are_counted_without_reading_them(tmp_path, name):
    model, _ = made(name)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    folder = FolderModel(source="folder", path=tmp_path)
    assert model_size(folder) == model_size(folder, 7e9) == (model.num_parameters(), 3, 48, VOCABULARY, 32)


def test_the_size_of_pickled_weights_is_not_known(tmp_path):
    model, _ = made("gpt2")
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    folder = FolderModel(source="folder", path=tmp_path, pickled_weights=True)
    assert model_size(folder) is None and model_size(folder, 7e9).parameters == 7e9


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
    assert model_size(HubModel(source="hub", id="7b/gpt2")) is None


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
def test_a_size_that_nobody_knows_is_believed_where_the_config_gives_it(model):
    assert model_size(model) is None and model_size(model, 7.74e8).parameters == 7.74e8


# parameters, layers, width of GPT-2 large, Pythia-1.4B, Llama-3-8B and Llama-3-70B as their configs have them
KNOWN = {"gpt2-large": (7.74e8, 36, 1280), "1.4b": (1.4e9, 24, 2048), "8b": (8e9, 32, 4096), "70b": (7e10, 80, 8192)}


@pytest.mark.parametrize(("count", "layers", "width"), KNOWN.values(), ids=KNOWN)
def test_layers_times_width_of_a_number_of_parameters_are_a_fair_guess(count, layers, width):
    """Activations and caches grow with this product."""
    size = typical_size(count)
    assert size.layers * size.width == pytest.approx(layers * width, rel=0.35)
