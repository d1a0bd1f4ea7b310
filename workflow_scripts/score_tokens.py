"""Score every response token of the pairs of both splits, for the masks that read such scores."""

from argparse import Namespace
from typing import Any

from sparsepo.data.records import Preference, read_records, write_json, write_records
from sparsepo.data.token_spans import planted_weights
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.token_scores import add_token_scores, gradient_scores, log_ratio_scores
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import ScoreTokensSettings


def score_by_log_ratio(options: Namespace, oracle: Any, tokenizer: Any):
    base = load_model(options.base, **options.settings.base_loading)
    return lambda records, pairs: log_ratio_scores(oracle, base, pairs, options.settings.training)


def score_by_gradient(options: Namespace, oracle: Any, tokenizer: Any):
    return lambda records, pairs: gradient_scores(oracle, pairs, options.settings.training)


def score_by_truth(options: Namespace, oracle: Any, tokenizer: Any):
    return lambda records, pairs: planted_weights(tokenizer, records, pairs, options.settings.truth)


TOKEN_SCORES = {"log_ratio": score_by_log_ratio, "gradient": score_by_gradient, "planted": score_by_truth}
"""What the scores are -> (options, model, its tokenizer) -> a function of records and their token ids."""


def main() -> None:
    options = stage_parser(__doc__, ScoreTokensSettings, "oracle train validation out [base]").parse_args()
    settings = options.settings
    oracle, tokenizer = load_model(options.oracle, **settings.oracle_loading), load_tokenizer(options.oracle)
    score, summary = TOKEN_SCORES[settings.score](options, oracle, tokenizer), {"parameters": oracle.num_parameters()}
    for split, path in (("train", options.train), ("validation", options.validation)):
        pairs = add_token_scores(oracle, tokenizer, read_records(path, Preference), settings.training, score)
        write_records(options.out / f"{split}.jsonl", pairs)
        scored = sum(pair.chosen_values is not None for pair in pairs)
        summary[split] = {"scored": scored, "not": len(pairs) - scored}
    write_json(options.out / "summary.json", summary)


if __name__ == "__main__":
    run_main(main)
