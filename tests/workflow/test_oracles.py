"""Oracles in the workflow: which jobs they are, what they leave, and what a change of one plans anew."""

import json
import re

import pytest
import yaml

ORACLES = {
    "main": {},
    "weak": {
        "share": 0.5,
        "model": {
            "source": "scratch",
            "config": {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64},
            "tokenizer": {"kind": "word", "vocab_size": 600},
        },
    },
    "good": {"objective": "sft"},
    "two": {"objective": "sft", "contrast": True},
    "size": {"objective": "gradient"},
    "words": {"objective": "planted"},
}
TRAINED = ("main", "weak", "good", "two")
METHODS = {
    "dpo": {"beta": "0.1"},
    "sepo": {"beta": "1", "oracle": ["main", "weak"]},
    "rho": {"oracle": "good"},
    "tis_dpo": {"beta": "0.1", "oracle": "two"},
    "ti_dpo": {"beta": "0.1", "oracle": "size"},
    "sparsepo_oracle": {"beta": "0.1", "oracle": "words"},
}
OF_OTHERS = {
    name: f"{method}/beta~0.1-oracle~{name}/seed~0"
    for method, name in (("tis_dpo", "two"), ("ti_dpo", "size"), ("sparsepo_oracle", "words"))
}
MAIN, WEAK, RHO = "sepo/beta~1-oracle~main/seed~0", "sepo/beta~1-oracle~weak/seed~0", "rho/oracle~good/seed~0"
OF_MAIN = {("train_oracle", "main"), ("score_tokens", "main"), ("train_policy", MAIN), ("plot_selection", "")}
REPORT = {
    ("make_grid_table", ""),
    ("make_matched_kl_table", ""),
    ("make_auc_table", ""),
    ("compare_methods", ""),
    ("plot_frontier", ""),
    ("plot_dynamics", ""),
}
REPORT |= {("plot_diversity", ""), ("build_report", "")}

pytestmark = pytest.mark.timeout(900)


def configured(tiny, folder, **changes):
    """The tiny config with three oracles, written into a folder."""
    config = yaml.safe_load(tiny)
    config["tasks"]["small"] |= {"oracles": ORACLES, "methods": METHODS} | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def planned(snakemake):
    """(folder, *arguments) -> what a dry run would do: {(rule, run, oracle or method)}, target rules left out."""

    def jobs(folder, *arguments):
        done = snakemake(folder, "-n", *arguments)
        assert done.returncode == 0, done.stdout
        found = set()
        for rule, block in re.findall(r"^rule (\w+):\n((?:    .*\n)*)", done.stdout, re.MULTILINE):
            which = re.search(r"(?:run|oracle|method)=([^,\n]+)", block)
            found |= {(rule, which[1] if which else "")} if "wildcards:" in block or rule == "build_report" else set()
        return found

    return jobs


def test_each_oracle_is_made_once_and_one_with_a_model_of_its_own_is_fine_tuned_first(tiny, unfinished, planned):
    found = planned(configured(tiny, unfinished), "train")
    made = {(rule, which) for rule, which in found if "oracle" in rule or rule == "score_tokens"}
    each = {(rule, name) for rule in ("select_oracle_pairs", "train_oracle") for name in TRAINED}
    each |= {("score_tokens", name) for name in ORACLES}
    assert made == {("train_oracle_sft", "weak"), ("train_swapped_oracle", "two")} | each
    runs = {"dpo/beta~0.1/seed~0", MAIN, WEAK, RHO, *OF_OTHERS.values()}
    assert {which for rule, which in found if rule == "train_policy"} == runs


def test_an_oracle_that_nobody_asks_for_is_not_made(tiny, unfinished, planned):
    target = f"results/small/runs/{MAIN}/run.json"
    found = planned(configured(tiny, unfinished), target)
    assert {which for rule, which in found if rule == "train_oracle"} == {"main"}
    assert "train_oracle_sft" not in {rule for rule, _ in found}


@pytest.mark.slow
def test_oracles_run_to_the_end_and_a_change_of_one_plans_what_reads_it(tiny, unfinished, snakemake, planned):
    folder = configured(tiny, unfinished)
    done = snakemake(folder, "--cores", "2")
    assert done.returncode == 0, done.stdout
    assert planned(folder) == set()
    _scores_are_there(folder / "results/small/oracles")
    _auc_is_there(folder / "results/small/scores")
    assert (folder / "results/figures/small/selection.png").read_bytes().startswith(b"\x89PNG")
    log = (folder / f"logs/small/train_policy/{MAIN}.log").read_text()
    assert "20 of 20 pairs can train" in log

    configured(tiny, folder, oracles=ORACLES | {"two": ORACLES["two"] | {"learning_rate": 0.01}})
    stages = {rule for rule, which in planned(folder) if which in ("two", OF_OTHERS["two"])}
    assert stages >= {"train_oracle", "train_swapped_oracle", "score_tokens", "train_policy"}

    configured(tiny, folder, oracles=ORACLES | {"main": {"beta": 0.3}})
    after = {(rule, MAIN) for rule in ("sample_responses", "evaluate_run")} | REPORT | {("plot_tokens", "sepo")}
    assert planned(folder) == OF_MAIN | after

    task = yaml.safe_load(tiny)["tasks"]["small"]
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"name": "tiny", "tasks": {"small": task | {"methods": {"dpo": METHODS["dpo"]}}}})
    )
    assert not {rule for rule, _ in planned(folder, "scores")}, "runs without an oracle are as they were"


def _scores_are_there(oracles):
    """A number for each token that was sampled of every pair; the share of the oracle on half the data."""
    for name in ORACLES:
        summary = json.loads((oracles / name / "summary.json").read_text())
        for split in ("train", "validation"):
            rows = [json.loads(line) for line in (oracles / name / f"{split}.jsonl").read_text().splitlines()]
            assert summary[split] == {"scored": len(rows), "not": 0}
            for row in rows:
                for side in ("chosen", "rejected"):
                    assert len(row[f"{side}_values"]) == len(row[f"{side}_ids"])
    pairs = {name: len((oracles / name / "pairs.jsonl").read_text().splitlines()) for name in TRAINED}
    assert pairs["main"] == pairs["good"] == pairs["two"] == 2 * pairs["weak"] == 20
    _the_base_of_a_contrast_was_trained_on_rejected_responses(oracles / "two")


def _the_base_of_a_contrast_was_trained_on_rejected_responses(folder):
    """Of the summed scores of the pairs it was trained on: those of chosen responses are higher."""
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert sum(sum(row["chosen_values"]) - sum(row["rejected_values"]) for row in rows) > 0
    swapped = [json.loads(line) for line in (folder / "swapped_pairs.jsonl").read_text().splitlines()]
    assert [row["chosen"] for row in swapped] == [row["rejected"] for row in rows]


def _auc_is_there(scores):
    for run, signal in ((MAIN, "oracle_score"), (WEAK, "oracle_score"), (RHO, "excess")):
        auc = json.loads((scores / f"{run}.json").read_text())["auc"]
        assert set(auc) == {"m_u", "abs_logratio", signal} and 0 <= auc[signal]["words"]["auc"] <= 1
    auc = {name: json.loads((scores / f"{run}.json").read_text())["auc"]["m_u"] for name, run in OF_OTHERS.items()}
    assert auc["words"]["words"]["auc"] == 1.0 and 0 <= auc["two"]["words"]["auc"] <= 1
