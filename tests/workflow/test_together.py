"""Runs that are trained together: which they are, what their jobs read, and what is made again."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from sparsepo.config import Config
from sparsepo.config.loading import merge, nested
from sparsepo.workflow.resources import job_resources
from sparsepo.workflow.stages import Stages

ROOT = Path(__file__).resolve().parents[2]
BASE = yaml.safe_load("""
model: {source: scratch, config: {model_type: gpt2, n_layer: 2, n_embd: 8}}
data: {source: planted, texts: 60, prompts: {train: 40, validation: 8, test: 8}}
sft: {num_train_epochs: 1}
preferences: {source: generated, scorer: {kind: vader}}
methods:
  dpo: {beta: ["0.1"]}
  sparsepo_common: {beta: ["0.1", "0.2", "0.3"]}
  sparsepo_independent: {beta: ["0.1", "0.2"]}
seeds: [0, 3]
training: {batch_size: 10, together: 3}
evaluation: {scorer: {kind: vader}, frontier_prompts: 8}
""")
COMMON, INDEPENDENT = "sparsepo_common/beta~0.{}/seed~{}", "sparsepo_independent/beta~0.{}/seed~{}"

pytestmark = pytest.mark.timeout(900)


def stages(methods=BASE["methods"], **changes):
    task = merge(yaml.safe_load(yaml.safe_dump({**BASE, "methods": methods})), nested(changes))
    return Stages(Config.model_validate({"name": "all", "tasks": {"small": task}}))


def groups(made):
    """First run -> the runs of its job."""
    first_runs = made.first_runs_together("small")
    jobs = {run: json.loads(made.settings("train_together", "small", run))["runs"] for run in first_runs}
    assert all(run == next(iter(runs)) for run, runs in jobs.items())
    return {run: set(runs) for run, runs in jobs.items()}


def test_runs_of_a_seed_that_run_the_reference_are_shared_out_evenly():
    made = groups(stages())
    assert sum(map(len, made.values())) == 10 and sorted(map(len, made.values())) == [2, 2, 3, 3]
    assert all(len({run.split("seed~")[1] for run in runs}) == 1 for runs in made.values())
    assert groups(stages(training__together=4)).keys() == groups(stages()).keys()
    assert {len(runs) for runs in groups(stages(training__together=5)).values()} == {5}


def test_runs_that_read_what_is_cached_of_the_reference_are_trained_alone_unless_they_run_it():
    assert not any("dpo/" in run for runs in groups(stages()).values() for run in runs)
    online = groups(stages(training__together=9, training__reference="online"))
    assert "dpo/beta~0.1/seed~0" in online and sum(map(len, online.values())) == 12
    none_needed = {
        "training__log_kl": False,
        "training__reference": "online",
        "methods": {"simpo": {"beta": ["1", "2"]}},
    }
    assert groups(stages(**none_needed)) == {}


def test_by_default_each_run_is_trained_alone():
    assert groups(stages(training__together=1)) == {}


def test_runs_of_other_pairs_are_not_trained_with_those_of_the_task():
    oracle = {"oracles": {"main": {}}, "methods__sepo": {"beta": ["0.1", "0.2"], "oracle": ["main"]}}
    made = groups(stages(**oracle, training__together=9, training__reference="online"))
    assert {frozenset(run.split("/")[0] == "sepo" for run in runs) for runs in made.values()} == {
        frozenset({True}),
        frozenset({False}),
    }


def test_settings_of_a_run_do_not_say_with_which_others_it_is_trained():
    run = INDEPENDENT.format(1, 0)
    settings = {
        together: stages(training__together=together).settings("train_policy", "small", run) for together in (1, 3, 9)
    }
    assert len(set(settings.values())) == 1
    assert json.loads(stages().settings("train_together", "small", run))["runs"][run] == json.loads(settings[1])
    assert json.loads(stages(training__together=1).settings("train_together", "small", run)) == {"runs": {}}


@pytest.mark.parametrize("other", [{"num_processes": 2}, {"compile": True}])
def test_what_cannot_be_used_together_is_an_error_with_the_remedy(other):
    with pytest.raises(ValidationError, match=f"write together: 1, or {next(iter(other))}: "):
        stages(**{f"training__{key}": value for key, value in other.items()})


def test_a_job_of_several_runs_asks_for_memory_and_time_of_each():
    def asked(stage="train_together", **changes):
        changes |= {"model__config__n_layer": 12, "model__config__n_embd": 768, "training__num_train_epochs": 40}
        return job_resources(stages(**changes).config.tasks["small"], stage)

    whole, alone = {"training__adapter": None}, asked("train_policy")
    lora = {"training__adapter": {"rank": 1}}
    assert (
        asked(training__together=5, **whole)["mem_mb"]
        > asked(training__together=2, **whole)["mem_mb"]
        > alone["mem_mb"]
    )
    assert asked(training__together=5, **lora)["mem_mb"] < 1.5 * asked("train_policy", **lora)["mem_mb"]
    assert alone["runtime"] < asked(training__together=5)["runtime"] < 5 * alone["runtime"]


# --- the scripts


@pytest.fixture
def script(monkeypatch, tmp_path):
    """(name, **options) -> a script of the workflow, run in this process in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "workflow_scripts")

    def run(name, **options):
        words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        place = importlib.util.spec_from_file_location(name, ROOT / "workflow_scripts" / f"{name}.py")
        module = importlib.util.module_from_spec(place)
        place.loader.exec_module(module)
        module.main()

    return run


@pytest.fixture
def inputs(script):
    """The options that all trainings share: a model, pairs and prompts."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from sparsepo.models.loading import train_tokenizer

    words = [f"w{number}" for number in range(20)]
    tokenizer = train_tokenizer([" ".join(words)], "word", 40)
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_layer=2, n_embd=16, n_head=2, n_positions=64)
    ).save_pretrained("sft")
    tokenizer.save_pretrained("sft")
    pairs = [
        {
            "prompt": f"w{i} w{i + 1}",
            "chosen": f" w{i + 2} w{i}",
            "rejected": f" w{i + 3}",
            "chosen_score": 1.0,
            "rejected_score": 0.0,
        }
        for i in range(16)
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return {"reference": "sft", "pairs": "pairs.jsonl", "config": "{}"}


def without_rates(log):
    """The lines of a log, without what the clock and the free memory say."""
    lines = [line for line in log.splitlines() if line and "it/s" not in line]
    return [re.sub(r'"tokens_per_second": [\d.]+|of \d+ GB\)', "", line) for line in lines]


def without_clock(path):
    return [
        {key: value for key, value in json.loads(line).items() if key != "tokens_per_second"}
        for line in path.read_text().splitlines()
    ]


def test_a_run_takes_what_was_trained_together_as_if_it_had_been_trained_by_its_own_job(script, inputs, capsys):
    made = stages(
        seeds=[0], methods={"sparsepo_common": {"beta": ["0.1", "0.5"], "init": ["ones"]}}, training__max_steps=3
    )
    runs = made.runs("small", sft=False)
    alone = {run: made.settings("train_policy", "small", run) for run in runs}
    together = {
        "settings": made.settings("train_together", "small", runs[0]),
        "code_versions": json.dumps(dict.fromkeys(runs, "v")),
    }
    together |= inputs | {"runs": "runs", "out": "together.json"}

    def own_job(folder, run, **changed):
        place = Path(folder, run)
        options = inputs | {
            "settings": alone[run],
            "code_version": "v",
            "out": place,
            "checkpoint": place / "checkpoint",
        }
        script("train_policy", **options | changed)
        return place, capsys.readouterr().out

    script("train_together", **together)
    capsys.readouterr()
    assert json.loads(Path("together.json").read_text()) == {
        "trained": [f"runs/{run}/trained" for run in runs],
        "errors": {},
    }
    took, log = own_job("runs", runs[0])
    expected, own_log = own_job("apart", runs[0])
    assert without_rates(log) == without_rates(own_log) and "step 3/3" in log
    assert {path.name for path in took.iterdir()} == {path.name for path in expected.iterdir()}
    for name in ("model.safetensors", "masks.safetensors", "config.json"):
        assert (took / name).read_bytes() == (expected / name).read_bytes()
    assert without_clock(took / "dynamics.jsonl") == without_clock(expected / "dynamics.jsonl")
    record, own_record = (json.loads((place / "run.json").read_text()) for place in (took, expected))
    assert record.keys() == own_record.keys()
    for name in ("settings", "seeds", "code", "inputs", "pairs", "kept_step", "micro_batch_size"):
        assert record[name] == own_record[name]

    # of other code, settings or pairs it is trained by its own job
    shutil.copytree(Path("runs", runs[1]), Path("other", runs[1]))
    place, log = own_job("other", runs[1], code_version="w")
    assert "step 3/3" in log and json.loads((place / "run.json").read_text())["code"] == "w"
    assert not (place / "trained").exists()

    # what is there, in its place or beside it, is not trained again
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")}
    script("train_together", **together)
    assert json.loads(Path("together.json").read_text()) == {"trained": [], "errors": {}}
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")} == before


def test_a_run_that_fails_is_named_and_the_others_are_there(script, inputs, capsys):
    made = stages(seeds=[0], methods={"sparsepo_common": {"beta": ["0.1", "0.5"]}}, training__max_steps=2)
    runs = made.runs("small", sft=False)
    Path("runs", runs[0], "checkpoint").mkdir(parents=True)
    Path("runs", runs[0], "checkpoint/micro_batch_size.json").mkdir()  # cannot be written
    settings, versions = made.settings("train_together", "small", runs[0]), json.dumps(dict.fromkeys(runs, "v"))
    script("train_together", settings=settings, code_versions=versions, runs="runs", out="together.json", **inputs)
    written = json.loads(Path("together.json").read_text())
    log = f"runs/{runs[0]}/trained/train.log"
    assert written["trained"] == [f"runs/{runs[1]}/trained"] and list(written["errors"]) == [log]
    assert f"{log}: {written['errors'][log]}; its own job trains it again" in capsys.readouterr().out
    assert written["errors"][log] in Path(log).read_text()


# --- the workflow


@pytest.mark.slow
def test_a_further_run_is_trained_with_others_and_makes_nothing_of_them_again(tiny, unfinished, snakemake):
    config = yaml.safe_load(tiny)
    task = config["tasks"]["small"]
    task["methods"] = {"sparsepo_common": {"beta": ["0.1", "0.5"]}}
    task["training"] |= {"together": 2, "max_steps": 2, "num_train_epochs": 1}

    def jobs(target, *arguments):
        (unfinished / "config.yaml").write_text(yaml.safe_dump(config))
        done = snakemake(unfinished, target, "--cores", "2", *arguments)
        assert done.returncode == 0, done.stdout
        text = r"^(?:local)?rule (train_\w+):\n(?:    .*\n)*?    wildcards: .*run=(\S+)$"
        return {(rule, run.split("/")[1]) for rule, run in re.findall(text, done.stdout, re.MULTILINE)}

    first, second, third = "beta~0.1", "beta~0.5", "beta~0.2"
    assert jobs("together") == {("train_together", first)}
    assert jobs("together", "-n") == set()
    own = unfinished / "results/small/runs/sparsepo_common"
    trained = (own / f"{first}/seed~0/trained/model.safetensors").read_bytes()
    assert jobs("train") == {("train_policy", first), ("train_policy", second)}
    assert (own / f"{first}/seed~0/model.safetensors").read_bytes() == trained
    assert not (own / f"{first}/seed~0/trained").exists()
    assert jobs("train", "-n") == jobs("together", "-n") == set()
    task["methods"]["sparsepo_common"]["beta"], task["training"]["together"] = ["0.1", "0.2", "0.5"], 3
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*.safetensors")}
    assert jobs("together") == {("train_together", first)}
    assert jobs("train") == {("train_policy", third)}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    task["training"]["learning_rate"] = 1e-4
    assert jobs("together", "-n") == {("train_together", first)}
    assert jobs("train", "-n") == {("train_policy", run) for run in (first, second, third)}
