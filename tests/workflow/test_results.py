"""What a run leaves: tables, figures, logs of training, records, models, scores."""

import json
import re
import zipfile

import pytest

DPO, SPARSE = "dpo/beta~0.1/seed~0", "sparsepo_common/beta~0.5/seed~0"
HYPER = {"beta": 0.5, "form": "paper", "mask": "layers", "l1_u": 0.0, "l1_d": 0.0, "init": "ones", "normalise": "none"}

# The tiny run takes a minute or two, and more on a busy machine; it counts for the first test that needs it.
pytestmark = pytest.mark.timeout(900)

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
    "effective_beta",
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
    names = ["frontier", "pareto", "diversity", "sparsity", "token_kl", "tokens/dpo", "tokens/sparsepo_common"]
    names += ["token_comparison"]
    for name in names:
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG") and (
            figures / f"{name}.png"
        ).stat().st_size
        assert "</svg>" in (figures / f"{name}.svg").read_text()
    assert len([path for path in figures.rglob("*.*g")]) == 2 * len(names)


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
    assert (settings["method"], settings["seed"], record["seeds"]) == ("sparsepo_common", 0, {"training": 0})
    assert settings["hyper"] == HYPER
    assert settings["training"]["batch_size"] == 10 and settings["training"]["mask_learning_rate"] == 1e-3
    inputs = {
        f"results/small/{name}" for name in ("sft/model.safetensors", "preferences/train.jsonl", "prompts/test.jsonl")
    }
    assert set(record["inputs"]) == inputs and all(
        re.fullmatch("[0-9a-f]{16}", each) for each in record["inputs"].values()
    )
    assert record["environment"]["packages"]["torch"] and record["seconds"] > 0 and record["peak_memory_mb"] > 0
    assert re.fullmatch("[0-9a-f]{12}", record["code"]) and "git" in record
    assert record["hardware"]["cpu"] and record["hardware"]["memory_mb"] > 0
    config = record["config"]
    assert (config["name"], config["task"], config["evaluation"]["token_pairs"]) == ("tiny", "small", 4)


def test_the_reference_has_a_record_of_its_own(original):
    record = json.loads((original / "results/small/sft/run.json").read_text())
    assert record["settings"]["sft"]["num_train_epochs"] == 1 and record["seeds"] == {"model": 0, "sft": 0}
    assert set(record["inputs"]) == {"results/small/corpus.jsonl"} and record["config"]["task"] == "small"
    assert record["seconds"] > 0 and record["environment"]["packages"]["transformers"]


def test_every_table_for_people_says_what_made_it(original):
    for path in [*(original / "results/tables").glob("*.md"), *(original / "results/tables").glob("*.tex")]:
        assert re.search(r"config tiny, task small \(settings [0-9a-f]{12}\); sparsepo ", path.read_text()), path


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
        "hyper": HYPER,
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
        controls = {"entropy", "surprisal", "random", "position", "ceiling"}
        assert score["auc"].keys() == (controls if run == "sft" else {"abs_logratio", *score["sparsity"]})
        assert len(rows(results / f"tokens/{run}.jsonl")) == 4
    reference = json.loads((results / "scores/sft.json").read_text())
    assert max(map(abs, reference["kl_exact"])) == 0


def test_stages_count_what_they_made_and_dropped(original):
    results = original / "results/small"
    stamp = json.loads((results / "data.json").read_text())
    assert stamp == {"config": "tiny", "train": 20, "validation": 8, "test": 8, "corpus": 60, "labelled": 0}
    summary = json.loads((results / "preferences/summary.json").read_text())
    for split, prompts in (("train", 20), ("validation", 8)):
        pairs, lost = summary[split]["pairs"], summary[split]["dropped"]
        assert pairs == len(rows(results / f"preferences/{split}.jsonl"))
        assert pairs + sum(row["count"] for row in lost if "'text'" not in row["reason"]) == prompts


# --- the report


def test_the_page_shows_every_run_and_is_made_of_the_same_bytes_again(finished, snakemake):
    page = finished / "results/report/index.html"
    first = page.read_text()
    assert f'data-run="{DPO}"' in first and f'data-run="{SPARSE}"' in first
    assert "VADER" in first and "http-equiv" in first
    page.unlink()
    done = snakemake(finished, "report", "--cores", "1")
    assert done.returncode == 0, done.stdout
    assert page.read_text() == first


def test_the_own_report_of_snakemake_holds_figures_and_tables_with_their_captions(finished, snakemake):
    done = snakemake(finished, "--report", "own.zip")
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(finished / "own.zip") as packed:
        names = packed.namelist()
        text = "".join(packed.read(name).decode() for name in names if name.endswith(("html", "js")))
    for figure in ("frontier.svg", "sparsity.svg", "token_kl.svg", "dpo.svg", "small.md"):
        assert any(name.endswith(figure) for name in names), figure
    assert "upper concave hull" in text and "lines below the table" in text
