"""What jobs ask a scheduler for: at least what was measured, more for larger models and batches, or what is given."""

import copy
from pathlib import Path

import pytest
import yaml

from sparsepo.config import Config, TaskConfig
from sparsepo.config.loading import load_config, merge, nested
from sparsepo.workflow.estimate import disk, job_counts, stage_rows
from sparsepo.workflow.resources import CPU, DAY, GPU, START, UNKNOWN_ROWS, TaskNeeds, job_resources, unknown_sizes
from sparsepo.workflow.stages import Stages

ROOT = Path(__file__).resolve().parents[2]
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


def task(**changes):
    """TASK with values changed as on the command line."""
    return TaskConfig.model_validate(merge(copy.deepcopy(TASK), nested(changes)))


def with_model(**model):
    return TaskConfig.model_validate({**TASK, "model": model})


def stages(**changes):
    return Stages(Config(name="small", tasks={"reviews": task(**changes)}))


def need(stage, **changes):
    return getattr(TaskNeeds(task(**changes)), stage)()


# --- at least what was measured

MEASURED = {  # docs/scale.md: SmolLM2-135M on a CPU, GB and seconds of CPU time with those of the start
    "train_sft": (3.9, 642),
    "build_preferences": (1.4, 25),
    "cache_reference": (1.0, 15),
    "train_policy": (4.1, 109),
    "sample_responses": (1.1, 23),
    "evaluate_run": (1.9, 38),
}


@pytest.fixture(scope="module")
def smollm2():
    """The task that was measured, without the memory and time that its config gives."""
    given = {"parameters": 134_515_008, "mem_mb": None, "runtime": None}
    return load_config(ROOT / "configs/imdb.yaml", {"tasks__imdb__resources": given}).tasks["imdb"]


@pytest.mark.parametrize("stage", MEASURED)
def test_a_job_asks_for_what_was_measured_and_a_margin_and_not_for_many_times_that(smollm2, stage):
    memory, seconds = MEASURED[stage]
    asked = job_resources(smollm2, stage)
    assert 1.15 * 1000 * memory < asked["mem_mb"] < 2.5 * 1000 * memory
    assert 2 * seconds < 60 * asked["runtime"] < 2 * seconds + 60 * 2 * START


def test_the_default_config_fits_a_laptop_of_4_gb():
    planted = load_config(ROOT / "config.yaml").tasks["planted"]
    assert max(job_resources(planted, stage)["mem_mb"] for stage in MEASURED) <= 2000


# --- more for more

LARGER = {
    "train_policy": {
        "model__config__n_layer": 24,
        "training__micro_batch_size": 8,
        "training__max_prompt_tokens": 400,
        "model__tokenizer__vocab_size": 60000,
        "training__precision": "bfloat16",  # a copy of the weights, of a model that is large beside its batch
    },
    "train_on_policy": {
        "model__config__n_layer": 24,
        "training__micro_batch_size": 8,
        "sampling__max_new_tokens": 300,
        "training__batch_size": 32,
    },
    "train_sft": {"model__config__n_layer": 24, "sft__batch_size": 32, "sft__max_tokens": 512},
    "sample_responses": {"model__config__n_layer": 24, "sampling__batch_size": 128},
    "evaluate_run": {"model__config__n_layer": 24, "evaluation__batch_size": 64},
}
SMALL_BATCH = {"training__max_prompt_tokens": 100, "sft__max_tokens": 256}


@pytest.mark.parametrize(
    ("stage", "key", "value"), [(stage, *change) for stage, changes in LARGER.items() for change in changes.items()]
)
def test_memory_grows_with_the_model_and_its_batches(stage, key, value):
    start = SMALL_BATCH | ({"training__micro_batch_size": 1} if value == "bfloat16" else {})
    assert need(stage, **start | {key: value}).memory > need(stage, **start).memory


SMALLER = {
    "8 bits": {"training__optimizer": "adamw_8bit"},
    "checkpointing": {"training__gradient_checkpointing": True},
    "adapter": {"training__adapter": {"rank": 8}},
    "tokens": {"training__micro_batch_size": None, "training__micro_batch_tokens": 700},
}


@pytest.mark.parametrize("changes", SMALLER.values(), ids=SMALLER)
def test_settings_that_save_memory_ask_for_less(changes):
    assert need("train_policy", **changes).memory < need("train_policy").memory


LONGER = {
    "train_policy": {
        "training__num_train_epochs": 3,
        "training__max_steps": 500,
        "training__validate_every": 5,
        "training__gradient_checkpointing": True,
        "model__config__n_layer": 24,
        "training__frontier_every": 2,
    },
    "train_on_policy": {
        "training__num_train_epochs": 3,
        "training__on_policy": {"samples": 8},
        "sampling__max_new_tokens": 128,
        "training__frontier_every": 2,
    },
    "train_sft": {"sft__num_train_epochs": 3, "data__texts": 6000},
    "sample_responses": {"sampling__samples": 4, "data__prompts__test": 800, "sampling__max_new_tokens": 128},
    "build_preferences": {"preferences__sampling": {"samples": 8}},
    "evaluate_run": {"sampling__samples": 4, "evaluation__token_pairs": 64},
}


@pytest.mark.parametrize(
    ("stage", "key", "value"), [(stage, *change) for stage, changes in LONGER.items() for change in changes.items()]
)
def test_time_grows_with_what_there_is_to_do(stage, key, value):
    assert need(stage, **{key: value}).seconds > need(stage).seconds


def test_no_first_attempt_asks_for_more_than_a_day():
    assert job_resources(task(training__num_train_epochs=1e6), "train_policy")["runtime"] == DAY
    assert START < job_resources(task(training__max_steps=1), "train_policy")["runtime"] < DAY


def test_a_number_of_the_config_is_asked_for_as_it_is():
    asked, plain = job_resources(task(resources__mem_mb=9000), "train_policy"), job_resources(task(), "train_policy")
    assert asked == {"mem_mb": 9000, "runtime": plain["runtime"]}
    assert job_resources(task(resources__runtime=7), "train_policy") == {"mem_mb": plain["mem_mb"], "runtime": 7}


def test_on_a_cpu_memory_holds_all_and_beside_a_gpu_what_loads_and_saves():
    host, beside = (
        job_resources(task(resources__device=device), "train_policy")["mem_mb"] for device in ("cpu", "gpu")
    )
    parameters = TaskNeeds(task()).size.parameters
    assert host >= (CPU.base + 20 * parameters) / 1e6  # policy, reference, gradient and two moments, 4 bytes each
    assert beside == pytest.approx(1.25 * (GPU.base + 8 * parameters) / 1e6, abs=100)
    best = task(resources__device="gpu", training__checkpoint_selection="best", training__validate_every=5)
    assert job_resources(best, "train_policy")["mem_mb"] == pytest.approx(
        1.25 * (GPU.base + 12 * parameters) / 1e6, abs=100
    )
    assert job_resources(best, "sample_responses")["mem_mb"] == pytest.approx(
        1.25 * (GPU.base + 4 * parameters) / 1e6, abs=100
    )


def test_a_run_on_several_processes_asks_for_the_memory_of_each_and_a_share_of_the_time():
    one, four = (task(training__num_train_epochs=3, training__num_processes=count) for count in (1, 4))
    alone, shared = job_resources(one, "train_policy"), job_resources(four, "train_policy")
    assert shared["mem_mb"] == pytest.approx(4 * alone["mem_mb"], abs=400)
    assert shared["runtime"] - START == pytest.approx((alone["runtime"] - START) / 4, abs=1)
    assert job_resources(four, "sample_responses") == job_resources(one, "sample_responses")


def test_memory_is_that_of_the_processes_of_one_machine():
    two, four = (task(training__num_processes=n, training__num_machines=n // 2) for n in (2, 4))
    assert job_resources(four, "train_policy")["mem_mb"] == job_resources(two, "train_policy")["mem_mb"]


def test_a_large_model_is_taken_to_run_on_a_gpu():
    assert (
        TaskNeeds(with_model(source="hub", id="someone/model-1.4b")).device == GPU and TaskNeeds(task()).device == CPU
    )


def test_a_data_set_that_is_not_at_hand_counts_as_the_number_that_stands_for_it():
    preferences = {"source": "transcripts", "hub": {"id": "someone/pairs"}}
    data = {"source": "preferences", "prompts": {"validation": 8, "test": 8}}
    known = {**TASK, "preferences": preferences, "data": data}
    assert TaskNeeds(TaskConfig.model_validate(known)).pairs == UNKNOWN_ROWS
    known["preferences"] = {**preferences, "sample": 500}
    assert TaskNeeds(TaskConfig.model_validate(known)).pairs == 500


# --- a model whose size nobody knows


@pytest.mark.parametrize("stage", MEASURED)
def test_a_model_of_unknown_size_asks_for_what_one_of_a_billion_needs(stage):
    unknown, billion = with_model(source="hub", id="someone/model"), with_model(source="hub", id="someone/model-1b")
    assert unknown_sizes(unknown) == ["model"] and unknown_sizes(billion) == []
    assert job_resources(unknown, stage) == job_resources(billion, stage)


def test_planning_warns_of_it_and_goes_on(tmp_path, capsys):
    config = {"name": "small", "tasks": {"reviews": {**TASK, "model": {"source": "hub", "id": "someone/model"}}}}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(config))
    assert Stages.read([path], {}).runs("reviews")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: tasks.reviews.model: ") and "give resources.parameters" in line
    for resources in ({"parameters": 7.74e8}, {"mem_mb": 9000, "runtime": 60}):
        Stages.read([path], {"tasks__reviews__resources": resources})
        assert capsys.readouterr().err == ""


# --- whole sweeps


def test_an_estimate_counts_every_job_of_the_sweep_and_adds_up_their_hours():
    made = stages(seeds=[0, 1])
    counts = job_counts(made, "reviews")
    assert counts == {
        **{"train_sft": 1, "build_preferences": 1, "cache_reference": 1, "train_policy": 6},
        **{"sample_responses": 7, "evaluate_run": 7},
    }
    rows = {stage: (jobs, hours) for stage, jobs, hours, *_ in stage_rows(made, "reviews")}
    assert {stage: jobs for stage, (jobs, _) in rows.items()} == counts
    assert rows["train_policy"][1] == pytest.approx(6 * need("train_policy").seconds / 3600)


def test_trainings_on_samples_of_the_policy_are_jobs_of_their_own():
    methods = TASK["methods"] | {"fdpg": {"beta": ["0.1", "0.2"]}}
    counts = job_counts(Stages(Config(name="small", tasks={"reviews": TASK | {"methods": methods}})), "reviews")
    assert counts["train_policy"] == 3 and counts["train_on_policy"] == 2 and counts["sample_responses"] == 6


def test_disk_grows_with_the_runs_and_its_caches_do_not():
    one, two = (disk(stages(seeds=seeds), "reviews") for seeds in ([0], [0, 1]))
    assert two.pop("weights") - one["weights"] == pytest.approx(3 * 4 * TaskNeeds(task()).size.parameters)
    assert one.pop("weights") and two == one and one["reference cache"] > 0
    assert disk(stages(training__reference="online"), "reviews")["reference cache"] == 0


def test_checkpoints_hold_what_is_trained_and_best_weights_beside_the_last():
    parameters, width, layers = TaskNeeds(task()).size[0], 768, 12
    key = "checkpoints of a run"
    assert disk(stages(), "reviews")[key] == 3 * 12 * parameters
    best = stages(training__checkpoint_selection="best", training__validate_every=5)
    assert disk(best, "reviews")[key] == 3 * 16 * parameters
    adapter = disk(stages(training__adapter={"rank": 8}), "reviews")[key]
    assert adapter == 3 * 12 * 18 * 8 * width * layers < parameters
    assert disk(stages(training__checkpoint_every=0), "reviews")[key] == 0


# --- adapters and 4 bits


def large(stage, dtype="bfloat16", **adapter):
    """What a job on 70B asks for beside a GPU, in GB."""
    given = {**TASK, "model": {"source": "hub", "id": "someone/model-70b", "dtype": dtype}}
    given["training"] = {**TASK["training"], "adapter": adapter or None}
    given["sft"] = {**TASK["sft"], "adapter": adapter or None}
    return job_resources(TaskConfig.model_validate(given), stage)["mem_mb"] / 1000


def test_4_bit_weights_of_70b_are_asked_for_as_such():
    """36 GB of weights, 8 of embeddings and head, 4 kept by the allocator, 4 of libraries, a margin of a quarter."""
    for stage in ("train_sft", "train_policy", "sample_responses", "evaluate_run"):
        assert 60 < large(stage, quantization="nf4") < 75
    assert large("sample_responses", quantization="nf4", merge=True) > 350
    assert large("train_policy", quantization="nf4", merge=True) > 350


def test_sft_loads_in_the_dtype_of_the_model():
    assert large("train_sft", rank=16) == pytest.approx(large("train_sft", "float32", rank=16) / 2, rel=0.03)


@pytest.mark.parametrize(
    ("adapter", "share"), [({"rank": 16}, 18 * 16 * 12 * 768), ({"rank": 16, "merge": True}, None)]
)
def test_a_folder_holds_an_adapter_or_the_whole_model(adapter, share):
    needs = TaskNeeds(task(training__adapter=adapter))
    assert needs.kept(needs.training) == (share or needs.size.parameters) and needs.kept(None) == needs.size.parameters
