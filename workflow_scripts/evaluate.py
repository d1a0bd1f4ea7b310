"""Score a run: rewards and divergence of its samples, and what it does token by token on validation pairs."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import Completion, Preference, read_records, write_json, write_records
from sparsepo.errors import run
from sparsepo.evaluation import report_card
from sparsepo.evaluation.frontier import Meter
from sparsepo.evaluation.rewards import build_scorer
from sparsepo.models import context_of, load_model, load_tokenizer
from sparsepo.objective.methods import METHODS
from sparsepo.training.objective import inspect_pairs
from sparsepo.training.preference import load_masks


def tokens_of(settings: dict, policy, reference, tokenizer, masks, pairs: list[Preference]) -> list[dict]:
    """The run's method looking into validation pairs; for the SFT model DPO stands in (all log-ratios are 0)."""
    training, count = settings["training"], settings["evaluation"]["token_pairs"]
    limits = training["max_prompt_tokens"], training["max_response_tokens"], context_of(policy)
    records, encoded = report_card.usable(tokenizer, pairs, limits, count)
    method, hyper = settings["method"] or "dpo", settings["hyper"]
    batch = settings["evaluation"]["batch_size"]
    found = inspect_pairs(policy, reference, encoded, method, hyper, masks, batch_size=batch)
    return report_card.token_records(tokenizer, records, found, settings["planted"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    options = parser.parse_args()
    settings, evaluation = options.settings, options.settings["evaluation"]
    reference = load_model(options.reference, **settings["loading"])
    # a trained policy of 4 bits has its adapter merged into the values that they stand for
    policy = load_model(options.policy, **settings["loading"] if settings["run"] == "sft" else {})
    tokenizer, masks = load_tokenizer(options.policy), load_masks(options.policy, reference)
    meter = Meter(reference, tokenizer, [], None, build_scorer(evaluation["scorer"]), evaluation["batch_size"])
    result = report_card.scores(meter.measured(policy, read_records(options.samples, Completion)))
    pairs = read_records(options.pairs, Preference)
    tokens = tokens_of(settings, policy, reference, tokenizer, masks, pairs)
    method, made = settings["method"], options.policy / "run.json"
    head = {name: settings[name] for name in ("task", "run", "params", "seed")}
    head |= {"method": method or "sft", "label": METHODS[method].label if method else "SFT"}
    result |= {
        "auc": report_card.planted_auc(tokens) if settings["planted"] and method else {},
        "sparsity": report_card.mask_sparsity(tokens),
        "logp_change": report_card.logp_change(tokens) if method else {},
        "train_seconds": json.loads(made.read_text())["training_seconds"] if method else None,
    }
    write_json(options.scores, head | result)
    write_records(options.tokens, tokens)


if __name__ == "__main__":
    run(main)
