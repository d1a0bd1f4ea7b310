"""Model folders that are broken, contradict themselves or are made to be slow: one early error line."""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sparsepo.config.models import FolderModel
from sparsepo.data.prompts import PromptBuilder
from sparsepo.models.loading import fetch_model, load_model, save_model
from sparsepo.models.prompting import prompt_builder
from sparsepo.runtime.errors import UserError

CORPUS = ["the film was good", "a plot of no interest"] * 3
SCRATCH = {
    "source": "scratch",
    "config": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "tokenizer": {"kind": "word", "vocab_size": 200},
    "seed": 0,
    "dtype": "float32",
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A model folder of others, without checksums of this project."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(*fetch_model(SCRATCH, CORPUS), folder)
    shutil.rmtree(folder / ".checksums")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def change_config(folder, **changed):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def header(folder, length, text=b""):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + text)


def many_tensors(folder):
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"t{number}": entry for number in range(300_000)}).encode()
    header(folder, len(text), text)


def bind(folder):
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s.json")
    os.chdir(here)


BROKEN = {
    "a header of 2**60 bytes": (
        lambda folder: header(folder, 2**60),
        "its header would have 1,152,921,504,606,846,976",
    ),
    "a header of 300,000 tensors": (many_tensors, "its header would have"),
    "a nested header": (lambda folder: header(folder, 10**6, b"[" * 10**6), "not safetensors, or not all of it"),
    "a nested config": (
        lambda folder: (folder / "config.json").write_text("[" * 10**6),
        "config.json is not the config",
    ),
    "a config of a list": (lambda folder: (folder / "config.json").write_text("[1]"), "config.json is not the config"),
    "a config of 17 MB": (lambda folder: change_config(folder, x="x" * (17 << 20)), "JSON of at most 16 MB"),
    "a billion layers": (
        lambda folder: change_config(folder, n_layer=10**9),
        "1,000,000,000 layers, and its weights are",
    ),
    "a pipe as weights": (
        lambda folder: os.mkfifo(folder / "a.safetensors"),
        "a.safetensors is a pipe, socket or device",
    ),
    "a pipe beside them": (lambda folder: os.mkfifo(folder / "vocab.txt"), "vocab.txt is a pipe, socket or device"),
    "a socket": (bind, "s.json is a pipe, socket or device"),
    "an adapter beside a model": (
        lambda folder: (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}'),
        r"holds a model \(config.json\) and an adapter \(adapter_config.json\): remove one of these files",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_told_when_the_config_is_read_and_when_it_is_loaded(folder, case):
    break_it, message = BROKEN[case]
    break_it(folder)
    start = time.perf_counter()
    with pytest.raises(ValidationError, match=message):
        FolderModel(source="folder", path=folder)
    with pytest.raises(UserError, match=message):
        load_model(folder)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(("changed", "message"), [({"n_embd": 32}, "cannot be loaded"), ({"vocab_size": 99}, "cannot")])
def test_a_config_and_weights_of_other_shapes_are_one_error(folder, changed, message):
    change_config(folder, **changed)
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_weights_that_the_config_has_no_place_for_are_told(folder, capsys):
    change_config(folder, n_layer=1)
    load_model(folder)
    assert re.search(r"^warning: .*: \d+ tensors of its files are not in the model of", capsys.readouterr().out)


# --- tokenizers


def builder(folder) -> PromptBuilder:
    data = {"on_long_prompt": "drop"}
    return prompt_builder(FolderModel(source="folder", path=folder), data, None, (16, 8))


def test_a_prompt_with_an_id_beyond_the_embedding_is_refused_with_its_place(saved, folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(saved)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    made = builder(folder)
    assert made.prompt("the film was", "a.jsonl:1").prompt == "the film was"
    size = len(tokenizer) - 1
    with pytest.raises(
        UserError, match=rf"^a.jsonl:2: the tokenizer makes id {size} \('zebra'\).*vocab_size {size}: use"
    ):
        made.prompt("the zebra", "a.jsonl:2")


def with_pattern(folder, pattern):
    made = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<unk>").save_pretrained(folder)


JOB = """
import sys
from pathlib import Path
from sparsepo.config.models import FolderModel
from sparsepo.models import prompting
from sparsepo.runtime.entry_point import run_main
prompting.PROBE_SECONDS = float(sys.argv[2])
model = FolderModel(source="folder", path=Path(sys.argv[1]))
run_main(lambda: prompting.prompt_builder(model, {"on_long_prompt": "drop"}, None, (16, 8)))
"""


@pytest.mark.parametrize(
    ("pattern", "seconds", "message"),
    [
        ("(a+)+$", 60, "error: the tokenizer gave up on a text (Onig"),
        ("a*a*[^a!]", 1, "error: the tokenizer needs more than"),
    ],
    ids=["exponential", "cubic"],
)
def test_a_regular_expression_of_a_tokenizer_that_explodes_is_told_in_the_first_job(folder, pattern, seconds, message):
    with_pattern(folder, pattern)
    done = subprocess.run([sys.executable, "-c", JOB, folder, str(seconds)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(message)
