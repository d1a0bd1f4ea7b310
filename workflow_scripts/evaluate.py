"""Score a run: rewards and divergence of its samples, and what it does token by token on validation pairs."""

import argparse
import json
from pathlib import Path

from sparsepo.data.records import Completion, Preference, read_records, write_json, write_records
from sparsepo.evaluation import token_analysis
from sparsepo.evaluation.frontier import score_samples
from sparsepo.evaluation.scorers import Scorer, build_scorer
from sparsepo.methods.registry import METHODS
from sparsepo.models.loading import context_length, load_model, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.method_masks import load_masks


def tokens_of(settings: dict, policy, reference, tokenizer, masks, pairs: list[Preference]) -> list[dict]:
    """The run's method looking into validation pairs; for SFT and methods without given pairs another stands in."""
    training, count = settings["training"], settings["evaluation"]["token_pairs"]
    limits = training["max_prompt_tokens"], training["max_response_tokens"], context_length(policy)
    records, encoded = token_analysis.encode_usable(tokenizer, pairs, limits, count)
    method, batch = settings["method"], settings["evaluation"]["batch_size"]
    found = inspect_pairs(policy, reference, encoded, method, settings["hyper"], masks, batch_size=batch)
    return token_analysis.token_records(tokenizer, records, found, settings["planted"])


def scorers(settings: dict) -> dict[str, Scorer]:
    """Name -> scorer: `reward`, and the further ones by their own names."""
    specs = ({"reward": settings["scorer"]} if settings["scorer"] else {}) | settings["extra_scorers"]
    return {name: build_scorer(spec) for name, spec in specs.items()}


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
    settings, head = options.settings, options.settings["head"]
    is_sft = head["method"] == "sft"
    reference = load_model(options.reference, **settings["loading"])
    policy = load_model(options.policy, **settings["policy"])
    tokenizer, masks = load_tokenizer(options.policy), load_masks(options.policy, reference)
    rows, score = read_records(options.samples, Completion), scorers(settings)
    scored = {}
    for split in ("validation", "test"):
        own = [row for row in rows if row.split == split]
        scored[split] = score_samples(policy, reference, tokenizer, own, score, settings["evaluation"]["batch_size"])
    mask = METHODS[settings["method"]].mask(settings["hyper"])
    tokens = tokens_of(settings, policy, reference, tokenizer, masks, read_records(options.pairs, Preference))
    result = token_analysis.sample_scores(scored["test"]) | {
        "auc": token_analysis.planted_auc(tokens, mask) if settings["planted"] and not is_sft else {},
        "sparsity": token_analysis.mask_sparsity(tokens),
        "logp_change": {} if is_sft else token_analysis.logp_change(tokens),
    }
    splits = {split: {"": token_analysis.sample_measurements(part)} for split, part in scored.items()}
    splits["validation"][""] |= token_analysis.pair_accuracy(tokens)
    splits["test"][""] |= token_analysis.mask_measurements(result["auc"], result["sparsity"])
    write_json(options.scores, head | result | {"measure": "scores", "splits": splits, "notes": []})
    write_records(options.tokens, tokens)


if __name__ == "__main__":
    run_main(main)
