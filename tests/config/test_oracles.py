"""Oracles in a config: what is refused, which runs read which, and what a change of one makes anew."""

import json

import pytest
import yaml

from sparsepo.config import Config
from sparsepo.config.loading import load_config, merge, nested
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.estimate import disk, stage_rows
from sparsepo.workflow.model_size import model_size
from sparsepo.workflow.stages import Stages

SCRATCH = {"source": "scratch", "config": {"model_type": "gpt2", "n_layer": 1, "n_embd": 8}}
BASE = yaml.safe_load("""
name: small
tasks:
  reviews:
    model: {source: scratch, config: {model_type: gpt2, n_layer: 2, n_embd: 8}}
    data: {source: planted, texts: 60, prompts: {train: 40, validation: 8, test: 8}}
    sft: {num_train_epochs: 1}
    preferences: {source: generated, scorer: {kind: vader}}
    oracles:
      main: {share: 0.5, beta: 0.5}
      good: {objective: sft}
    methods:
      dpo: {beta: "0.1", mask: [none]}
      sepo: {beta: "1", oracle: main, k_chosen: ["0.1", "0.3"]}
      rho: {oracle: good}
    training: {batch_size: 10, num_train_epochs: 3, max_steps: 7, frontier_every: 4, validate_every: 2,
               checkpoint_selection: best}
    evaluation: {scorer: {kind: vader}, token_pairs: 4, frontier_prompts: 8}
""")
DPO, RHO = "dpo/beta~0.1-mask~none/seed~0", "rho/oracle~good/seed~0"
SEPO = [f"sepo/beta~1-k_chosen~{k}-oracle~main/seed~0" for k in ("0.1", "0.3")]
MORE = {"oracles__small": {"model": SCRATCH}, "methods__sepo__oracle": ["main", "small"]}


def raw(**changes):
    """BASE, changed as on the command line; a model is replaced whole."""
    changed = merge(BASE, nested({f"tasks__reviews__{key}": value for key, value in changes.items()}))
    changed["tasks"]["reviews"] |= {"model": changes["model"]} if "model" in changes else {}
    return changed


def stages(**changes):
    return Stages(Config.model_validate(raw(**changes)))


# --- what is refused


@pytest.fixture
def errors(tmp_path):
    """(**changes of BASE) -> the messages that it gets, without their file."""

    def load(**changes):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(raw(**changes), sort_keys=False))
        with pytest.raises(UserError) as caught:
            load_config(path)
        return [line.split(": ", 1)[1].removeprefix("tasks.reviews.") for line in str(caught.value).split("\n")]

    return load


def test_the_base_is_good():
    assert list(stages().config.tasks["reviews"].oracles) == ["main", "good"]


READS = "method '{}' reads a number for each token: name an oracle of this task (main, good), or bring the "
EXCESS = "mask 'excess' compares losses with a model fine-tuned from the task's own: oracle '{}' needs objective: sft"
TOKENS = "a model from scratch needs a task's model from scratch with the same 'tokenizer' section"
UNFIT = "mask '{}' cannot read oracle '{}' of objective "
CREDIT = {
    "oracles__two": {"contrast": True},
    "oracles__size": {"objective": "gradient"},
    "oracles__words": {"objective": "planted"},
    "methods__tis_dpo": {"beta": "1", "oracle": "two"},
    "methods__ti_dpo": {"beta": "1", "oracle": "size"},
    "methods__sparsepo_oracle": {"beta": "1", "oracle": "words"},
}
"""Changes of BASE: oracles that are two models, and none."""
TEXTS = {"data": {"source": "texts", "hub": {"id": "x/y"}, "prompts": {"train": 40, "validation": 8, "test": 8}}}
HUB = {"source": "hub", "id": "owner/model-1b"}


@pytest.mark.parametrize(
    "changes, place, message",
    [
        ({"methods__sepo__oracle": "mian"}, "methods.sepo.oracle", "'mian' is not an oracle of this task; allowed:"),
        ({"methods__sepo__oracle": "data"}, "methods.sepo.oracle", READS.format("sepo")),
        ({"methods__dpo__mask": ["none", "given"]}, "methods.dpo", READS.format("dpo")),
        ({"methods__rho__oracle": "main"}, "methods.rho.oracle", EXCESS.format("main")),
        ({"oracles__good__model": SCRATCH}, "methods.rho.oracle", EXCESS.format("good")),
        ({"oracles__idle": {}}, "oracles.idle", "no method of this task reads it: name it in a grid, or leave it out"),
        ({"oracles__data": {}}, "oracles.data", "'data' means the numbers that the pairs of the data bring: give"),
        ({"oracles__Main": {}}, "oracles.Main", "must be a name of at most 64 small letters, digits and '_', not"),
        ({"oracles__good__beta": 0.1}, "oracles.good.beta", "is read by an oracle of objective dpo only: leave it out"),
        ({"oracles__main__share": 0.2}, "oracles.main.share", "0.2 of 40 prompts gives fewer pairs than one batch"),
        ({"oracles__main__share": 1.5}, "oracles.main.share", "must be less than or equal to 1, not 1.5"),
        ({"oracles__main__objekt": "dpo"}, "oracles.main.objekt", "unknown key; allowed: objective, contrast, truth,"),
        (MORE | {"oracles__small__model__tokenizer": {"kind": "bpe"}}, "oracles.small.model.tokenizer", TOKENS),
        (MORE | {"model": HUB}, "oracles.small.model.tokenizer", TOKENS),
        (MORE | {"sft": None}, "oracles.small.model", "a model from scratch knows nothing: the task needs an"),
        ({"oracles__good__contrast": True}, "methods.rho.oracle", EXCESS.format("good")),
        (CREDIT | {"methods__ti_dpo__oracle": "main"}, "methods.ti_dpo.oracle", UNFIT.format("attribution", "main")),
        (CREDIT | {"methods__sepo__oracle": "size"}, "methods.sepo.oracle", UNFIT.format("selected", "size")),
        (CREDIT | {"methods__tis_dpo__oracle": "words"}, "methods.tis_dpo.oracle", UNFIT.format("importance", "words")),
        (CREDIT | {"oracles__size__seed": 1}, "oracles.size.seed", "is not read by objective gradient, which trains"),
        (CREDIT | {"oracles__words__contrast": True}, "oracles.words.contrast", "is not read by objective planted,"),
        ({"oracles__main__truth": "slots"}, "oracles.main.truth", "is read by an oracle of objective planted only"),
        (CREDIT | TEXTS, "oracles.words.objective", "is for data of source planted, not texts: write dpo, sft or grad"),
    ],
)  # fmt: skip
def test_a_mistake_gets_its_message(errors, changes, place, message):
    messages = errors(**changes)
    assert any(line.startswith(f"{place}: {message}") for line in messages), messages


def test_numbers_of_the_users_own_pairs_need_no_oracle(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("")
    task = {key: value for key, value in BASE["tasks"]["reviews"].items() if key != "oracles"} | {
        "data": {"source": "preferences", "prompts": {"validation": 2, "test": 8}},
        "preferences": {"source": "pairs", "path": str(tmp_path / "pairs.jsonl")},
        "methods": {"sepo": {"beta": "1"}, "dpo": {"beta": "1", "mask": "given", "oracle": "data"}},
    }
    found = Stages(Config.model_validate({"name": "small", "tasks": {"reviews": task}}))
    files = {found.preference_file("train", "reviews", run) for run in found.runs("reviews")}
    assert files == {"results/reviews/preferences/train.jsonl"}


# --- who reads what


def test_a_run_reads_the_pairs_of_its_oracle_and_the_others_those_of_the_task():
    made = stages(**MORE)
    small = SEPO[0].replace("main", "small")
    where = {run: made.preference_file("train", "reviews", run) for run in ("sft", DPO, SEPO[0], small, RHO)}
    folders = ("preferences", "preferences", "oracles/main", "oracles/small", "oracles/good")
    assert list(where.values()) == [f"results/reviews/{folder}/train.jsonl" for folder in folders]
    assert made.oracle_selected_runs("reviews") == [*SEPO, small, small.replace("0.1", "0.3")]


def test_an_oracle_starts_from_the_task_or_from_a_model_of_its_own():
    made = stages(**MORE)
    assert made.oracle_start("reviews", "main") == "results/reviews/sft"
    assert made.oracle_start("reviews", "small") == "results/reviews/oracles/small/sft"


def test_scores_are_of_an_oracle_and_its_base_or_of_the_sft_model_alone():
    made = stages(**MORE, **CREDIT)
    folders = {
        name: [folder.removeprefix("results/reviews/") for folder in made.scoring_models("reviews", name)]
        for name in ("main", "small", "two", "size", "words")
    }
    assert folders == {
        "main": ["oracles/main/policy", "sft"],
        "small": ["oracles/small/policy", "oracles/small/sft"],
        "two": ["oracles/two/policy", "oracles/two/swapped"],
        "size": ["sft"],
        "words": ["sft"],
    }


def test_the_figure_of_a_selection_is_there_where_runs_select():
    assert "selection" in stages().figures("reviews")
    task = BASE["tasks"]["reviews"] | {
        "oracles": {"good": {"objective": "sft"}},
        "methods": {"rho": {"oracle": "good"}},
    }
    other = Stages(Config.model_validate({"name": "small", "tasks": {"reviews": task}}))
    assert other.oracle_selected_runs("reviews") == [] and "selection" not in other.figures("reviews")


# --- settings


def settings(stage, oracle, **changes):
    return json.loads(stages(**changes).settings(stage, "reviews", oracle=oracle))


def test_an_oracle_is_trained_like_a_policy_but_for_what_it_says_and_is_not_measured():
    main = settings("train_oracle", "main", oracles__main__learning_rate=0.5)
    assert (main["method"], main["hyper"], main["seed"]) == ("dpo", {"beta": 0.5}, 0)
    wanted = {"learning_rate": 0.5, "num_train_epochs": 3.0, "max_steps": 7, "batch_size": 10}
    wanted |= {"frontier_every": 0, "validate_every": 0, "checkpoint_selection": "last"}
    assert {name: main["training"][name] for name in wanted} == wanted
    good = settings("train_oracle", "good", oracles__good__num_train_epochs=2, oracles__good__seed=3)
    assert (good["method"], good["hyper"], good["seed"]) == ("rho", {"mask": "uniform"}, 3)
    assert (good["training"]["num_train_epochs"], good["training"]["max_steps"]) == (2.0, None)


def test_steps_of_an_oracle_grow_with_the_scale_of_the_task():
    made = Stages(load_scaled(oracles__main__num_train_epochs=2, scale__steps=1.5))
    assert json.loads(made.settings("train_oracle", "reviews", oracle="main"))["training"]["num_train_epochs"] == 3.0


def load_scaled(**changes):
    return Config.model_validate(raw(**changes)).scaled()


def test_a_model_of_its_own_is_fine_tuned_as_the_tasks_is():
    small = settings("train_oracle_sft", "small", **MORE)
    assert small["model"]["config"]["n_layer"] == 1 and small["sft"] == settings("train_sft", "", **MORE)["sft"]


OF_ORACLES = ("select_oracle_pairs", "train_oracle", "score_tokens")
OF_TASKS = ("prepare_data", "train_sft", "build_preferences", "cache_reference", "plot_selection")


def changed_by(**changes):
    """(stage, oracle or run) of which the settings differ."""
    before, after = stages(), stages(**changes)
    jobs = [(stage, {"oracle": name}) for stage in OF_ORACLES for name in ("main", "good")]
    jobs += [(stage, {"run": run}) for stage in ("train_policy", "evaluate_run") for run in (DPO, *SEPO, RHO)]
    jobs += [(stage, {}) for stage in OF_TASKS]
    texts = [[made.settings(stage, "reviews", **item) for stage, item in jobs] for made in (before, after)]
    return {(stage, *item.values()) for (stage, item), old, new in zip(jobs, *texts, strict=True) if old != new}


@pytest.mark.parametrize(
    "changes, jobs",
    [
        ({"oracles__main__beta": 0.3}, {("train_oracle", "main")}),
        ({"oracles__main__seed": 1}, {("select_oracle_pairs", "main"), ("train_oracle", "main")}),
        ({"oracles__main__share": 0.9}, {("select_oracle_pairs", "main"), ("plot_selection",)}),
        ({"oracles__good__num_train_epochs": 9}, {("train_oracle", "good")}),
        ({"evaluation__token_pairs": 5}, {("evaluate_run", run) for run in (DPO, *SEPO, RHO)}),
        ({"training__frontier_every": 2}, {("train_policy", run) for run in (DPO, *SEPO, RHO)}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_an_oracle_says_is_read_by_its_own_jobs_alone(changes, jobs):
    assert changed_by(**changes) == jobs


def test_an_oracle_runs_the_code_of_its_own_objective():
    code = {name: stages().code_version("train_oracle", "reviews", oracle=name) for name in ("main", "good")}
    assert len(set(code.values())) == 2
    made = stages(**CREDIT)
    scoring = {
        name: made.code_version("score_tokens", "reviews", oracle=name) for name in made.config.tasks["reviews"].oracles
    }
    assert scoring["main"] == scoring["good"] == scoring["two"]
    assert len({scoring[name] for name in ("main", "size", "words")}) == 3


def test_the_other_model_of_a_contrast_is_trained_as_the_oracle_is():
    both = [settings(stage, "two", **CREDIT) for stage in ("train_oracle", "train_swapped_oracle")]
    assert both[0] == both[1] and both[0]["method"] == "dpo"


def test_what_an_oracle_scores_by_is_in_the_settings_of_its_scoring():
    found = {name: settings("score_tokens", name, **CREDIT) for name in ("main", "two", "size", "words")}
    assert {name: (own["score"], own["truth"]) for name, own in found.items()} == {
        "main": ("log_ratio", None),
        "two": ("log_ratio", None),
        "size": ("gradient", None),
        "words": ("planted", "words"),
    }


def test_what_a_sweep_takes_counts_each_oracle_by_its_own_model():
    made = stages(**MORE)
    hours = {stage: hours for stage, _, hours, *_ in stage_rows(made, "reviews")}
    assert {stage for stage in hours if "oracle" in stage} == {
        "train_oracle_sft small",
        *(f"train_oracle {name}" for name in ("main", "good", "small")),
    }
    assert hours["train_oracle small"] < hours["train_oracle main"]
    own, small = (
        4 * model_size(parsed.config.tasks["reviews"].model).parameters for parsed in (made, stages(model=SCRATCH))
    )
    models = len(made.runs("reviews")) + 2  # the runs, SFT, and the oracles main and good
    assert disk(made, "reviews")["weights"] == pytest.approx(models * own + 2 * small)  # fine-tuned, then trained


def test_what_a_sweep_takes_counts_two_trainings_of_a_contrast_and_none_of_what_trains_nothing():
    made, plain = stages(**CREDIT), stages()
    jobs = {stage for stage, *_ in stage_rows(made, "reviews")} - {stage for stage, *_ in stage_rows(plain, "reviews")}
    scored = {f"score_tokens {name}" for name in ("two", "size", "words")}
    assert jobs == scored | {"train_oracle two", "train_swapped_oracle two"}
    model = 4 * model_size(made.config.tasks["reviews"].model).parameters
    grown = disk(made, "reviews")["weights"] - disk(plain, "reviews")["weights"]
    assert grown == pytest.approx((3 + 2) * model)  # three runs, two models of the contrast


def test_an_oracle_asks_for_the_memory_of_its_own_model():
    large = {"source": "scratch", "config": {"model_type": "gpt2", "n_layer": 24, "n_embd": 1024}}
    made = stages(
        **MORE, oracles__large={"model": large}, methods__dpo={"beta": "1", "mask": "selected", "oracle": "large"}
    )
    memory = {name: made.resources("train_oracle", "reviews", oracle=name)["mem_mb"] for name in ("", "small", "large")}
    assert memory["small"] <= memory[""] < memory["large"]
