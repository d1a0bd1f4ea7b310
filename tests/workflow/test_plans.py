"""What `snakemake` plans: every shipped config, every target, and after a change exactly what depends on it.

A tiny run in a copy of the workflow is made once; each test that needs it gets a copy of its own, in another folder,
and only asks what would be done.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [ROOT / "config.yaml", *sorted((ROOT / "configs").rglob("*.yaml"))]
WORKFLOW = ("Snakefile", "rules", "workflow_scripts", "src", "profiles", "envs")

TINY = """\
name: tiny

tasks:
  small:
    model:
      source: scratch
      config: {model_type: gpt2, n_layer: 2, n_head: 2, n_embd: 32, n_positions: 64}
      tokenizer: {kind: word, vocabulary: 600}
    data: {source: planted, texts: 60, prompts: {train: 20, validation: 8, test: 8}}
    sft: {epochs: 1, batch_size: 10, learning_rate: 1e-2}
    preferences: {source: generated, scorer: {kind: vader}, sampling: {samples: 4, max_new_tokens: 16}}
    methods:
      dpo: {beta: ["0.1"]}
      sparsepo_common: {beta: ["0.5"]}
    seeds: [0]
    training: {epochs: 2, batch_size: 10, learning_rate: 1e-3, frontier_every: 0}
    sampling: {max_new_tokens: 16}
    evaluation: {scorer: {kind: vader}, token_pairs: 4}
"""
DPO, SPARSE = "dpo/beta~0.1/seed~0", "sparsepo_common/beta~0.5/seed~0"
REPORT = {("make_table", ""), ("compare_methods", ""), ("plot_frontier", ""), ("plot_dynamics", "")}
TOKENS = {("plot_tokens", "dpo"), ("plot_tokens", "sparsepo_common")}

# The tiny run takes a minute or two, and more on a busy machine; it counts for the first test that needs it.
pytestmark = pytest.mark.timeout(900)


def snakemake(folder, *arguments):
    """Run snakemake in `folder`; what it printed is in `stdout`."""
    command = [sys.executable, "-m", "snakemake", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def from_root(tmp_path, *arguments):
    """Dry-run the repository's workflow in a folder elsewhere."""
    return snakemake(tmp_path, "-s", ROOT / "Snakefile", "--directory", tmp_path, "-n", *arguments)


def job_counts(done):
    """The table of jobs that a dry run prints, rule -> count."""
    assert done.returncode == 0, done.stdout
    table = done.stdout.rsplit("Job stats:", 1)[1].split("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def planned(folder, *targets):
    """What a dry run would do: {(rule, run or method)}, target rules left out."""
    done = snakemake(folder, "-n", *targets)
    assert done.returncode == 0, done.stdout
    if "Nothing to be done" in done.stdout:
        return set()
    assert "This was a dry-run" in done.stdout
    found = set()
    for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", done.stdout, re.MULTILINE):
        values = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
        which = re.search(r"(?:run|method)=([^,]+)", values[1]) if values else None
        found |= {(rule, which[1] if which else "")} if values else set()
    return found


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# --- plans from nothing


@pytest.mark.parametrize("path", SHIPPED, ids=[str(path.relative_to(ROOT)) for path in SHIPPED])
def test_every_shipped_config_plans_all_its_runs(tmp_path, path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")  # their paths start at the repository
    tasks = yaml.safe_load(path.read_text())["tasks"]
    for task in tasks.values():  # data that a user brings
        for section in (task["data"], task["preferences"]):
            if "path" in section and not (tmp_path / section["path"]).exists():
                (tmp_path / section["path"]).write_text("")
    counts = job_counts(from_root(tmp_path, "--configfile", path))
    runs = sum(
        len(task.get("seeds", [0])) * points(grid) for task in tasks.values() for grid in task["methods"].values()
    )
    assert counts["train_policy"] == runs and counts["make_sft"] == counts["make_table"] == len(tasks)
    assert counts["sample_policy"] == counts["evaluate_run"] == runs + len(tasks)
    for part, rule in PARTS.items():
        asked = sum(part in task["evaluation"] for task in tasks.values())
        assert counts.get(rule, 0) == (runs // len(tasks) + 1) * asked
    assert counts.get("fit_scorer", 0) == ("kind: tfidf" in path.read_text())


PARTS = {
    "generation": "generate",
    "summaries": "measure_summaries",
    "wins": "measure_wins",
    "benchmarks": "measure_benchmarks",
    "code": "measure_code",
}


def points(grid):
    """The number of points of a grid."""
    count = 1
    for values in grid.values():
        count *= len(values) if isinstance(values, list) else 1
    return count


def test_the_default_is_taken_when_no_config_is_named(tmp_path):
    counts = job_counts(from_root(tmp_path))
    methods = yaml.safe_load((ROOT / "config.yaml").read_text())["tasks"]["planted"]["methods"]
    assert counts["train_policy"] == sum(map(points, methods.values())) and counts["plot_tokens"] == len(methods)


def test_a_config_that_is_named_replaces_the_default_whole(tmp_path):
    (tmp_path / "own.yaml").write_text(TINY)
    done = from_root(tmp_path, "--configfile", "own.yaml")
    counts = job_counts(done)
    assert counts["train_policy"] == 2 and counts["make_data"] == 1 and "results/planted/" not in done.stdout


def test_a_value_of_the_command_line_replaces_one_of_the_default(tmp_path):
    one = job_counts(from_root(tmp_path))
    two = job_counts(from_root(tmp_path, "--config", "tasks__planted__seeds=[0,1]"))
    assert two["train_policy"] == 2 * one["train_policy"] and two["sample_policy"] == 2 * one["train_policy"] + 1
    assert two["make_sft"] == two["make_preferences"] == two["make_table"] == 1


CHAIN = {"make_data": 1, "make_sft": 1, "make_preferences": 1, "cache_reference": 1, "train_policy": 2}
SCORES = {**CHAIN, "sample_policy": 3, "evaluate_run": 3}
ALL = {**SCORES, "make_table": 1, "compare_methods": 1}
FIGURES = {"plot_frontier": 1, "plot_dynamics": 1, "plot_tokens": 2}
TARGETS = {
    "data": {"make_data": 1},
    "sft": {"make_data": 1, "make_sft": 1},
    "preferences": {"make_data": 1, "make_sft": 1, "make_preferences": 1},
    "train": CHAIN,
    "samples": {**CHAIN, "sample_policy": 3},
    "scores": SCORES,
    "measures": SCORES,
    "tables": ALL,
    "figures": {**SCORES, **FIGURES},
    "all": {**ALL, **FIGURES},
}


@pytest.mark.parametrize(("target", "jobs"), TARGETS.items(), ids=TARGETS)
def test_a_target_plans_what_it_needs_and_no_more(tmp_path, target, jobs):
    (tmp_path / "own.yaml").write_text(TINY)
    counts = job_counts(from_root(tmp_path, target, "--configfile", "own.yaml"))
    assert {rule: count for rule, count in counts.items() if rule != target} == jobs


# --- mistakes


def refused(done, *sentences):
    """Exit code 1, the sentences, no stack trace and no job."""
    assert done.returncode == 1, done.stdout
    for sentence in sentences:
        assert sentence in done.stdout
    assert "Traceback" not in done.stdout and "Job stats" not in done.stdout and "rule " not in done.stdout


def test_a_mistake_in_a_config_ends_the_plan_with_its_sentence(tmp_path):
    (tmp_path / "own.yaml").write_text(TINY.replace("dpo:", "dp0:").replace("texts: 60", "texts: 0"))
    refused(
        from_root(tmp_path, "--configfile", "own.yaml"),
        "own.yaml:9: tasks.small.data.texts: must be greater than 0, not 0\n",
        "own.yaml:13: tasks.small.methods.dp0: method 'dp0' is unknown; allowed: dpo, ",
        "; did you mean 'dpo'?\n",
    )
    assert not (tmp_path / "results").exists()


def test_a_mistake_on_the_command_line_is_blamed_on_it(tmp_path):
    done = from_root(tmp_path, "--config", "tasks__planted__sede=[0,1]")
    refused(done, "--config: tasks.planted.sede: unknown key; allowed: ", "; did you mean 'seeds'?\n")


def test_the_path_of_a_preference_file_can_be_given_on_the_command_line(tmp_path):
    task = {"preferences": {"source": "scored", "path": "elsewhere.jsonl"}}
    task["data"] = {"source": "preferences", "prompts": {"validation": 2, "test": 8}}
    config = yaml.safe_load(TINY)
    config["tasks"]["small"] |= task
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "mine.jsonl").write_text("")
    refused(from_root(tmp_path, "--configfile", "own.yaml"), "preferences.path: no such file: elsewhere.jsonl")
    given = "tasks__small__preferences__path=mine.jsonl"
    assert job_counts(from_root(tmp_path, "--configfile", "own.yaml", "--config", given))["train_policy"] == 2


def test_a_missing_file_of_the_user_ends_the_plan(tmp_path):
    pairs = "{source: pairs, path: no/pairs.jsonl}"
    text = re.sub(r"preferences: \{.*", f"preferences: {pairs}", TINY)
    (tmp_path / "own.yaml").write_text(text)
    refused(from_root(tmp_path, "--configfile", "own.yaml"), "own.yaml:11: tasks.small.preferences.path: no such file")


# --- a finished run


@pytest.fixture(scope="session")
def original(tmp_path_factory, worker_id):
    """A folder with the workflow and the results of a tiny run, made once for all workers of pytest-xdist."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    folder = shared / "tiny-run"
    with open(shared / "tiny-run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "finished").exists():
            copy_workflow(folder)
            (folder / "config.yaml").write_text(TINY)
            done = snakemake(folder, "--cores", "2")
            assert done.returncode == 0, done.stdout
            (folder / "finished").touch()
    return folder


def copy_workflow(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in WORKFLOW:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        options = {"ignore": shutil.ignore_patterns("__pycache__", "*.egg-info")} if copy is shutil.copytree else {}
        copy(ROOT / name, folder / name, **options)


@pytest.fixture
def finished(original, tmp_path):
    """A copy of the finished run, somewhere else."""
    return Path(shutil.copytree(original, tmp_path / "moved"))


def test_after_a_run_nothing_is_to_be_done_also_in_another_folder(finished):
    assert planned(finished) == set()


def test_touching_every_file_plans_nothing(finished):
    for path in finished.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)
    assert planned(finished) == set()


def test_a_comment_or_a_docstring_plans_nothing(finished):
    losses = finished / "src/sparsepo/objective/losses.py"
    replace(losses, "\ndef dpo(", "\n# A remark.\n\ndef dpo(")
    replace(losses, 'r"""-log sigmoid(beta h), h', 'r"""Once more: -log sigmoid(beta h), h')
    assert planned(finished) == set()


def test_another_loss_plans_training_and_what_follows(finished):
    losses = finished / "src/sparsepo/objective/losses.py"
    text = losses.read_text()
    start = text.index("def dpo(")
    losses.write_text(text[:start] + text[start:].replace("-F.logsigmoid(", "-2 * F.logsigmoid(", 1))
    runs = {(rule, run) for rule in ("train_policy", "sample_policy", "evaluate_run") for run in (DPO, SPARSE)}
    # The reference is looked into with DPO, so its evaluation depends on the losses too.
    assert planned(finished) == runs | {("evaluate_run", "sft")} | REPORT | TOKENS


def test_another_beta_plans_that_run_and_what_depends_on_it(finished):
    replace(finished / "config.yaml", 'dpo: {beta: ["0.1"]}', 'dpo: {beta: ["0.2"]}')
    run = "dpo/beta~0.2/seed~0"
    new = {("train_policy", run), ("sample_policy", run), ("evaluate_run", run)}
    assert planned(finished) == new | REPORT | {("plot_tokens", "dpo")}


def test_one_more_seed_plans_its_runs_and_the_report(finished):
    replace(finished / "config.yaml", "seeds: [0]", "seeds: [0, 1]")
    runs = [run.replace("seed~0", "seed~1") for run in (DPO, SPARSE)]
    new = {(rule, run) for rule in ("train_policy", "sample_policy", "evaluate_run") for run in runs}
    assert planned(finished) == new | REPORT


def test_one_method_less_plans_the_report(finished):
    replace(finished / "config.yaml", '      sparsepo_common: {beta: ["0.5"]}\n', "")
    assert planned(finished) == REPORT


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("tables", {("make_table", "")}),
        ("comparison", {("compare_methods", "")}),
        ("style", {("plot_frontier", ""), ("plot_dynamics", "")} | TOKENS),
    ],
)
def test_a_module_of_the_report_plans_tables_or_figures_only(finished, module, wanted):
    with open(finished / f"src/sparsepo/report/{module}.py", "a") as file:
        file.write("\n\nADDED = 1\n")
    assert wanted <= planned(finished) <= REPORT | TOKENS


def test_other_resources_plan_nothing(finished):
    with open(finished / "config.yaml", "a") as file:
        file.write("    resources: {mem_mb: 3000, runtime: 7}\n")
    assert planned(finished) == set()


def test_other_sampling_plans_no_training(finished):
    replace(finished / "config.yaml", "sampling: {max_new_tokens: 16}\n", "sampling: {max_new_tokens: 15}\n")
    runs = {(rule, run) for rule in ("sample_policy", "evaluate_run") for run in ("sft", DPO, SPARSE)}
    assert planned(finished) == runs | REPORT | TOKENS


def test_a_deleted_sample_is_made_again_with_all_that_follows_when_it_is_asked_for(finished):
    """Snakemake leaves a file in the middle alone while everything after it is there and up to date."""
    (finished / f"results/small/samples/{DPO}.jsonl").unlink()
    sample = {("sample_policy", DPO)}
    assert planned(finished) == set() and planned(finished, "samples") == sample
    assert planned(finished, "samples", "all") == sample | {("evaluate_run", DPO), ("plot_tokens", "dpo")} | REPORT


def test_a_deleted_table_is_made_again_alone(finished):
    (finished / "results/tables/small.tex").unlink()
    assert planned(finished) == {("compare_methods", "")}


def test_results_of_a_config_of_another_name_are_refused(finished):
    replace(finished / "config.yaml", "name: tiny", "name: other")
    refused(
        snakemake(finished, "-n"),
        "results/small holds results of the config named 'tiny', and this one is named 'other': work in another folder "
        "(snakemake --directory), rename the task, or remove that folder\n",
    )


# --- what the run left

ALWAYS = {
    "step",
    "loss",
    "reward_chosen",
    "reward_rejected",
    "reward_margin",
    "reward_accuracy",
    "logp_change_chosen",
    "logp_change_rejected",
    "reverse_kl_chosen",
    "reverse_kl_rejected",
    "forward_kl_chosen",
    "forward_kl_rejected",
    "grad_norm",
    "learning_rate",
    "tokens_per_second",
}
WITH_MASKS = {
    "sparsity_u_chosen",
    "sparsity_u_rejected",
    "sparsity_d_chosen",
    "sparsity_d_rejected",
    "mask_u_mean",
    "mask_d_mean",
    "mask_l1",
}


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_table_stands_in_three_formats(original):
    tables = original / "results/tables"
    csv, markdown, latex = ((tables / f"small.{kind}").read_text() for kind in ("csv", "md", "tex"))
    for text in (csv, markdown, latex):
        assert all(label in text for label in ("SFT", "DPO", "SparsePO (common)"))
    assert "| " in markdown and r"\begin{tabular" in latex
    assert "config tiny, task small" in markdown


def test_every_figure_stands_in_two_formats(original):
    figures = original / "results/figures/small"
    names = ["frontier", "sparsity", "token_kl", "tokens/dpo", "tokens/sparsepo_common"]
    for name in names:
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG") and (
            figures / f"{name}.png"
        ).stat().st_size
        assert "</svg>" in (figures / f"{name}.svg").read_text()
    assert len([path for path in figures.rglob("*") if path.is_file()]) == 2 * len(names)


@pytest.mark.parametrize(("run", "keys"), [(DPO, ALWAYS), (SPARSE, ALWAYS | WITH_MASKS)], ids=["dpo", "sparsepo"])
def test_every_step_is_logged_and_starts_from_the_reference(original, run, keys):
    steps = rows(original / f"results/small/runs/{run}/dynamics.jsonl")
    assert [set(step) for step in steps] == [keys] * 4 and [step["step"] for step in steps] == [1, 2, 3, 4]
    first, last = steps[0], steps[-1]
    assert first["reward_margin"] == first["reverse_kl_chosen"] == 0 and first["loss"] == pytest.approx(
        0.6931, abs=1e-3
    )
    assert last["reverse_kl_chosen"] > 0 and last["reward_margin"] != 0


def test_a_run_records_settings_inputs_and_environment(original):
    record = json.loads((original / f"results/small/runs/{SPARSE}/run.json").read_text())
    settings = record["settings"]
    assert (settings["method"], settings["hyper"], settings["seed"]) == ("sparsepo_common", {"beta": 0.5}, 0)
    assert settings["training"]["batch_size"] == 10 and settings["training"]["mask_learning_rate"] == 1e-3
    inputs = {
        f"results/small/{name}" for name in ("sft/model.safetensors", "preferences/train.jsonl", "prompts/test.jsonl")
    }
    assert set(record["inputs"]) == inputs and all(
        re.fullmatch("[0-9a-f]{16}", each) for each in record["inputs"].values()
    )
    assert record["environment"]["packages"]["torch"] and record["seconds"] > 0 and record["peak_memory_mb"] > 0
    assert re.fullmatch("[0-9a-f]{12}", record["code"]) and "git" in record


def test_a_policy_loads_anywhere_and_differs_from_its_reference(original):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    results = original / "results/small"
    folders = (results / "sft", results / "runs" / DPO, results / "runs" / SPARSE)
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in folders]
    assert all(len(tokenizer) == models[0].config.vocab_size for tokenizer in tokenizers)
    ids = torch.arange(5)[None]
    logits = [model(ids).logits for model in models]
    assert all(not torch.equal(logits[0], other) for other in logits[1:])


def test_mask_heads_lie_beside_the_policies_that_have_some(original):
    from safetensors import safe_open

    runs = original / "results/small/runs"
    with safe_open(runs / SPARSE / "masks.safetensors", "pt") as weights:
        assert len(list(weights.keys())) > 0
    assert json.loads((runs / SPARSE / "masks.json").read_text()) == {
        "method": "sparsepo_common",
        "hyper": {"beta": 0.5},
    }
    assert not (runs / DPO / "masks.safetensors").exists()


def test_checkpoints_are_gone_and_nothing_half_written_is_left(original):
    names = [path.name for path in (original / "results").rglob("*")]
    assert not [name for name in names if "checkpoint" in name or name.endswith(".tmp")]


def test_scores_name_their_run_and_count_their_samples(original):
    results = original / "results/small"
    for run, method, params, seed in (
        ("sft", "sft", {}, None),
        (DPO, "dpo", {"beta": "0.1"}, 0),
        (SPARSE, "sparsepo_common", {"beta": "0.5"}, 0),
    ):
        score = json.loads((results / f"scores/{run}.json").read_text())
        assert (score["task"], score["run"], score["method"]) == ("small", run, method)
        assert (score["params"], score["seed"]) == (params, seed)
        samples = rows(results / f"samples/{run}.jsonl")
        for key in ("reward", "kl_sample", "kl_exact", "length", "prompt_ids"):
            assert len(score[key]) == 8
        assert [row["split"] for row in samples] == ["validation"] * 8 + ["test"] * 8
        measured = score["splits"]["test"][""]
        assert measured["reward"]["values"] == score["reward"] and measured["kl"]["values"] == score["kl_exact"]
        assert len(score["splits"]["validation"][""]["accuracy"]["values"]) == 4
        assert set(score["sparsity"]) == ({"m_u", "m_d"} if "sparsepo" in method else set())
        assert score["auc"].keys() == (set() if run == "sft" else {"abs_logratio", *score["sparsity"]})
        assert len(rows(results / f"tokens/{run}.jsonl")) == 4
    reference = json.loads((results / "scores/sft.json").read_text())
    assert max(map(abs, reference["kl_exact"])) == 0 and reference["train_seconds"] is None


def test_stages_count_what_they_made_and_dropped(original):
    results = original / "results/small"
    stamp = json.loads((results / "data.json").read_text())
    assert stamp == {"config": "tiny", "train": 20, "validation": 8, "test": 8, "corpus": 60, "labelled": 0}
    summary = json.loads((results / "preferences/summary.json").read_text())
    for split, prompts in (("train", 20), ("validation", 8)):
        pairs, lost = summary[split]["pairs"], summary[split]["dropped"]
        assert pairs == len(rows(results / f"preferences/{split}.jsonl"))
        assert pairs + sum(row["count"] for row in lost if "'text'" not in row["reason"]) == prompts


# --- a stage that fails


def test_a_broken_line_in_a_file_of_the_user_is_told_by_the_stage_that_reads_it(tmp_path):
    row = json.dumps({"prompt": "a b", "chosen": "c", "rejected": "d"})
    (tmp_path / "pairs.jsonl").write_text(f'{row}\n{row}\n{{"prompt": "a b", "chosen": "c"\n{row}\n')
    config = yaml.safe_load(TINY)
    task = config["tasks"]["small"]
    task["preferences"] = {"source": "pairs", "path": "pairs.jsonl"}
    task["data"] = {"source": "preferences", "prompts": {"train": 20, "validation": 8, "test": 8}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(
        *(tmp_path, "-s", ROOT / "Snakefile", "--directory", tmp_path, "--configfile", "own.yaml", "--cores", "1"),
        "preferences",
    )
    log = (tmp_path / "logs/small/data.log").read_text()
    sentence = "error: pairs.jsonl:3: not valid JSON (Expecting ',' delimiter); one object a line is expected\n"
    assert done.returncode == 1 and log == sentence
    assert sentence in done.stdout and "Traceback" not in done.stdout
    assert not (tmp_path / "results/small/corpus.jsonl").exists()
