"""The configs of the paper against what arXiv 2410.05102 says, value by value, with every default applied."""

from functools import cache
from pathlib import Path

import pytest
import yaml

from sparsepo.config.loading import load_config
from sparsepo.config.runs import runs_of
from sparsepo.methods.registry import METHODS
from sparsepo.report.tables.published import load_published

CONFIGS = Path(__file__).resolve().parents[2] / "configs/paper"

SAID = yaml.safe_load("""
imdb:                                     # Section 3.2, appendix B.2
  model.id: insub/gpt2-large-imdb-fine-tuned
  sft: null
  data.prompt_tokens: [5, 8]
  preferences.scorer.model: siebert/sentiment-roberta-large-english
  preferences.scorer.label: POSITIVE
  preferences.sampling.samples: 2
  preferences.sampling.temperature: 1.0
  preferences.sampling.top_p: 1.0
  evaluation.scorer.model: siebert/sentiment-roberta-large-english
  training.num_train_epochs: 3
  training.batch_size: 64
  training.optimizer: adamw
  training.frontier_every: 100
  sampling.samples: 1
  sampling.temperature: 1.0
  sampling.top_p: 1.0
hh:                                       # Section 3.3, appendix B.4
  model.id: EleutherAI/pythia-1.4b
  preferences.hub.id: Anthropic/hh-rlhf
  sft.num_train_epochs: 1
  sft.learning_rate: 1.0e-5
  sft.batch_size: 1024
  training.num_train_epochs: 3
  training.precision: float32
  training.batch_size: 128
  training.learning_rate: 1.0e-6
  training.mask_weight_decay: 0.01
  training.optimizer: adamw
  evaluation.benchmarks.tasks: [leaderboard]
  evaluation.benchmarks.limit: null
  evaluation.published: hh
tldr:                                     # Section 3.4, appendix B.3
  model.id: CarperAI/openai_summarize_tldr_sft
  sft: null
  preferences.source: comparisons
  preferences.mixture.0.source: axis
  preferences.max_length_difference: 100
  preferences.sample: 24000               # of each part: 20k training and 4k test pairs
  training.adapter.rank: 16
  training.adapter.alpha: 16
  training.adapter.dropout: 0.05
  training.adapter.quantization: nf4
  training.num_train_epochs: 1
  training.batch_size: 256
  training.learning_rate: 1.0e-5
  training.mask_weight_decay: 0.01
  evaluation.generation.prompts: 120
  evaluation.generation.samples: 5
  evaluation.generation.top_p: 0.95
  evaluation.generation.temperatures: [0.25, 0.5, 0.75, 1.0]
  evaluation.summaries.rouge: true
  evaluation.summaries.self_bleu: true
  evaluation.summaries.bertscore.model: roberta-large
  evaluation.summaries.entailment.conv: null
mbpp:                                     # Section 3.5, appendix B.5
  model.id: loubnabnl/starcoder-1b
  sft: null
  data.prompts: {train: 384, validation: 90, test: 500}
  preferences.source: executed
  preferences.sampling.samples: 100
  training.num_train_epochs: 30
  training.learning_rate: 5.0e-7
  training.lr_scheduler_type: linear
  training.warmup_ratio: 0.1
  training.batch_size: 32
  training.checkpoint_selection: best
  evaluation.code.suites: [mbpp, humaneval]
  evaluation.code.k: [1, 10, 100]
  evaluation.code.sampling.samples: 100
  evaluation.code.sampling.temperature: 0.6
  evaluation.code.sampling.top_p: 0.95
  evaluation.code.validation_samples: 10
  evaluation.code.validation_suite: mbpp  # the paper's is humaneval, which looks at test data
  evaluation.select: pass@10
  evaluation.published: mbpp
""")

IMDB_BETAS = [0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2, 3, 4, 5, 10, 20]
MBPP_BETAS = [0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 5.0, 10.0]
BOTH_MASKS = {"l1_u": 0.001, "l1_d": 0.001}
GRIDS = {
    "imdb": dict.fromkeys(("dpo", "tdpo1", "mapo", "sparsepo_common", "sparsepo_independent"), {"beta": IMDB_BETAS})
    | {"tdpo2": {"beta": IMDB_BETAS, "alpha": [0.7]}, "simpo": {"beta": IMDB_BETAS, "gamma": [0.3, 1]}}
    | {"dpop": {"beta": IMDB_BETAS, "penalty": [50]}},
    "hh": {"dpo": {"beta": [0.1]}, "tdpo1": {"beta": [0.1]}, "tdpo2": {"beta": [0.1], "alpha": [0.5]}}
    | {"simpo": {"beta": [2.5], "gamma": [0.3]}, "dpop": {"beta": [0.1]}, "mapo": {"beta": [0.1]}}
    | dict.fromkeys(("sparsepo_common", "sparsepo_independent"), {"beta": [0.1]}),
    "tldr": {"dpo": {"beta": [0.5]}, "tdpo1": {"beta": [0.5]}, "tdpo2": {"beta": [0.5], "alpha": [0.5]}}
    | {"mapo": {"beta": [0.5]}, "sparsepo_common": {"beta": [0.1]}},
    "mbpp": dict.fromkeys(
        ("dpo", "tdpo1", "tdpo2", "simpo", "mapo", "sparsepo_common", "sparsepo_independent"), {"beta": MBPP_BETAS}
    ),
}
"""Task -> method -> parameter -> its values, of the parameters that the paper names."""


@cache
def task_of(name):
    return load_config(CONFIGS / f"{name}.yaml").tasks[name.removeprefix("ablations/")]


def value_at(section, keys):
    """The value at dotted keys of a section; a number is a place in a list."""
    for key in keys.split("."):
        section = section[int(key)] if key.isdigit() else getattr(section, key)
    return section.model_dump() if hasattr(section, "model_dump") else section


@pytest.mark.parametrize(("task", "keys"), [(task, keys) for task, own in SAID.items() for keys in own])
def test_a_value_of_the_paper_is_that_of_its_config(task, keys):
    found, said = value_at(task_of(task), keys), SAID[task][keys]
    assert (list(found) if isinstance(found, tuple) else found) == said


@pytest.mark.parametrize("task", GRIDS)
def test_the_grids_are_those_of_the_paper(task):
    section = task_of(task)
    assert set(section.methods) == set(GRIDS[task])
    for method, grid in GRIDS[task].items():
        points = [METHODS[method].resolve(run.hyper) for run in runs_of(section) if run.method == method]
        for name, values in grid.items():
            assert sorted({point[name] for point in points}) == values, (method, name)


def test_hh_trains_sparsepo_alone_at_half_the_learning_rate_with_l1_on_both_masks():
    section = task_of("hh")
    rates = {run.method: run.hyper.get("learning_rate", section.training.learning_rate) for run in runs_of(section)}
    assert {method for method, rate in rates.items() if rate == 5e-7} == {"sparsepo_common", "sparsepo_independent"}
    assert {rate for method, rate in rates.items() if not method.startswith("sparsepo")} == {1e-6}
    for run in runs_of(section):
        if run.method.startswith("sparsepo"):
            assert {name: run.hyper[name] for name in BOTH_MASKS} == BOTH_MASKS


ABLATIONS = {
    "architecture": {"mask": {"layers", "last", "feed_forward_last"}},
    "weight_decay": {"mask_weight_decay": {0, 0.001, 0.01, 0.1, 1.0}},
    "binary_and_random": {"mask": {"layers", "binary_layers", "random"}},
}


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "ablations").iterdir()))
def test_ablations_train_pythia_410m_on_the_mix_as_appendix_d_says(name):
    tasks = load_config(CONFIGS / f"ablations/{name}.yaml").tasks
    (section,) = [task for key, task in tasks.items() if key.startswith("mix-")]
    assert section.model.id == "EleutherAI/pythia-410m" and section.preferences.hub.id == "argilla/dpo-mix-7k"
    training = section.training
    assert (training.num_train_epochs, training.learning_rate, training.batch_size) == (3, 5e-7, 128)
    assert section.sft is not None and section.evaluation.benchmarks.tasks == ["leaderboard"]
    assert section.evaluation.published == (f"ablation_{name}" if name in ABLATIONS else None)


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_printed_row_of_an_ablation_is_a_setting_of_its_config(name):
    tasks = load_config(CONFIGS / f"ablations/{name}.yaml").tasks
    (section,) = [task for key, task in tasks.items() if key.startswith("mix-")]
    runs = [run for run in runs_of(section) if run.method == "sparsepo_common"]
    ((parameter, values),) = ABLATIONS[name].items()
    assert values <= {run.hyper[parameter] for run in runs}
    table = load_published(f"ablation_{name}")
    texts = [", ".join(f"{key}={value}" for key, value in sorted(run.params)) for run in runs]
    shown = [row for text in texts if (row := table.row("sparsepo_common", text)) is not None]
    assert sorted(row["avg"] for row in shown) == sorted(row["avg"] for row in table.rows.values())


@pytest.mark.parametrize("task", ["hh", "mbpp"])
def test_every_printed_row_is_a_method_of_its_config(task):
    assert set(load_published(task).rows) == {"sft", *task_of(task).methods}
