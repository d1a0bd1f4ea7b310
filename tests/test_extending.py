"""docs/extending.md, followed: its code goes where the page says, and a run is trained with it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.data.records import Preference, as_record
from sparsepo.methods.registry import check_parameters
from sparsepo.models.loading import train_tokenizer
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.code_version import ROOT, SourceTree, choices

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PACKAGE = Path("src/sparsepo")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.M | re.S)


# code of the page, in its order -> file, and the line that opens its table; a definition is put at the end of its file
PLACES = [
    ("objective/fixed_masks.py", None),
    ("methods/method.py", "MASKS: dict[str, Mask] = {\n"),
    ("objective/losses.py", None),
    ("methods/registry.py", "METHODS: dict[str, Method] = {\n"),
]

TRIED = """
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pydantic import TypeAdapter, ValidationError

from sparsepo.config.grids import Methods
from sparsepo import METHODS, EarlyHead, PreferenceTrainer, exponential, inspect_pairs
from sparsepo.config.training import PreferenceConfig
from sparsepo.models.loading import train_tokenizer

grids = TypeAdapter(Methods)
grids.validate_python({"dpo": {"beta": ["0.1"], "mask": ["none", "early"]}})
grids.validate_python({"exponential": {"beta": ["0.1"], "mask": "early"}})
try:
    grids.validate_python({"dpo": {"beta": ["0.1"], "mask": ["early"], "l1_u": ["1"]}})
except ValidationError as error:
    print(error.errors()[0]["msg"])
torch.set_num_threads(1)
words = [f"w{number}" for number in range(40)]
tokenizer = train_tokenizer([" ".join(words)], "word", 60)
texts = [(words[at], f" {words[at + 1]} {words[at + 2]}", f" {words[at + 3]}") for at in range(30)]
pairs = [dict(zip(("prompt", "chosen", "rejected"), text)) for text in texts]
torch.manual_seed(0)
ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=len(tokenizer), **ids)
policy, reference = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
policy.load_state_dict(reference.state_dict())
for method in ("dpo", "exponential"):
    hyper = {"beta": 1.0, "mask": "early"}
    settings = PreferenceConfig(batch_size=10, max_steps=3, learning_rate=1e-2, warmup_ratio=0, checkpoint_every=0)
    given = {"method": method, "hyper": hyper, "config": settings, "folder": sys.argv[1]}
    trainer = PreferenceTrainer(policy, reference, tokenizer, pairs, **given)
    if method == "dpo":
        trainer.train()
    pair = {"prompt": [5], "chosen": [6, 7, 8], "rejected": [9]}
    found = inspect_pairs(policy.eval(), reference, [pair], method, hyper)[0]
    margin = found["reward_chosen"] - found["reward_rejected"]
    print(method, found["chosen"]["m_u"], found["rejected"]["m_u"], found["loss"], margin)
"""


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A copy of the code with what the page adds."""
    copy = tmp_path_factory.mktemp("followed")
    for name in ("src", "workflow_scripts"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for code, (name, opening) in zip(blocks("python"), PLACES, strict=True):
        path = copy / PACKAGE / name
        text = path.read_text()
        assert opening is None or text.count(opening) == 1
        path.write_text(f"{text}\n\n{code}" if opening is None else text.replace(opening, opening + code))
    return copy


def test_a_mask_is_one_class_and_one_row_and_a_loss_one_function_and_one_row():
    definitions = [ast.parse(code).body for code in blocks("python")[::2]]
    assert [[type(node) for node in body] for body in definitions] == [[ast.ClassDef], [ast.FunctionDef]]
    rows = [ast.parse(f"{{{code}}}").body[0].value for code in blocks("python")[1::2]]
    assert [len(row.keys) for row in rows] == [1, 1]


def test_the_code_of_the_page_trains_and_weighs_as_it_says(followed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(followed / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRIED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert "parameter 'l1_u' of 'dpo' is not read where mask is 'early'" in lines[0]
    rows = {line.split()[0]: line for line in lines if line.startswith(("dpo ", "exponential "))}
    for line in rows.values():
        assert "[1.0, 0.5, 0.3333333" in line and "[1.0]" in line
    loss, margin = map(float, rows["exponential"].split()[-2:])
    assert margin != 0 and loss == pytest.approx(2.718281828**-margin, rel=1e-5)


def test_what_the_page_adds_plans_no_other_run(followed):
    for settings in ({"loss": "dpo"}, {"loss": "sparsepo", "mask": "layers"}):
        chosen = choices(json.dumps(settings))
        before, after = (
            SourceTree(root).version("workflow_scripts/train_policy.py", chosen) for root in (ROOT, followed)
        )
        assert after == before


def test_the_weights_of_the_page_are_those_of_a_pair():
    (row,) = blocks("json")
    record = as_record(json.loads(row), Preference, "page")
    tokenizer = train_tokenizer(["the film is great", "the film is awful"], "word", 50)
    (pair,) = encode_pairs(Encoder(tokenizer), [record], 10, 10, 32).pairs
    assert pair.values == ([0.2, 1.0, 0.0], [0.1, -0.9, 0.0])


def test_a_wrong_count_of_weights_is_refused_with_the_place_of_the_pair():
    (row,) = blocks("json")
    tokenizer = train_tokenizer(["the film is great", "the film is awful"], "word", 50)
    for changed, sentence in [
        (
            {"chosen_values": [1.0, 2.0]},
            "pair 2: field 'chosen_values' has 2 numbers; the response has 3 tokens, its end",
        ),
        ({"rejected_values": None}, "pair 2: field 'rejected_values' is missing; the response has 3 tokens, its end"),
        ({"rejected_ended": False}, "pair 2: field 'rejected_values' has 3 numbers; the response has 2 tokens$"),
    ]:
        records = [as_record(json.loads(row) | more, Preference, "page") for more in ({}, changed)]
        with pytest.raises(UserError, match=sentence):
            encode_pairs(Encoder(tokenizer), records, 10, 10, 32)


def test_the_methods_of_the_page_are_what_a_config_may_say():
    for text in blocks("yaml")[:1]:
        for method, grid in yaml.safe_load(text)["methods"].items():
            for mask in grid["mask"] if isinstance(grid["mask"], list) else [grid["mask"]]:
                check_parameters(method, {"beta": float(grid["beta"]), "mask": mask})
