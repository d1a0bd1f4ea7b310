"""What jobs ask a scheduler for: it grows with the model and its batches, and the config's own numbers win."""

import copy
from pathlib import Path

import pytest
import yaml

from sparsepo.config import Config, TaskConfig
from sparsepo.config.loading import load_config, merge, nested
from sparsepo.workflow.cost.estimates import DAY, ESTIMATES, START, asked
from sparsepo.workflow.cost.formulas import DEVICES, NF4
from sparsepo.workflow.cost.plan import disk, jobs_of, rows, table
from sparsepo.workflow.cost.sizes import UNKNOWN, Sizes
from sparsepo.workflow.stages import Stages

ROOT = Path(__file__).resolve().parents[3]
TASK = yaml.safe_load("""
model:
  source: scratch
  config: {model_type: gpt2, n_layer: 12, n_embd: 768, n_head: 12, n_positions: 512}
  tokenizer: {vocab_size: 30000}
data: {source: planted, texts: 600, prompts: {train: 400, validation: 80, test: 80}}
sft: {num_train_epochs: 1, batch_size: 16}
preferences: {source: generated, scorer: {kind: vader}}
methods:
  dpo: {beta: ["0.1", "0.5"]}
  sparsepo_common: {beta: ["0.1"]}
training: {batch_size: 16, micro_batch_size: 4}
evaluation: {scorer: {kind: vader}, token_pairs: 4, frontier_prompts: 8}
""")
EVERYWHERE = ("sft", "preferences", "reference", "train", "sample", "evaluate")


def task(**changes):
    """TASK with values changed as on the command line."""
    return TaskConfig.model_validate(merge(copy.deepcopy(TASK), nested(changes)))


def stages(**changes):
    return Stages(Config(name="small", tasks={"reviews": task(**changes)}))


def estimate(stage, **changes):
    return ESTIMATES[stage](Sizes.of(task(**changes)))


LARGER = {
    "train": {
        "model__config__n_layer": 24,
        "training__micro_batch_size": 8,
        "training__max_prompt_tokens": 400,
        "model__tokenizer__vocab_size": 60000,
    },
    "train_on_policy": {
        "model__config__n_layer": 24,
        "training__micro_batch_size": 8,
        "sampling__max_new_tokens": 300,
        "training__batch_size": 32,
    },
    "sft": {"model__config__n_layer": 24, "sft__batch_size": 32, "sft__max_tokens": 512},
    "sample": {"model__config__n_layer": 24, "sampling__batch_size": 128},
    "evaluate": {"model__config__n_layer": 24, "evaluation__batch_size": 64},
}


@pytest.mark.parametrize(
    ("stage", "key", "value"), [(stage, *change) for stage, made in LARGER.items() for change in made.items()]
)
def test_memory_grows_with_the_model_and_its_batches(stage, key, value):
    start = {"training__max_prompt_tokens": 100, "sft__max_tokens": 256, "training__micro_batch_size": 4}
    assert estimate(stage, **start | {key: value}).memory > estimate(stage, **start).memory


SMALLER = {
    "8 bits": {"training__optimizer": "adamw_8bit"},
    "checkpointing": {"training__gradient_checkpointing": True},
    "adapter": {"training__adapter": {"rank": 8}},
    "4 bits": {"training__adapter": {"rank": 8, "quantization": "nf4"}, "training__precision": "bfloat16"},
    "tokens": {"training__micro_batch_size": None, "training__micro_batch_tokens": 700},
}


@pytest.mark.parametrize("changes", SMALLER.values(), ids=SMALLER)
def test_what_saves_memory_is_seen_to(changes):
    assert estimate("train", **changes).memory < estimate("train").memory


def test_frozen_weights_in_4_bits_are_counted_once_for_policy_and_reference():
    shape = Sizes.of(task()).shape
    plain = estimate("train", training__adapter={"rank": 8}).memory
    four = estimate("train", training__adapter={"rank": 8, "quantization": "nf4"}).memory
    assert plain - four == pytest.approx((4 - NF4) * shape.blocks)


LONGER = {
    "train": {
        "training__num_train_epochs": 3,
        "training__max_steps": 500,
        "model__config__n_layer": 24,
        "training__frontier_every": 2,
    },
    "train_on_policy": {
        "training__num_train_epochs": 3,
        "training__on_policy": {"samples": 8},
        "sampling__max_new_tokens": 128,
        "training__frontier_every": 2,
    },
    "sft": {"sft__num_train_epochs": 3, "data__texts": 6000},
    "sample": {"sampling__samples": 4, "data__prompts__test": 800, "sampling__max_new_tokens": 128},
    "preferences": {"preferences__sampling": {"samples": 8}},
    "evaluate": {"sampling__samples": 4, "evaluation__token_pairs": 64},
}


@pytest.mark.parametrize(
    ("stage", "key", "value"), [(stage, *change) for stage, made in LONGER.items() for change in made.items()]
)
def test_time_grows_with_what_there_is_to_do(stage, key, value):
    assert estimate(stage, **{key: value}).seconds > estimate(stage).seconds


def test_a_number_of_the_config_is_asked_for_as_it_is():
    found = asked(task(resources__mem_mb=9000), "train")
    assert found["mem_mb"] == 9000 and found["runtime"] == asked(task(), "train")["runtime"]
    assert asked(task(resources__runtime=7), "train")["runtime"] == 7


def test_no_first_attempt_asks_for_more_than_a_day():
    assert asked(task(training__num_train_epochs=1e6), "train")["runtime"] == DAY
    assert START < asked(task(training__max_steps=1), "train")["runtime"] < DAY


def test_on_a_cpu_memory_holds_all_and_beside_a_gpu_what_loads_and_saves():
    host, beside = (asked(task(resources__device=device), "train")["mem_mb"] for device in ("cpu", "gpu"))
    shape = Sizes.of(task()).shape
    assert host >= (DEVICES["cpu"].base + 20 * shape.parameters) / 1e6
    assert beside == pytest.approx(1.25 * (DEVICES["gpu"].base + 8 * shape.parameters) / 1e6, abs=100)


def test_a_run_on_several_processes_asks_for_the_memory_of_each_and_a_share_of_the_time():
    one, four = (task(training__num_train_epochs=3, training__num_processes=count) for count in (1, 4))
    alone, shared = asked(one, "train"), asked(four, "train")
    assert shared["mem_mb"] == pytest.approx(4 * alone["mem_mb"], abs=400)
    assert shared["runtime"] - START == pytest.approx((alone["runtime"] - START) / 4, abs=1)
    assert asked(four, "sample") == asked(one, "sample")


def test_a_large_model_is_taken_to_run_on_a_gpu():
    hub = {"model": {"source": "hub", "id": "someone/model-1.4b"}}
    assert Sizes.of(TaskConfig.model_validate({**TASK, **hub})).on_gpu and not Sizes.of(task()).on_gpu


def test_a_data_set_that_is_not_at_hand_counts_as_the_number_that_stands_for_it():
    preferences = {"source": "transcripts", "hub": {"id": "someone/pairs"}}
    data = {"source": "preferences", "prompts": {"validation": 8, "test": 8}}
    known = {**TASK, "preferences": preferences, "data": data}
    assert Sizes.of(TaskConfig.model_validate(known)).pairs == UNKNOWN
    known["preferences"] = {**preferences, "sample": 500}
    assert Sizes.of(TaskConfig.model_validate(known)).pairs == 500


# --- whole sweeps


def test_the_default_config_fits_a_laptop_of_4_gb():
    planted = load_config(ROOT / "config.yaml").tasks["planted"]
    assert max(asked(planted, stage)["mem_mb"] for stage in EVERYWHERE) <= 2000


def test_a_plan_counts_every_job_of_the_sweep_and_adds_up_their_hours():
    made = stages(seeds=[0, 1])
    counts = jobs_of(made, "reviews")
    assert counts == {"sft": 1, "preferences": 1, "reference": 1, "train": 6, "sample": 7, "evaluate": 7}
    found = list(rows(made, "reviews"))
    printed = table(found).splitlines()
    assert len(printed) == 2 + len(counts) + 1
    assert printed[-1].startswith(f"| reviews | all | {sum(counts.values())} |")
    assert sum(row.hours for row in found) == pytest.approx(
        sum(counts[row.stage] * row.estimate.seconds / 3600 for row in found)
    )


def test_trainings_on_samples_of_the_policy_are_jobs_of_their_own():
    methods = TASK["methods"] | {"fdpg": {"beta": ["0.1", "0.2"]}}
    counts = jobs_of(Stages(Config(name="small", tasks={"reviews": TASK | {"methods": methods}})), "reviews")
    assert counts["train"] == 3 and counts["train_on_policy"] == 2 and counts["sample"] == 6


def test_disk_grows_with_the_runs_and_its_caches_do_not():
    one, two = (disk(stages(seeds=seeds), "reviews") for seeds in ([0], [0, 1]))
    assert two.weights == 2 * one.weights and two.caches == one.caches > 0 and two.training == one.training
    assert disk(stages(training__reference="online"), "reviews").caches == 0
