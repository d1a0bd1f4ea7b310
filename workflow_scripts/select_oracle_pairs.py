"""Choose the pairs that an oracle is trained on; check that a model of its own has the tokens of the task's model."""

from sparsepo.data.pairing import subsample_prompts, swap_responses
from sparsepo.data.records import Preference, read_records, write_records
from sparsepo.models.loading import folder_context_length, load_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.token_scores import check_context_length, check_same_tokenizer
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import SelectOraclePairsSettings


def main() -> None:
    options = stage_parser(__doc__, SelectOraclePairsSettings, "reference base pairs out").parse_args()
    settings, pairs = options.settings, read_records(options.pairs, Preference)
    name = f"oracle '{settings.oracle}' of task '{settings.task}'"
    if options.base != options.reference:
        folders = options.base, options.reference
        check_same_tokenizer(*map(load_tokenizer, folders), pairs, name)
        limits = settings.max_prompt_tokens, settings.max_response_tokens
        check_context_length(*(folder_context_length(folder) for folder in folders), limits, name)
    selected = subsample_prompts(pairs, settings.share, settings.seed)
    print(f"{name}: {len(selected)} of {len(pairs)} pairs", flush=True)
    write_records(options.out / "pairs.jsonl", selected)
    write_records(options.out / "swapped_pairs.jsonl", map(swap_responses, selected))


if __name__ == "__main__":
    run_main(main)
