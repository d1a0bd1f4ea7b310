"""Score a run: rewards and divergence of its samples, and what its method computes for the tokens of some pairs."""

from pathlib import Path

from sparsepo.data.records import Completion, Preference, read_records, write_json, write_records
from sparsepo.evaluation import token_analysis
from sparsepo.evaluation.frontier import score_samples
from sparsepo.evaluation.planted_auc import CEILING, CONTROLS, method_signals, planted_auc
from sparsepo.evaluation.scorers import Scorer, build_scorer, cut_notes
from sparsepo.methods.registry import METHODS
from sparsepo.models.limits import context_length
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.method_masks import load_masks
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import EvaluateRunSettings


def token_records(
    settings: EvaluateRunSettings, policy, reference, tokenizer, masks, pairs: list[Preference]
) -> list[dict]:
    """What the method computes of each token of some pairs; another method for SFT and runs not trained on pairs."""
    training = settings.training
    limits = training.max_prompt_tokens, training.max_response_tokens, min(map(context_length, (policy, reference)))
    records, encoded = token_analysis.encode_usable(tokenizer, pairs, limits, settings.token_pairs)
    method, hyper, batch_size = settings.method, settings.hyper, settings.batch_size
    inspected = inspect_pairs(policy, reference, encoded, method, hyper, masks, batch_size=batch_size)
    return token_analysis.token_records(tokenizer, records, encoded, inspected, settings.planted)


def signal_auc(settings: EvaluateRunSettings, tokens: list[dict], is_sft: bool) -> dict:
    """How well token signals find what was planted: those of the run, of the SFT model the controls."""
    mask = METHODS[settings.method].mask(settings.hyper)
    return planted_auc(tokens, (*CONTROLS, CEILING) if is_sft else method_signals(tokens, mask))


def scorers_of(settings: EvaluateRunSettings, fitted_scorer: Path | None) -> dict[str, Scorer]:
    """Name -> scorer: `reward`, and the extra ones by their own names."""
    sections = ({"reward": settings.scorer} if settings.scorer else {}) | settings.extra_scorers
    return {name: build_scorer(section, fitted_scorer) for name, section in sections.items()}


def main() -> None:
    usage = "policy reference samples pairs scores tokens [fitted-scorer]"
    options = stage_parser(__doc__, EvaluateRunSettings, usage).parse_args()
    settings, is_sft = options.settings, options.settings.header["method"] == "sft"
    reference = load_model(options.reference, **settings.reference_loading)
    policy = load_model(options.policy, **settings.policy_loading)
    tokenizer, masks = load_tokenizer(options.policy), load_masks(options.policy, reference)
    scorers, rows = scorers_of(settings, options.fitted_scorer), read_records(options.samples, Completion)
    scored, notes = {}, []
    for split in ("validation", "test"):
        responses = [row for row in rows if row.split == split]
        scored[split] = score_samples(policy, reference, tokenizer, responses, scorers, settings.batch_size)
        notes += [f"{split}: {note}" for note in cut_notes(*scorers.values())]
    row = METHODS[settings.method]
    tokens = token_records(settings, policy, reference, tokenizer, masks, read_records(options.pairs, Preference))
    weight = token_analysis.mean_weight(tokens)
    result = token_analysis.sample_scores(scored["test"]) | {
        "auc": signal_auc(settings, tokens, is_sft) if settings.planted else {},
        "accuracy_by_length": token_analysis.accuracy_by_length(tokens),
        "sparsity": token_analysis.mask_sparsity(tokens),
        "mean_weight": weight,
        "effective_beta": row.effective_beta(settings.hyper, weight),
        "logp_change": {} if is_sft else token_analysis.logp_change(tokens),
    }
    splits = {split: {"": token_analysis.sample_measurements(part)} for split, part in scored.items()}
    for name in [
        name for name, scorer in settings.extra_scorers.items() if not getattr(scorer, "higher_is_better", True)
    ]:
        for measured in splits.values():
            measured[""][name]["higher_is_better"] = False
    splits["validation"][""] |= token_analysis.pair_accuracy(tokens)
    splits["test"][""] |= token_analysis.mask_measurements(result["sparsity"], result["effective_beta"])
    measure = {"measure": "scores", "splits": splits, "notes": notes}
    write_json(options.scores, settings.header | result | measure)
    write_records(options.tokens, tokens)


if __name__ == "__main__":
    run_main(main)
