"""What may come with a model beside tensors: pickled weights and code are refused unless the config names them."""

import json
import os
import shutil
import sys

import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertForSequenceClassification

from sparsepo.config.models import FolderModel, HubModel
from sparsepo.evaluation.scorers import load_classifier
from sparsepo.models.loading import fetch_model, load_model, load_tokenizer, save_model
from sparsepo.runtime.errors import UserError

CORPUS = ["the film was good", "a plot of no interest"] * 3
SCRATCH = {
    "source": "scratch",
    "config": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "tokenizer": {"kind": "word", "vocab_size": 200},
    "seed": 0,
    "dtype": "float32",
}
CODE = """
from pathlib import Path
from transformers import GPT2Config, GPT2LMHeadModel

Path({proof!r}).write_text("ran")


class TinyConfig(GPT2Config):
    model_type = "tiny-of-its-own"


class TinyLM(GPT2LMHeadModel):
    config_class = TinyConfig

    def forward(self, *given, **named):
        found = super().forward(*given, **named)
        found.logits = 2 * found.logits
        return found
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model folder with safetensors; what transformers copies of a model's code stays in this test."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    save_model(*fetch_model(SCRATCH, CORPUS), tmp_path / "model")
    yield tmp_path / "model"
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def spec(folder, **allowed):
    return FolderModel(source="folder", path=folder, **allowed).model_dump()


# --- pickled weights


def pickled(folder):
    """The same weights as torch.save writes them."""
    state = load_model(folder).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return state


def test_pickled_weights_are_refused_and_the_option_is_named(folder):
    pickled(folder)
    with pytest.raises(
        ValidationError, match="pickled weights are refused unless the config says pickled_weights: true"
    ):
        spec(folder)
    with pytest.raises(UserError, match="refused unless the config says pickled_weights: true"):
        load_model(folder)


def test_pickled_weights_that_are_allowed_load_and_are_saved_as_safetensors(folder, tmp_path):
    state = pickled(folder)
    model, tokenizer = fetch_model(spec(folder, pickled_weights=True), [])
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    save_model(model, tokenizer, tmp_path / "saved")
    suffixes = {path.suffix for path in (tmp_path / "saved").iterdir() if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jinja"}
    load_model(tmp_path / "saved")


class Malicious:
    """Unpickling this runs a command."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def test_what_is_hidden_in_pickled_weights_does_not_run_even_where_they_are_allowed(folder, tmp_path):
    proof = tmp_path / "ran"
    torch.save(pickled(folder) | {"extra": Malicious(proof)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="contain more than tensors, and only tensors are read"):
        fetch_model(spec(folder, pickled_weights=True), [])
    assert not proof.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert proof.exists()  # it would have


def test_safetensors_are_preferred_to_pickled_weights_that_lie_beside(folder, tmp_path):
    torch.save({"extra": Malicious(tmp_path / "ran")}, folder / "pytorch_model.bin")
    for allowed in (False, True):
        fetch_model(spec(folder, pickled_weights=allowed), [])
    assert not (tmp_path / "ran").exists()


def test_a_pickled_classifier_is_refused_unless_it_is_allowed(folder, tmp_path):
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=200, **size))
    load_tokenizer(folder).save_pretrained(tmp_path / "classifier")
    model.save_pretrained(tmp_path / "classifier")
    torch.save(model.state_dict(), tmp_path / "classifier/pytorch_model.bin")
    (tmp_path / "classifier/model.safetensors").unlink()
    with pytest.raises(UserError, match="refused unless the config says pickled_weights: true"):
        load_classifier(str(tmp_path / "classifier"), "scorer model")
    load_classifier(str(tmp_path / "classifier"), "scorer model", pickled_weights=True)


# --- code of a model's own


@pytest.fixture
def own(folder, tmp_path):
    """The folder with an architecture of its own, whose module leaves a file as soon as it is imported."""
    shutil.rmtree(folder / ".checksums")  # as another program wrote it
    settings = json.loads((folder / "config.json").read_text())
    modules = {"AutoConfig": "modeling_tiny.TinyConfig", "AutoModelForCausalLM": "modeling_tiny.TinyLM"}
    settings |= {"model_type": "tiny-of-its-own", "architectures": ["TinyLM"], "auto_map": modules}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "modeling_tiny.py").write_text(CODE.format(proof=str(tmp_path / "ran")))
    return folder


def test_code_of_a_model_does_not_run_unless_the_config_says_so_in_words(own, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: "y")  # transformers would ask
    for load in (
        lambda: fetch_model(spec(own), []),
        lambda: load_model(own),
        lambda: load_model(own, dtype="bfloat16"),
    ):
        with pytest.raises(
            UserError, match="modeling_tiny.TinyLM.*only if the config says model.trust_remote_code: true"
        ):
            load()
    with pytest.raises(UserError):
        load_classifier(str(own), "scorer model")
    assert not (tmp_path / "ran").exists()


def test_code_that_is_allowed_runs_is_named_in_the_log_and_goes_with_the_saved_model(own, tmp_path, capsys):
    model, tokenizer = fetch_model(spec(own, trust_remote_code=True), [])
    assert type(model).__name__ == "TinyLM" and (tmp_path / "ran").exists()
    log = capsys.readouterr().out
    assert f"code of {own} at revision modeling_tiny.py:" in log and "modeling_tiny.TinyLM" in log
    save_model(model, tokenizer, tmp_path / "saved")
    with pytest.raises(UserError, match="trust_remote_code: true"):
        load_model(tmp_path / "saved")
    again = load_model(tmp_path / "saved", trust_remote_code=True)
    row = torch.tensor([[3, 4, 5]])
    assert torch.equal(again(row).logits, model(row).logits)
    load_tokenizer(tmp_path / "saved")


def test_code_of_another_repository_never_runs(own):
    settings = json.loads((own / "config.json").read_text())
    settings["auto_map"]["AutoConfig"] = "someone/else--modeling_tiny.TinyConfig"
    (own / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="names code of another repository .someone/else--modeling_tiny.TinyConfig"):
        fetch_model(spec(own, trust_remote_code=True), [])


def test_a_model_without_code_of_its_own_says_nothing_of_code(folder, capsys):
    fetch_model(spec(folder, trust_remote_code=True), [])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("option", ["trust_remote_code", "pickled_weights"])
@pytest.mark.parametrize("value", [1, "yes", "on", "True", 1.0, "1", [True], None])
def test_nothing_but_true_allows_anything(option, value):
    with pytest.raises(ValidationError, match="must be true or false, not"):
        HubModel(source="hub", id="x/y", **{option: value})
    assert getattr(HubModel(source="hub", id="x/y", **{option: "true"}), option) is True  # of the command line
    assert getattr(HubModel(source="hub", id="x/y"), option) is False
