"""docs/extending.md, followed: its files are put into an empty folder, and a tiny model is trained with them."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.data.records import Preference, as_record
from sparsepo.models.loading import train_tokenizer
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.code_version import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`(my_\w+\.\w+)`:\n\n```\w+\n(.*?)^```$", PAGE, flags=re.M | re.S))


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.M | re.S)


MODEL = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from sparsepo.models.loading import train_tokenizer

torch.set_num_threads(1)
torch.manual_seed(0)
words = [*"tell me of cats dogs count to one two no the and".split(), *map(str, range(40))]
tokenizer = train_tokenizer([" ".join(words)], "word", 80)
ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=len(tokenizer), **ids)
def model():
    torch.manual_seed(0)
    return GPT2LMHeadModel(config)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the files of the page; results are made in another one."""
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    rows = [{"prompt": f"tell me of {number}", "keyword": "cats"} for number in range(250)]
    (folder / "results_here").mkdir()
    (folder / "results_here" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(project, code, *arguments):
    """What a Python process prints that runs this code in the folder of results."""
    folder = project / "results_here"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def configured(project, name, section, **top):
    """A config file of the project: that of the reward, with other sections."""
    config = yaml.safe_load(FILES["my_reward.yaml"]) | top
    config["tasks"]["answers"] |= section
    path = project / name
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def test_the_page_has_all_files_and_a_reward_takes_fifteen_lines_of_config():
    assert set(FILES) == {"my_reward.py", "my_reward.yaml", "my_data.py", "my_mask.py", "my_statistic.py"}
    assert len(FILES["my_reward.yaml"].splitlines()) <= 15


REWARD = """
import sys
from sparsepo.config.loading import load_config
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.records import Completion
from sparsepo.data.sources import first_words, make_data
from sparsepo.data.chat import scored_prompt
from sparsepo.evaluation.scorers import build_scorer
from sparsepo.workflow.settings import PrepareDataSettings, as_plain
from sparsepo.workflow.stages import Stages

task = load_config(sys.argv[1]).tasks["answers"]
made = make_data(task.data.model_dump(mode="json"), None, first_words, PromptBuilder(columns=task.columns))
print({prompt.columns["keyword"] for prompt in made.prompts["test"]}, task.columns)
own = [Completion("p", "cats and the", [1], True, columns={"keyword": "cats"}),
       Completion("q", "a dog", [1], True, columns={"keyword": "cat"})]
prompts, texts = [scored_prompt(row) for row in own], [row.text for row in own]
for section in (task.evaluation.scorer, task.evaluation.extra_scorers["words"]):
    print(build_scorer(section)(prompts, texts))
"""


def test_the_reward_and_the_metric_of_the_page_score_with_the_columns_of_the_data(project):
    lines = run(project, REWARD, project / "my_reward.yaml")
    assert lines[0] == "{'cats'} {'keyword': True}"
    assert json.loads(lines[1]) == pytest.approx([1 - 0.2, -0.1])  # by hand: a keyword, two common words; one
    assert json.loads(lines[2]) == [3.0, 2.0]


DATA = """
import sys
from sparsepo.config.loading import load_config
from sparsepo.data.sources import first_words, make_data

task = load_config(sys.argv[1]).tasks["answers"]
sections = [section.model_dump(mode="json") for section in (task.data, task.preferences)]
made = make_data(*sections, first_words)
print({split: len(prompts) for split, prompts in made.prompts.items()})
print(sorted(prompt.reference for prompt in made.prompts["test"])[0])
"""


def test_the_rows_of_the_page_are_preference_data(project):
    section = yaml.safe_load(next(text for text in blocks("yaml") if "my_data.py" in text))
    others = {"evaluation": {"scorer": {"kind": "vader"}}, "training": {"frontier_every": 0}}
    path = configured(project, "data.yaml", section | others)
    lines = run(project, DATA, path)
    assert lines == ["{'train': 24, 'validation': 8, 'test': 8}", " one two"]


TRAINED = (
    MODEL
    + """
import sys
from sparsepo import METHODS, PreferenceTrainer, inspect_pairs
from sparsepo.config.loading import load_config
from sparsepo.config.runs import runs_of
from sparsepo.config.training import PreferenceConfig

task = load_config(sys.argv[1]).tasks["answers"]
for run in runs_of(task):
    print(run.path)
texts = [{"prompt": f"count to {n}", "chosen": " one two no", "rejected": " no"} for n in range(40)]
settings = PreferenceConfig(batch_size=10, micro_batch_size=5, max_steps=3, learning_rate=1e-2, warmup_ratio=0,
                            checkpoint_every=0)
given = {"config": settings}
for method, hyper in [("dpo", {"mask": "early", "power": 2.0}), ("exponential", {"beta": 1.0, "margin": 0.5}),
                      ("centred", {"beta": 1.0})]:
    policy, reference = model(), model()
    trainer = PreferenceTrainer(policy, reference, tokenizer, texts, method=method, hyper=hyper,
                                folder=f"{method}_run", **given)
    trainer.train()
    if method != "centred":
        pair = {"prompt": [5], "chosen": [6, 7, 8], "rejected": [9]}
        found = inspect_pairs(policy.eval(), reference, [pair], method, hyper)[0]
        print(method, found["loss"], found["reward_chosen"] - found["reward_rejected"], found["chosen"].get("m_u"))
"""
)


def test_the_mask_the_loss_and_the_statistic_of_the_page_are_trained_with(project):
    section = yaml.safe_load(next(text for text in blocks("yaml") if "plugins:" in text))
    section["methods"]["centred"] = {"beta": 0.1}
    plugins = [*section.pop("plugins"), "my_statistic.py"]
    path = configured(project, "plugins.yaml", section, plugins=plugins)
    lines = run(project, TRAINED, path)
    assert "exponential/beta~0.5-margin~1-mask~early-power~2/seed~0" in lines
    results = {line.split()[0]: line.split(maxsplit=3) for line in lines if "/" not in line}
    assert json.loads(results["dpo"][3]) == pytest.approx([1, 1 / 4, 1 / 9])  # t to the power of -2
    loss, margin = map(float, results["exponential"][1:3])
    assert margin != 0 and loss == pytest.approx(2.718281828459045 ** (0.5 - margin), rel=1e-5)


CENTRED = (
    MODEL
    + """
import sys
from sparsepo.config.loading import load_config
load_config(sys.argv[1])
from types import SimpleNamespace
from dataclasses import dataclass
import torch
from sparsepo.runtime.user_code import load_object
from sparsepo.methods.registry import METHODS

@dataclass
class Batch:
    margins: list
    weight: float = 1.0
    loss_kwargs: dict = None
    @property
    def num_pairs(self):
        return len(self.margins)

statistic = load_object(METHODS["centred"].statistic)()
model = lambda batch, logratios_only: (torch.tensor(batch.margins), torch.zeros(batch.num_pairs))
total = lambda values: [float(value) for value in values]
made = statistic.add_to_batches(model, [Batch([1.0, 2.0]), Batch([6.0])], total, 0, True)
print([batch.loss_kwargs for batch in made])
"""
)


def test_the_statistic_of_the_page_is_the_mean_over_all_micro_batches(project):
    path = configured(project, "statistic.yaml", {"methods": {"centred": {"beta": 0.1}}}, plugins=["my_statistic.py"])
    assert run(project, CENTRED, path) == ["[{'mean_margin': 3.0}, {'mean_margin': 3.0}]"]


VERSIONS = """
import sys
from pathlib import Path
from sparsepo.workflow.stages import Stages

stages = Stages.read([sys.argv[1]], {})
for stage in ("prepare_data", "train_sft", "build_preferences"):
    print(stage, stages.code_version(stage, "answers"))
for run in stages.runs("answers"):
    for stage in ("train_policy", "evaluate_run")[run == "sft":]:
        print(stage, run.split("/")[0], run.rpartition("mask~")[2][:5], stages.code_version(stage, "answers", run))
"""


def test_a_changed_file_reruns_the_jobs_that_use_it_and_no_others(project):
    methods = {"dpo": {"beta": 0.1, "mask": ["none", "early"]}, "exponential": {"beta": 0.1}}
    methods["sparsepo_common"] = {"beta": 0.1, "mask": ["layers", "early"]}
    section = {"methods": methods, "model": {"source": "hub", "id": "gpt2"}}
    path = configured(project, "versions.yaml", section, plugins=["my_mask.py"])

    def changed_by(file, old, new):
        before, text = run(project, VERSIONS, path), (project / file).read_text()
        assert old in text
        (project / file).write_text(text.replace(old, new))
        after = run(project, VERSIONS, path)
        (project / file).write_text(text)
        lines = [line.rpartition(" ")[0] for old_line, line in zip(before, after, strict=True) if old_line != line]
        return {" ".join(line.split()) for line in lines}

    trained = ["dpo early", "exponential expon", "sparsepo_common early"]
    of_mask = {f"{stage} {name}" for name in trained for stage in ("train_policy", "evaluate_run")}
    assert changed_by("my_mask.py", "-self.power", "-2 * self.power") == of_mask
    assert changed_by("my_mask.py", "import torch\n", "import torch  # of PyTorch\n") == set()
    scoring = changed_by("my_reward.py", "0.1 *", "0.2 *")
    assert "build_preferences" in scoring and not scoring & {"prepare_data", "train_sft"}
    assert {line.split()[0] for line in scoring} == {"build_preferences", "train_policy", "evaluate_run"}


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
