"""Every mistake in a config gets one message: file and line, the place, what was given, what is allowed."""

import copy
import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from sparsepo.config.loading import load_config, read_yaml
from sparsepo.config.runs import find_run, run_pattern, runs_of
from sparsepo.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "config.yaml"
SHIPPED = [DEFAULT, *sorted(set((ROOT / "configs").rglob("*.yaml")) - set((ROOT / "configs/accelerate").iterdir()))]
SCHEMA = ROOT / "schemas/config.schema.json"

MODEL = "{source: scratch, config: {model_type: gpt2, n_embd: 8}, tokenizer: {kind: word, vocab_size: 100}}"
PREFERENCES = "{source: generated, scorer: {kind: vader}, sampling: {samples: 2}}"
TEXT = f"""\
name: small

tasks:
  reviews:
    model: {MODEL}
    data:
      source: planted
      texts: 60
      prompts: {{train: 40, validation: 8, test: 8}}
    sft: {{num_train_epochs: 1}}
    preferences: {PREFERENCES}
    methods:
      dpo: {{beta: ["0.1", "0.5"]}}
      simpo: {{beta: ["2"], gamma: ["0.3"]}}
    seeds: [0]
    training: {{batch_size: 10, frontier_every: 5}}
    sampling: {{samples: 1}}
    evaluation: {{scorer: {{kind: vader}}, token_pairs: 4, frontier_prompts: 8}}
    resources: {{mem_mb: 1000}}
"""
DPO = 'dpo: {beta: ["0.1", "0.5"]}'


@pytest.fixture
def errors(tmp_path):
    """(text, overrides) -> the messages that it gets, one a line."""
    path = tmp_path / "config.yaml"

    def load(text, overrides=None):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError) as caught:
            load_config(path, overrides)
        return str(caught.value).replace(str(path), "FILE").split("\n")

    return load


def edited(*edits):
    text = TEXT
    for old, new in edits:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    return text


def line_of(text, part):
    return text[: text.index(part)].count("\n") + 1


def loaded(tmp_path, text, overrides=None):
    path = tmp_path / "good.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


UNKNOWN_KEYS = [
    ("name: small", "name: small\nnmae: x", "nmae", "nmae", "name"),
    ("    seeds:", "    seed:", "seed:", "tasks.reviews.seed", "seeds"),
    ("n_embd: 8},", "n_embd: 8}, sed: 1,", "sed: 1", "tasks.reviews.model.sed", "seed"),
    ("vocab_size:", "vocab_sise:", "vocab_sise", "tasks.reviews.model.tokenizer.vocab_sise", "vocab_size"),
    ("texts: 60", "text: 60", "text: 60", "tasks.reviews.data.text", "texts"),
    ("{train: 40,", "{train: 40, trian: 1,", "trian", "tasks.reviews.data.prompts.trian", "train"),
    ("{num_train_epochs: 1}", "{num_train_epoch: 1}", "num_train_epoch:", "tasks.reviews.sft.num_train_epoch",
     "num_train_epochs"),
    ("{kind: vader}, s", "{kind: vader, kid: 1}, s", "kid", "tasks.reviews.preferences.scorer.kid", "kind"),
    ("{samples: 2}", "{samples: 2, top_q: 1}", "top_q", "tasks.reviews.preferences.sampling.top_q", "top_p"),
    ("{batch_size: 10,", "{batch_sise: 10,", "batch_sise", "tasks.reviews.training.batch_sise", "batch_size"),
    ("{samples: 1}", "{sample: 1}", "sample: 1", "tasks.reviews.sampling.sample", "samples"),
    ("token_pairs:", "tokenpairs:", "tokenpairs", "tasks.reviews.evaluation.tokenpairs", "token_pairs"),
    ("mem_mb:", "memory_mb:", "memory_mb", "tasks.reviews.resources.memory_mb", "mem_mb"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "mark", "place", "meant"), UNKNOWN_KEYS, ids=[row[3] for row in UNKNOWN_KEYS])
def test_an_unknown_key_is_told_with_its_line_and_the_nearest_of_the_allowed(errors, old, new, mark, place, meant):
    text = edited((old, new))
    (message,) = errors(text)
    assert message.startswith(f"FILE:{line_of(text, mark)}: {place}: unknown key; allowed: ")
    allowed = message.split("allowed: ")[1].split(";")[0].split(", ")
    assert meant in allowed and message.endswith(f"; did you mean '{meant}'?")


MISTAKES = {
    "unknown method": (
        (DPO, "dp0: {beta: [1]}"),
        ("dp0", "tasks.reviews.methods.dp0"),
        r"unknown key; allowed: dpo, .*; did you mean 'dpo'\?",
    ),
    "parameter of other methods": (
        (DPO, "dpo: {beta: [1], alpha: [0.5]}"),
        ("alpha", "tasks.reviews.methods.dpo.alpha"),
        r"unknown key; allowed: beta, mask, .*",
    ),
    "parameter that no mask of the grid reads": (
        (DPO, "dpo: {beta: [1], mask: [layers, given], l1_u: [0.1]}"),
        ("l1_u", "tasks.reviews.methods.dpo.l1_u"),
        r"parameter 'l1_u' of 'dpo' is not read where mask is 'given', but with layers, .* or binary_last",
    ),
    "mask of another method": (
        ("simpo: {", "mapo: {mask: layers, beta: [1]}\n      simpo: {"),
        ("mapo", "tasks.reviews.methods.mapo.mask"),
        r"must be 'activations' or 'given', not \"layers\"",
    ),
    "parameter of no method": (
        ("gamma:", "gama:"),
        ("gama", "tasks.reviews.methods.simpo.gama"),
        r"unknown key; allowed: beta, gamma, mask, .*; did you mean 'gamma'\?",
    ),
    "unknown parameter without values": (
        ("gamma: [\"0.3\"]", "gama: []"),
        ("gama", "tasks.reviews.methods.simpo.gama"),
        r"unknown key; allowed: beta, gamma, mask, .*; did you mean 'gamma'\?",
    ),
    "empty grid": (
        (DPO, "dpo: {beta: []}"),
        ("dpo", "tasks.reviews.methods.dpo.beta"),
        r"is empty; give at least one value",
    ),
    "no grid of betas": (
        (DPO, "dpo: {}"),
        ("dpo", "tasks.reviews.methods.dpo"),
        r"method 'dpo' needs values of 'beta', for example beta: \[\"0.1\", \"0.5\"\]",
    ),
    "method without a mapping": (
        (DPO, "dpo: [0.1]"),
        ("dpo", "tasks.reviews.methods.dpo[0]"),
        r"must be a mapping, not 0.1",
    ),
    "no method": (
        (f"methods:\n      {DPO}\n      simpo: {{beta: [\"2\"], gamma: [\"0.3\"]}}", "methods: {}"),
        ("methods", "tasks.reviews.methods"),
        r"at least one method is needed",
    ),
    "value given twice": (
        (DPO, 'dpo: {beta: ["0.1", 0.10]}'),
        ("dpo", "tasks.reviews.methods.dpo.beta"),
        r"has a value twice: 0.1, 0.1",
    ),
    "split smaller than a batch": (
        ("train: 40", "train: 9"),
        ("train: 9", "tasks.reviews.data.prompts.train"),
        r"9 prompts give at most 9 pairs, fewer than one batch of 10 \(training.batch_size\)",
    ),
    "more frontier prompts than test prompts": (
        ("frontier_prompts: 8", "frontier_prompts: 9"),
        ("frontier_prompts: 9", "tasks.reviews.evaluation.frontier_prompts"),
        r"at most the 8 test prompts \(data.prompts.test\) can be sampled, not 9",
    ),
    "generator without an end": (
        ("train: 40, ", ""),
        ("prompts:", "tasks.reviews.data.prompts.train"),
        r"the grammar gives any number of prompts, so 'train' needs a number",
    ),
    "unknown scorer": (
        ("kind: vader}, token", "kind: vadr}, token"),
        ("vadr", "tasks.reviews.evaluation.scorer.kind"),
        r"'vadr' is unknown; allowed: vader, tfidf, classifier, reward_model, python; did you mean 'vader'\?",
    ),
    "scorer without a kind": (
        ("{kind: vader}, token", "{}, token"),
        ("{}, token", "tasks.reviews.evaluation.scorer"),
        r"needs a key 'kind' that says what kind it is",
    ),
    "scorer that is a word": (
        ("{kind: vader}, token", "vader, token"),
        ("vader, token", "tasks.reviews.evaluation.scorer"),
        r"must be a mapping, not \"vader\"",
    ),
    "unknown data source": (
        ("source: planted", "source: planetd"),
        ("planetd", "tasks.reviews.data.source"),
        r"'planetd' is unknown; allowed: planted, texts, prompts, preferences, problems; did you mean 'planted'\?",
    ),
    "unknown preference source": (
        ("source: generated", "source: file"),
        ("source: file", "tasks.reviews.preferences.source"),
        r"'file' is unknown; allowed: generated, pairs, unpaired, scored, transcripts, messages, rated_posts, "
        "comparisons, axis, executed",
    ),
    "unknown model source": (
        ("source: scratch", "source: scrach"),
        ("scrach", "tasks.reviews.model.source"),
        r"'scrach' is unknown; allowed: scratch, hub, folder, gguf; did you mean 'scratch'\?",
    ),
    "scratch without a type": (
        ("model_type: gpt2, ", ""),
        ("n_embd", "tasks.reviews.model.config"),
        r"a transformers config needs 'model_type', for example gpt2, llama or gpt_neox",
    ),
    "scratch without sft": (
        ("    sft: {num_train_epochs: 1}\n", ""),
        ("reviews:", "tasks.reviews.sft"),
        r"a model from scratch knows nothing: it needs an 'sft' section",
    ),
    "missing section": (
        (f"    preferences: {PREFERENCES}\n", ""),
        ("reviews:", "tasks.reviews.preferences"),
        r"is missing; it has no default",
    ),
    "one sample": (
        ("samples: 2", "samples: 1"),
        ("samples: 1}}", "tasks.reviews.preferences.sampling.samples"),
        r"a pair needs at least 2 samples of each prompt",
    ),
    "micro batch that does not divide": (
        ("{batch_size: 10,", "{batch_size: 10, micro_batch_size: 4,"),
        ("micro", "tasks.reviews.training.micro_batch_size"),
        r"must divide batch_size \(10\), not 4",
    ),
    "seed given twice": (
        ("seeds: [0]", "seeds: [0, 1, 0]"),
        ("seeds", "tasks.reviews.seeds"),
        r"seeds must be distinct, not \[0, 1, 0\]",
    ),
    "no seed": (
        ("seeds: [0]", "seeds: []"),
        ("seeds", "tasks.reviews.seeds"),
        r"is empty; give at least one",
    ),
    "negative seed": (
        ("seeds: [0]", "seeds: [0,\n      -1]"),
        ("-1", "tasks.reviews.seeds[1]"),
        r"must be greater than or equal to 0, not -1",
    ),
    "seed that is a word": (
        ("seeds: [0]", "seeds: [one]"),
        ("one", "tasks.reviews.seeds[0]"),
        r"must be a valid integer, .*, not \"one\"",
    ),
    "no number": (
        ("{num_train_epochs: 1}", "{num_train_epochs: many}"),
        ("many", "tasks.reviews.sft.num_train_epochs"),
        r"must be a valid number, .*, not \"many\"",
    ),
    "choice that is none": (
        ("{num_train_epochs: 1}", "{num_train_epochs: 1, lr_scheduler_type: cosin}"),
        ("cosin", "tasks.reviews.sft.lr_scheduler_type"),
        r"must be 'cosine', 'linear' or 'constant_with_warmup', not \"cosin\"",
    ),
    "no name": (("name: small\n", ""), (None, "name"), r"is missing; it has no default"),
    "name that escapes": (
        ("name: small", "name: ../small"),
        ("../small", "name"),
        r"must be a name of .* letters, digits, '.', '-' and single '_', not \"../small\"",
    ),
    "no task": ((TEXT[TEXT.index("tasks:") :], "tasks: {}\n"), ("tasks", "tasks"), r"is empty; give at least one"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "where", "saying"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_message_with_its_line_and_place(errors, edit, where, saying):
    text = edited(edit)
    mark, place = where
    (message,) = errors(text)
    line = "" if mark is None else f":{line_of(text, mark)}"
    assert re.fullmatch(re.escape(f"FILE{line}: {place}: ") + saying, message), message


@pytest.mark.parametrize("beta", ["0", "-0.1", ".nan", "nan", ".inf", "inf", "1e999", "small", "null", "true", "''"])
def test_a_beta_must_be_a_finite_number_above_0(errors, beta):
    text = edited((DPO, f"dpo: {{beta: [0.1,\n        {beta}]}}"))
    (message,) = errors(text)
    start = f"FILE:{line_of(text, DPO[:3]) + 1}: tasks.reviews.methods.dpo.beta[1]: "
    assert re.match(re.escape(start) + "must be (greater than 0|a finite number|a plain number .*), not ", message)


def test_a_single_value_needs_no_list_and_is_blamed_without_an_index(tmp_path, errors):
    config = loaded(tmp_path, edited((DPO, "dpo: {beta: 0.1}")))
    assert config.tasks["reviews"].methods["dpo"] == [{"beta": ["0.1"]}]
    (message,) = errors(edited((DPO, "dpo: {beta: -1}")))
    assert message.endswith(": tasks.reviews.methods.dpo.beta: must be greater than 0, not -1")


def test_grid_values_stay_text_and_lists_of_choices_are_joined(tmp_path):
    grid = 'mapo: {beta: ["0.10", 1e-05, 2], activation_sites: [[mlp, attention], mlp], form: released}'
    methods = loaded(tmp_path, edited((DPO, grid))).tasks["reviews"].methods
    assert methods["mapo"][0] == {
        "beta": ["0.10", "1e-05", "2"],
        "activation_sites": ["mlp+attention", "mlp"],
        "form": ["released"],
    }


TWO = 'sparsepo_common: [{beta: ["0.1", "1"], form: [paper, released]}, {beta: "0.3", init: authors}]'


def test_a_method_may_have_several_grids_each_point_of_which_is_a_run(tmp_path):
    task = loaded(tmp_path, edited((DPO, TWO))).tasks["reviews"]
    paths = [run.path for run in runs_of(task) if run.method == "sparsepo_common"]
    assert paths == [
        f"sparsepo_common/{point}/seed~0"
        for point in (
            *("beta~0.1-form~paper", "beta~0.1-form~released", "beta~1-form~paper", "beta~1-form~released"),
            "beta~0.3-init~authors",
        )
    ]
    assert [find_run(task, path) for path in paths] == [run for run in runs_of(task) if run.path in paths]
    pattern = run_pattern(task, "sparsepo_common")
    assert all(re.fullmatch(pattern, path) for path in paths)
    assert not re.fullmatch(pattern, "sparsepo_common/beta~0.3-form~paper/seed~0")


@pytest.mark.parametrize(
    ("grids", "place", "saying"),
    [
        ('[{beta: ["0.1", "1"]}, {beta: "1"}]', "", "two grids have the same point: beta=1"),
        ("[]", "", "is empty; give at least one grid"),
        ('[{beta: "1"}, {beta: "-1"}]', "[1].beta", "must be greater than 0, not .-1."),
        ('[{beta: "1"}, {gamma: "1"}]', "[1].gamma", "unknown key; .*"),
        ('[{beta: "1"}, {mask: none}]', "[1]", "method 'dpo' needs values of 'beta', .*"),
    ],
)
def test_what_is_wrong_with_one_of_several_grids_is_told_with_its_place(errors, grids, place, saying):
    (message,) = errors(edited((DPO, f"dpo: {grids}")))
    assert re.search(re.escape(f": tasks.reviews.methods.dpo{place}: ") + saying + "$", message), message


TAKEN = ["tables", "figures", "report", "plan.json"]


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "x y", "a__b", "-x", "~", "''", *TAKEN])
def test_a_task_name_cannot_leave_its_folder_nor_take_one_of_the_workflow(errors, name):
    text = edited(("  reviews:", f"  {name}:"))
    bare = {"''": '""', "~": "~"}.get(name, name)
    messages = errors(text if name != "~" else edited(("  reviews:", '  "~":')))
    assert len(messages) == 1 and messages[0].startswith(f"FILE:4: tasks.{bare}: ")
    assert re.search("must be a name of|which results/ has for all tasks", messages[0])


@pytest.mark.parametrize(
    "grid, message",
    [
        (
            "activation_sites: [mlp, logits], form: [released, paper]",
            "activation_sites: activation site 'logits' is not",
        ),
        ("normalisation: zscore", r"normalisation: was removed: write reading: authors \(in place of minmax\)"),
    ],
)
def test_what_a_reading_of_activations_does_not_have_is_an_error(errors, grid, message):
    (found,) = errors(edited((DPO, f'mapo: {{beta: ["1"], {grid}}}')))
    assert re.search(f"tasks.reviews.methods.mapo.{message}", found)


def test_weights_that_sum_to_0_and_a_loss_that_divides_by_their_sum_are_an_error(errors):
    (found,) = errors(edited((DPO, 'orpo: {beta: ["1"], mask: activations, reading: [authors, paper]}')))
    assert "methods.orpo.reading: 'orpo' divides by the sum of a response's weights" in found


def test_every_mistake_is_reported_one_a_line(errors):
    text = edited(
        ("vocab_size: 100", "vocab_size: -3"),
        (DPO, 'dop: {beta: ["1"]}\n      mapo: {beta: ["0", "x"], alpha: [], reading: [no]}'),
        ("seeds:", "sede:"),
        ("{samples: 1}", "{top_p: 2}"),
    )
    messages = errors(text)
    places = [message.split(": ")[1] for message in messages]
    assert places == [
        "tasks.reviews.model.tokenizer.vocab_size",
        "tasks.reviews.methods.mapo.beta[0]",
        "tasks.reviews.methods.mapo.beta[1]",
        "tasks.reviews.methods.mapo.reading[0]",
        "tasks.reviews.methods.mapo.alpha",
        "tasks.reviews.methods.dop",
        "tasks.reviews.sampling.top_p",
        "tasks.reviews.sede",
    ]


def test_sections_that_do_not_fit_together_are_all_reported(errors):
    text = edited(
        ("train: 40", "train: 4"),
        ("    sft: {num_train_epochs: 1}\n", ""),
        ("frontier_prompts: 8", "frontier_prompts: 9"),
    )
    places = [message.split(": ")[1] for message in errors(text)]
    assert places == [
        "tasks.reviews.sft",
        "tasks.reviews.data.prompts.train",
        "tasks.reviews.evaluation.frontier_prompts",
    ]


def test_mistakes_of_several_tasks_are_all_reported(errors):
    second = TEXT[TEXT.index("  reviews:") :].replace("reviews", "second").replace("texts: 60", "texts: 0")
    messages = errors(edited(("texts: 60", "texts: many")) + second)
    assert [message.split(": ")[1] for message in messages] == ["tasks.reviews.data.texts", "tasks.second.data.texts"]


# --- files that a config names


PIPES = [(PREFERENCES, "{{source: pairs, path: {}}}"), ("source: planted", "source: texts\n      path: {}")]


def test_a_missing_preference_file_is_told_by_name(errors):
    text = edited((PREFERENCES, "{source: pairs, path: no/pairs.jsonl}"))
    (message,) = errors(text)
    assert message == (
        f"FILE:{line_of(text, 'no/pairs')}: tasks.reviews.preferences.path: no such file: no/pairs.jsonl "
        "(paths are relative to the working directory)"
    )


@pytest.mark.parametrize("old, new", PIPES)
def test_a_pipe_in_place_of_a_file_is_told_and_not_waited_for(errors, tmp_path, old, new):
    os.mkfifo(tmp_path / "pipe")
    (message,) = errors(edited((old, new.format(tmp_path / "pipe"))))
    assert f"not a file but a pipe, socket or device: {tmp_path}/pipe" in message


def test_a_missing_text_file_is_told_by_name_also_where_a_key_is_called_like_the_source(errors):
    text = edited(("source: planted", "source: texts\n      path: no/texts.jsonl"))
    (message,) = errors(text)
    assert message.startswith(f"FILE:{line_of(text, 'path:')}: tasks.reviews.data.path: no such file: no/texts.jsonl")


def test_texts_come_from_one_place(errors):
    (message,) = errors(edited(("source: planted", "source: texts")))
    choice = "'path' (a file) or 'hub' (a data set of the hub) or 'package' (an installed Python package)"
    choice += " or 'function' (a Python function that yields rows)"
    assert message == f"FILE:6: tasks.reviews.data: give one of {choice}, not none"


def test_the_length_of_an_opening_is_from_the_smaller_to_the_larger(errors):
    (message,) = errors(
        edited(("source: planted", "source: texts\n      hub: {id: imdb}\n      prompt_tokens: [8, 5]"))
    )
    assert message.startswith("FILE:9: tasks.reviews.data.prompt_tokens: the first number must not exceed the second")


def pair_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c", "text": "b", "reward": 1}\n')
    return path


def test_prompts_come_from_the_preference_file_if_and_only_if_there_is_one(tmp_path, errors):
    path = pair_file(tmp_path)
    (message,) = errors(edited((PREFERENCES, f"{{source: scored, path: {path}}}")))
    assert message == (
        "FILE:7: tasks.reviews.data.source: preferences.source 'scored' needs data.source preferences, not 'planted'"
    )
    (message,) = errors(edited(("source: planted\n      texts: 60", "source: preferences")))
    needed = "planted or texts or prompts"
    assert message.endswith(f"preferences.source 'generated' needs data.source {needed}, not 'preferences'")


def test_the_test_data_of_pairs_stand_with_the_pairs(tmp_path, errors):
    data = f"source: preferences\n      test: {{path: {pair_file(tmp_path)}}}"
    pairs = f"{{source: pairs, path: {pair_file(tmp_path)}}}"
    (message,) = errors(edited(("source: planted\n      texts: 60", data), (PREFERENCES, pairs)))
    assert message == "FILE:8: tasks.reviews.data.test: stands in the section 'preferences', beside its path"


HUB_MODEL = "{source: hub, id: a/b}"


def test_prompts_alone_give_generated_pairs_of_a_model_that_is_trained_already(tmp_path, errors):
    prompts = ("source: planted\n      texts: 60", f"source: prompts\n      path: {pair_file(tmp_path)}")
    without_sft = edited((MODEL, HUB_MODEL), prompts, ("sft: {num_train_epochs: 1}", "sft: null"))
    assert loaded(tmp_path, without_sft).tasks["reviews"].data.source == "prompts"
    (message,) = errors(edited((MODEL, HUB_MODEL), prompts))
    assert message == (
        "FILE:10: tasks.reviews.sft: data.source 'prompts' has no texts to train on; write sft: null, "
        "or use source: texts"
    )


def test_unpaired_data_train_kto_and_no_method_of_pairs(tmp_path, errors):
    unpaired = (PREFERENCES, f"{{source: unpaired, path: {pair_file(tmp_path)}}}")
    data = ("source: planted\n      texts: 60", "source: preferences")
    simpo = '      simpo: {beta: ["2"], gamma: ["0.3"]}\n'
    config = loaded(tmp_path, edited(data, unpaired, (simpo, ""), (DPO, "kto: {beta: 1}")))
    assert config.tasks["reviews"].preferences.source == "unpaired"
    messages = errors(edited(data, unpaired))
    says = "needs pairs; with preferences.source 'unpaired' only kto can be trained"
    assert [message.partition(": ")[2] for message in messages] == [
        f"tasks.reviews.methods.{name}: '{name}' {says}" for name in ("dpo", "simpo")
    ]


def test_columns_are_fields_of_the_source(tmp_path, errors):
    path = pair_file(tmp_path)
    pairs = (PREFERENCES, f"{{source: pairs, path: {path}, columns: {{promt: a}}}}")
    (message,) = errors(edited(("source: planted\n      texts: 60", "source: preferences"), pairs))
    assert message.startswith(
        "FILE:10: tasks.reviews.preferences.columns.promt: unknown field; allowed: prompt, chosen"
    )
    assert message.endswith("did you mean 'prompt'?")


def model_folder(tmp_path, *files):
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    for name in files:
        (folder / name).write_bytes(save({}) if name.endswith(".safetensors") else b"{}")
    return folder


def test_a_model_folder_must_be_one(tmp_path, errors):
    def refused(folder):
        (message,) = errors(edited((MODEL, f"{{source: folder, path: {folder}}}")))
        assert message.startswith(f"FILE:5: tasks.reviews.model.path: {folder}: ")
        return message

    assert "no such folder" in refused(tmp_path / "nowhere")
    assert "it has no config.json" in refused(model_folder(tmp_path))
    assert "it has no *.safetensors weights" in refused(model_folder(tmp_path, "config.json", "pytorch_model.bin"))
    folder = model_folder(tmp_path, "model.safetensors")
    config = loaded(tmp_path, edited((MODEL, f"{{source: folder, path: {folder}}}")))
    assert config.tasks["reviews"].model.path == folder


# --- YAML


def test_a_key_given_twice_is_refused_with_both_lines(errors):
    text = edited(("    seeds: [0]", "    seeds: [0]\n    resources: {}\n    seeds: [1]"))
    first = line_of(text, "seeds: [0]")
    assert errors(text) == [f"FILE:{first + 2}: tasks.reviews.seeds is given twice, also in line {first}"]


def test_yaml_that_cannot_be_read_is_told_with_its_line(errors):
    (message,) = errors(edited(("    seeds: [0]", "\tseeds: [0]")))
    assert re.fullmatch(r"FILE:15: not valid YAML \(found character .*\)", message)
    (message,) = errors("name: [1\n\ntasks: {}\n")
    assert re.fullmatch(r"FILE:\d+: not valid YAML \(.+\)", message)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- name\n- tasks\n", "planted\n", "12\n", "null\n"])
def test_a_file_that_is_no_mapping_is_refused(errors, text):
    assert errors(text) == ["FILE: a mapping with 'name' and 'tasks' is expected"]


@pytest.mark.parametrize(
    "text",
    ["name: &a [*a]\n", "name: *a\n", "name: a\x01\n", "name: !!python/object:os.system x\n", "a: 1\n---\nb: 2\n"],
    ids=["endless", "alias of nothing", "control character", "tag", "two documents"],
)
def test_yaml_that_makes_no_sense_here_gets_one_line(errors, text):
    (message,) = errors(text)
    assert re.match(r"FILE(:\d+)?: not valid YAML \(", message)


def test_a_pair_of_json_escapes_is_one_character(tmp_path, errors):
    (tmp_path / "own.json").write_text(json.dumps({"name": "\N{GRINNING FACE}", "tasks": {}}))
    assert read_yaml(tmp_path / "own.json")[0]["name"] == "\N{GRINNING FACE}"
    (message,) = errors('tasks: {}\nname: "\\ud83d"\n')
    assert message == "FILE: not valid YAML (line 2 has half of a surrogate pair)"


def test_a_config_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml: no such config file"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(UserError, match="latin.yaml: cannot be read"):
        load_config(tmp_path / "latin.yaml")


# --- overrides


def test_overrides_replace_single_values_and_leave_the_rest(tmp_path):
    before = loaded(tmp_path, TEXT).tasks["reviews"]
    after = loaded(tmp_path, TEXT, {"tasks": {"reviews": {"training": {"batch_size": "20"}}}}).tasks["reviews"]
    assert after.training.batch_size == 20 and after.training.frontier_every == 5
    assert after.model_copy(update={"training": before.training}) == before


def test_a_key_with_double_underscores_spells_the_way_down(tmp_path):
    nested = {"tasks": {"reviews": {"methods": {"dpo": {"beta": ["0.3"]}}, "seeds": [0, 1]}}}
    spelt = {"tasks__reviews__methods__dpo__beta": ["0.3"], "tasks__reviews": {"seeds": [0, 1]}}
    config = loaded(tmp_path, TEXT, spelt)
    assert config == loaded(tmp_path, TEXT, nested)
    assert config.tasks["reviews"].methods["dpo"] == [{"beta": ["0.3"]}]


def test_text_as_the_command_line_gives_it_becomes_numbers(tmp_path):
    """Snakemake reads `--config` with YAML's BaseLoader, which knows text only."""
    given = yaml.load("{seeds: [0,1], training__learning_rate: 1e-4}", Loader=yaml.BaseLoader)
    assert given["seeds"] == ["0", "1"]
    task = loaded(tmp_path, TEXT, {f"tasks__reviews__{key}": value for key, value in given.items()}).tasks["reviews"]
    assert task.seeds == [0, 1] and task.training.learning_rate == 1e-4


OVERRIDES = {
    "unknown key": ({"tasks__reviews__sede": ["0"]}, "tasks.reviews.sede: unknown key; .*; did you mean 'seeds'\\?"),
    "unknown key on top": ({"seed": "0"}, "seed: unknown key; allowed: extends, name, tasks, plugins, tracking; .*"),
    "wrong item": ({"tasks__reviews__seeds": ["0", "-1"]}, r"tasks\.reviews\.seeds\[1\]: must be greater .*-1.*"),
    "wrong value": ({"tasks__reviews__methods__dpo__beta": ["0"]}, r"tasks.reviews.methods.dpo.beta\[0\]: must be .*"),
    "section replaced by a word": ({"tasks__reviews": "x"}, 'tasks.reviews: must be a mapping, not "x"'),
    "unknown method": ({"tasks__reviews__methods__dop__beta": ["1"]}, "tasks.reviews.methods.dop: unknown key; .*"),
    "task without sections": ({"tasks__more__model": {"source": "hub"}}, r"tasks\.more\.\w+(\.id)?: is missing; .*"),
    "too small": ({"tasks__reviews__data__prompts__train": "4"}, r"tasks\.reviews\.data\.prompts\.train: 4 prompts .*"),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "saying"), OVERRIDES.values(), ids=OVERRIDES)
def test_a_mistake_of_the_command_line_is_blamed_on_it(errors, overrides, saying):
    for message in errors(TEXT, overrides):
        assert re.fullmatch(f"--config: {saying}", message), message


def test_a_mistake_of_the_file_is_not_blamed_on_the_command_line(errors):
    (message,) = errors(edited(("    sft: {num_train_epochs: 1}\n", "")), {"tasks__reviews__seeds": ["1"]})
    assert message.startswith("FILE:4: tasks.reviews.sft: ")


def test_a_later_file_lies_on_top_and_is_blamed_for_what_it_says(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(TEXT)
    second.write_text("tasks:\n  reviews:\n    seeds: [3]\n")
    assert load_config([first, second]).tasks["reviews"].seeds == [3]
    second.write_text("tasks:\n  reviews:\n    seeds: [-3]\n")
    with pytest.raises(UserError, match=re.escape(f"{second}:3: tasks.reviews.seeds[0]: ")):
        load_config([first, second])


# --- what is shipped


@pytest.mark.parametrize("path", SHIPPED, ids=[str(path.relative_to(ROOT)) for path in SHIPPED])
def test_every_shipped_config_is_good_where_its_data_lie(tmp_path, monkeypatch, path):
    tasks = yaml.safe_load(path.read_text())["tasks"]
    for task in tasks.values():  # data that a user brings
        for section in (task["data"], task["preferences"]):
            if "path" in section and not (ROOT / section["path"]).exists():
                (tmp_path / section["path"]).touch()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    assert list(load_config(path).tasks) == list(tasks)


def test_the_default_needs_neither_network_nor_files():
    for task in load_config(DEFAULT).tasks.values():
        assert (task.model.source, task.data.source, task.preferences.source) == ("scratch", "planted", "generated")


def test_a_config_does_not_depend_on_the_order_of_its_keys(tmp_path):
    def backwards(value):
        return {key: backwards(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    text = yaml.safe_dump(backwards(yaml.safe_load(TEXT)), sort_keys=False)
    assert loaded(tmp_path, text) == loaded(tmp_path, TEXT)


def run_cli(*arguments):
    command = [sys.executable, "-m", "sparsepo.config.loading", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_the_command_line_prints_the_schema_and_checks_files(tmp_path):
    done = run_cli("--schema")
    assert done.returncode == 0 and done.stdout == SCHEMA.read_text()
    (tmp_path / "bad.yaml").write_text(TEXT.replace("seeds:", "seed:"))
    done = run_cli(DEFAULT, tmp_path / "bad.yaml")
    assert done.returncode == 1 and done.stdout == f"{DEFAULT}: good\n"
    assert done.stderr.startswith(f"{tmp_path}/bad.yaml:15: tasks.reviews.seed: unknown key")
    assert done.stderr.count("\n") == 1


# --- whatever is in a config

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=3),
    st.dates(datetime.date(1, 1, 1)),
    st.sampled_from(["dpo", "beta", "vader", "texts", "pairs", "source", "kind", "0.1", "inf", "../x", "a__b", "/"]),
)
KEYS = st.one_of(st.text(max_size=5), st.integers(0, 3), st.booleans(), st.dates(), st.sampled_from(["source", "kind"]))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
MESSAGE = re.compile(r"FILE(:\d+)?: .+")


def containers(value):
    """Every mapping and list in a config."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


@st.composite
def mutated(draw):
    """The default config with one to three values deleted, replaced or inserted anywhere."""
    config = copy.deepcopy(yaml.safe_load(DEFAULT.read_text()))
    for _ in range(draw(st.integers(1, 3))):
        holder = draw(st.sampled_from([each for each in containers(config) if each] or [config]))
        places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        action = draw(st.sampled_from(["delete", "replace", "insert"]))
        if action == "insert" or not places:
            if isinstance(holder, dict):
                holder[draw(KEYS)] = draw(VALUES)
            else:
                holder.insert(draw(st.integers(0, len(holder))), draw(VALUES))
        elif action == "delete":
            del holder[draw(st.sampled_from(places))]
        else:
            holder[draw(st.sampled_from(places))] = draw(VALUES)
    return yaml.safe_dump(config, allow_unicode=True)


def only_messages(folder, text):
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        load_config(path)
    except UserError as error:
        for message in str(error).replace(str(path), "FILE").split("\n"):
            assert MESSAGE.fullmatch(message), message


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated")


@settings(max_examples=200, deadline=None)
@given(mutated())
def test_a_config_with_anything_in_it_loads_or_gets_messages(folder, text):
    only_messages(folder, text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(TEXT)), st.integers(0, 12), st.text(max_size=4))
def test_a_config_with_any_text_cut_out_or_put_in_loads_or_gets_messages(folder, at, length, more):
    only_messages(folder, TEXT[:at] + more + TEXT[at + length :])


@pytest.mark.parametrize("written", ["010", "1:30", "-07", "1:30.5", "[1, 010]"])
def test_numbers_that_yaml_reads_in_another_base_are_refused(tmp_path, written):
    path = tmp_path / "config.yaml"
    path.write_text(f"name: x\ntasks:\n  t: {written}\n")
    with pytest.raises(UserError, match=r"config.yaml:3: .* is a number in (octal|base 60) to YAML; write a decimal"):
        read_yaml(path)
    path.write_text("a: ['010', 0.5, 10, 1e-3, 0, '1:30', 0x10]\n")
    assert read_yaml(path)[0]["a"][:3] == ["010", 0.5, 10]
