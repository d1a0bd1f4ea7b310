"""Score every response token of the pairs of both splits by an oracle, for the masks that read such scores."""

from sparsepo.data.records import Preference, read_records, write_json, write_records
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.token_scores import add_token_scores
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import ScoreTokensSettings


def main() -> None:
    options = stage_parser(__doc__, ScoreTokensSettings, "oracle base train validation out").parse_args()
    settings = options.settings
    oracle = load_model(options.oracle, **settings.oracle_loading)
    base = load_model(options.base, **settings.base_loading)
    tokenizer, summary = load_tokenizer(options.oracle), {"parameters": oracle.num_parameters()}
    for split, path in (("train", options.train), ("validation", options.validation)):
        pairs = add_token_scores(oracle, base, tokenizer, read_records(path, Preference), settings.training)
        write_records(options.out / f"{split}.jsonl", pairs)
        scored = sum(pair.chosen_values is not None for pair in pairs)
        summary[split] = {"scored": scored, "not": len(pairs) - scored}
    write_json(options.out / "summary.json", summary)


if __name__ == "__main__":
    run_main(main)
