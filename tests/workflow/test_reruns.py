"""After a change exactly what depends on it is planned, and the same config gives the same bytes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sparsepo.training.checkpoints import COMPLETE_MARK

DPO, SPARSE = "dpo/beta~0.1/seed~0", "sparsepo_common/beta~0.5/seed~0"
REPORT = {
    ("make_grid_table", ""),
    ("make_matched_kl_table", ""),
    ("make_auc_table", ""),
    ("compare_methods", ""),
    ("plot_frontier", ""),
    ("plot_dynamics", ""),
}
REPORT |= {("plot_diversity", ""), ("build_report", "")}
COMPARISON = {("plot_token_comparison", "")}
TOKENS = {("plot_tokens", "dpo"), ("plot_tokens", "sparsepo_common")} | COMPARISON
SFT = {("sample_responses", "sft"), ("evaluate_run", "sft")}

# The tiny run takes a minute or two, and more on a busy machine; it counts for the first test that needs it.
pytestmark = pytest.mark.timeout(900)


def trained(*runs):
    """The jobs that are one run's own, and the figures of its tokens."""
    jobs = {(rule, run) for rule in ("train_policy", "sample_responses", "evaluate_run") for run in runs}
    shown = {("plot_tokens", run.split("/")[0]) for run in runs if run.endswith("seed~0")}
    return jobs | shown | (COMPARISON if shown & TOKENS else set())


AFTER_SFT = {("build_preferences", ""), ("cache_reference", "")} | SFT | trained(DPO, SPARSE) | REPORT
ALL = {("prepare_data", ""), ("train_sft", "")} | AFTER_SFT


@pytest.fixture
def planned(snakemake):
    """(folder, *arguments) -> what a dry run would do: {(rule, run or method)}, target rules left out."""

    def jobs(folder, *arguments):
        done = snakemake(folder, "-n", *arguments)
        assert done.returncode == 0, done.stdout
        if "Nothing to be done" in done.stdout:
            return set()
        assert "This was a dry-run" in done.stdout
        found = set()
        for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", done.stdout, re.MULTILINE):
            values = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
            which = re.search(r"(?:run|method)=([^,]+)", values[1]) if values else None
            found |= {(rule, which[1] if which else "")} if values or rule == "build_report" else set()
        return found

    return jobs


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


LOSSES, LEARNED, FIXED = (f"src/sparsepo/objective/{name}.py" for name in ("losses", "learned_masks", "fixed_masks"))
METHODS = "src/sparsepo/methods/registry.py"
IN_A_FUNCTION = ("\n    return ", "\n    changed = True\n    return ")
OF_DPO, OF_SPARSE = trained(DPO) | REPORT, trained(SPARSE) | REPORT
OF_SFT = {("evaluate_run", "sft")} | REPORT - {("plot_dynamics", "")}
COMMON = '"form": "paper"},\n        equation="-log σ(u - δ), u'
CODE = {
    "a comment": (LOSSES, "\ndef dpo(", "\n# A remark.\ndef dpo(", set()),
    "a docstring": (LOSSES, 'r"""-log sigmoid(beta h), h', 'r"""Once more: -log sigmoid(beta h), h', set()),
    # The reference is looked into with DPO, so its evaluation depends on this loss too.
    "the loss of DPO": (LOSSES, "PairLoss(-F.log", "PairLoss(-2 * F.log", OF_DPO | {("evaluate_run", "sft")}),
    "a part of another loss": (
        LOSSES,
        "side) - kl_sum(side.reverse_kl",
        "side) - 2 * kl_sum(side.reverse_kl",
        OF_SPARSE,
    ),
    "a loss of no method here": (LOSSES, "(h_c - h_r - 1 / (2 * beta))", "(h_c - h_r - 3 / (2 * beta))", set()),
    "a mask head": (LEARNED, "self.merge(activation(projections))", "self.merge(projections)", OF_SPARSE),
    "a mask head of no method here": (FIXED, "torch.rand(inputs", "1 - torch.rand(inputs", set()),
    "a default that a method takes": (METHODS, '"init": "ones"', '"init": "authors"', OF_SPARSE),
    "a default that the config sets": (METHODS, f"0.1, {COMMON}", f"0.9, {COMMON}", set()),
    "a default of DPO, with which SFT is evaluated": (METHODS, '"beta": 0.1}', '"beta": 0.9}', OF_SFT),
    "words about a method": (METHODS, 'source="Rafailov et al. 2023"', 'source="Rafailov and others"', set()),
    "an error": (LOSSES, "raise ValueError(", "raise ValueError('other words', ", set()),
    "what starts and watches jobs": ("src/sparsepo/runtime/errors.py", *IN_A_FUNCTION, set()),
    "a new method": (METHODS, '    "ipo": ', '    "new": Method("", "dpo", {}, "", ""),\n    "ipo": ', set()),
    "the source of the data": ("src/sparsepo/data/planted.py", "LEAN, ", "LEANS, ", ALL),
    "a source of other data": ("src/sparsepo/data/summarize_from_feedback.py", *IN_A_FUNCTION, set()),
    "sampling": ("src/sparsepo/generation/decoding.py", *IN_A_FUNCTION, AFTER_SFT),
    "fine-tuning": ("src/sparsepo/training/sft_trainer.py", *IN_A_FUNCTION, {("train_sft", "")} | AFTER_SFT),
}


@pytest.mark.parametrize("change", CODE)
def test_changed_code_plans_what_uses_it(finished, planned, change):
    path, old, new, jobs = CODE[change]
    replace(finished / path, old, new)
    assert planned(finished) == jobs


NEW_BETA, IPO = "dpo/beta~0.2/seed~0", "ipo/beta~0.3/seed~0"
SEED_1 = [run.replace("seed~0", "seed~1") for run in (DPO, SPARSE)]
SAMPLED = {(rule, run) for rule in ("sample_responses", "evaluate_run") for run in ("sft", DPO, SPARSE)}
SETTINGS = {
    "another beta": ('dpo: {beta: ["0.1"]}', 'dpo: {beta: ["0.2"]}', trained(NEW_BETA) | REPORT),
    "one more beta": ('dpo: {beta: ["0.1"]}', 'dpo: {beta: ["0.1", "0.2"]}', trained(NEW_BETA) - TOKENS | REPORT),
    "one more seed": ("seeds: [0]", "seeds: [0, 1]", trained(*SEED_1) | REPORT),
    "one more method": ("methods:\n", 'methods:\n      ipo: {beta: ["0.3"]}\n', trained(IPO) | REPORT),
    "one method less": ('      sparsepo_common: {beta: ["0.5"]}\n', "", REPORT),
    "longer training": ("{num_train_epochs: 2, batch", "{num_train_epochs: 3, batch", trained(DPO, SPARSE) | REPORT),
    "other sampling": ("16}\n    evaluation", "15}\n    evaluation", SAMPLED | REPORT | TOKENS),
    "more data": ("texts: 60", "texts: 61", ALL),
    "other resources": ("    evaluation:", "    resources: {mem_mb: 3000, runtime: 7}\n    evaluation:", set()),
    "other threads": ("    evaluation:", "    resources: {threads: 3}\n    evaluation:", ALL - {("prepare_data", "")}),
}


@pytest.mark.parametrize("change", SETTINGS)
def test_a_changed_setting_plans_what_reads_it(finished, planned, change):
    old, new, jobs = SETTINGS[change]
    replace(finished / "config.yaml", old, new)
    assert planned(finished) == jobs


def test_after_a_run_nothing_is_to_be_done_also_in_another_folder(finished, planned):
    assert planned(finished) == set()


def test_touching_every_file_plans_nothing(finished, planned):
    for path in finished.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)
    assert planned(finished) == set()


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("tables/grid", {("make_grid_table", "")}),
        ("tables/comparison", {("compare_methods", ""), ("build_report", "")}),
        ("figures/style", {("plot_frontier", ""), ("build_report", "")}),
    ],
)
def test_a_module_of_the_report_plans_tables_or_figures_only(finished, planned, module, wanted):
    replace(finished / f"src/sparsepo/report/{module}.py", *IN_A_FUNCTION)
    assert wanted <= planned(finished) <= REPORT | TOKENS


def test_a_deleted_sample_is_made_again_with_all_that_follows_when_it_is_asked_for(finished, planned):
    """Snakemake leaves a file in the middle alone while everything after it is there and up to date."""
    (finished / f"results/small/samples/{DPO}.jsonl").unlink()
    sample = {("sample_responses", DPO)}
    assert planned(finished) == set() and planned(finished, "samples") == sample
    assert (
        planned(finished, "samples", "all")
        == sample | {("evaluate_run", DPO), ("plot_tokens", "dpo")} | COMPARISON | REPORT
    )


def test_a_deleted_table_is_made_again_alone(finished, planned):
    (finished / "results/tables/small.tex").unlink()
    assert planned(finished) == {("compare_methods", "")}


def test_results_of_a_config_of_another_name_are_refused(finished, snakemake):
    replace(finished / "config.yaml", "name: tiny", "name: other")
    done = snakemake(finished, "-n")
    assert done.returncode == 1 and "Traceback" not in done.stdout and "rule " not in done.stdout
    assert (
        "results/small holds results of the config named 'tiny', and this one is named 'other': work in another folder "
        "(snakemake --directory), rename the task, or remove that folder\n"
    ) in done.stdout


# --- a file of the user

FILES = """\
name: files
tasks:
  own:
    model:
      source: scratch
      config: {model_type: gpt2, n_layer: 2, n_head: 2, n_embd: 32, n_positions: 64}
      tokenizer: {kind: word, vocab_size: 600}
    data: {source: preferences, prompts: {train: 20, validation: 4, test: 4}}
    sft: {batch_size: 10}
    preferences: {source: pairs, path: pairs.jsonl}
    methods:
      simpo: {beta: ["2"]}
    training: {batch_size: 10, log_kl: false}
    sampling: {max_new_tokens: 16}
    evaluation: {token_pairs: 4}
"""
OWN = ("train", "--configfile", "files.yaml")
TRAINING = {("prepare_data", ""), ("train_sft", ""), ("build_preferences", ""), ("train_policy", "simpo/beta~2/seed~0")}


@pytest.fixture
def with_files(unfinished, snakemake):
    """A copy of the workflow in which a policy was trained on pairs of the user."""
    (unfinished / "files.yaml").write_text(FILES)
    rows = [{"prompt": f"p{n} tell", "chosen": f"a{n} good one", "rejected": f"b{n} bad"} for n in range(30)]
    (unfinished / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = snakemake(unfinished, OWN[0], "--cores", "2", *OWN[1:])
    assert done.returncode == 0, done.stdout
    return unfinished


@pytest.mark.slow
def test_what_a_file_of_the_user_says_plans_all_that_reads_it_and_its_time_nothing(with_files, planned):
    assert planned(with_files, *OWN) == set()
    os.utime(with_files / "pairs.jsonl", (1, 1))
    replace(with_files / "src/sparsepo/data/planted.py", "LEAN, ", "LEANS, ")
    replace(with_files / "src/sparsepo/generation/decoding.py", *IN_A_FUNCTION)
    assert planned(with_files, *OWN) == set()
    replace(with_files / "pairs.jsonl", "good", "fine")
    assert planned(with_files, *OWN) == TRAINING
    replace(with_files / "pairs.jsonl", "fine", "good")
    assert planned(with_files, *OWN) == set()
    replace(with_files / "src/sparsepo/data/preference_formats.py", "def row_pairs(", "ADDED = 1\n\n\ndef row_pairs(")
    assert planned(with_files, *OWN) == set()
    replace(
        with_files / "src/sparsepo/data/preference_formats.py",
        'str(row.get("dataset") or "")',
        'str(row.get("dataset") or "a")',
    )
    assert planned(with_files, *OWN) == TRAINING


# --- numbers that repeat

MADE = ("tables", "small/preferences", "small/samples", "small/scores", "small/tokens")


@pytest.mark.slow
def test_the_same_config_gives_the_same_bytes_in_tables_scores_samples_and_weights(original, unfinished, snakemake):
    done = snakemake(unfinished, "--cores", "2", "tables")
    assert done.returncode == 0, done.stdout
    files = [path for part in MADE for path in (original / "results" / part).rglob("*") if path.is_file()]
    files += (original / "results/small").rglob("*.safetensors")
    assert len([path for path in files if path.parent.name == "tables"]) == 13
    differ = [path.relative_to(original) for path in files if path.read_bytes() != again(original, unfinished, path)]
    assert not differ


@pytest.mark.slow
def test_one_core_or_two_and_a_resumed_run_give_the_same_bytes(unfinished, snakemake):
    """Threads are those of the stage, or of `resources.threads`, not as many as Snakemake has cores."""
    targets = [f"results/small/runs/{DPO}/run.json", f"results/small/samples/{DPO}.jsonl"]
    config = unfinished / "config.yaml"
    replace(config, "num_train_epochs: 1,", "num_train_epochs: 1, checkpoint_every: 2,")
    replace(config, "n_embd: 32", "n_embd: 256")  # so large that torch shares out the sums among threads
    made = {}
    for cores in ("1", "2"):
        done = snakemake(unfinished, "--cores", cores, *targets)
        assert done.returncode == 0, done.stdout
        record = json.loads((unfinished / "results/small/sft/run.json").read_text())
        assert record["hardware"]["threads"] == 2
        files = [*unfinished.glob("results/small/**/*.safetensors"), unfinished / targets[1]]
        made[cores] = {path: path.read_bytes() for path in files}
        shutil.rmtree(unfinished / "results")
    assert made["1"] == made["2"] and len(made["1"]) == 3
    sft = unfinished / "results/small/sft"
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "results/small/sft/run.json"]
    process = subprocess.Popen(command, cwd=unfinished, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(sft.glob(f"checkpoint/checkpoint-*/{COMPLETE_MARK}")):
        assert process.poll() is None
        time.sleep(0.01)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.wait()
    assert not (sft / "run.json").exists()
    snakemake(unfinished, "--unlock")
    done = snakemake(unfinished, "--cores", "1", "--rerun-incomplete", "results/small/sft/run.json")
    assert done.returncode == 0, done.stdout
    assert "resuming at step " in (unfinished / "logs/small/train_sft.log").read_text()
    assert made["1"][sft / "model.safetensors"] == (sft / "model.safetensors").read_bytes()


def again(original, other, path):
    return Path(other, path.relative_to(original)).read_bytes()
