"""Make a task's prompts, its SFT corpus, and the labelled documents for a scorer."""

from sparsepo.data.records import write_json, write_records
from sparsepo.data.sources import Cutter, first_words, make_data, token_cutter
from sparsepo.evaluation.sandbox import check_sandbox
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import PrepareDataSettings, as_plain


def cutter(settings: PrepareDataSettings) -> Cutter:
    """What cuts the openings of documents: the tokenizer of the model, or words where there is none yet."""
    if settings.model is None or settings.model.source == "scratch":
        return first_words
    from sparsepo.models.loading import fetch_tokenizer

    return token_cutter(fetch_tokenizer(as_plain(settings.model)))


def main() -> None:
    options = stage_parser(__doc__, PrepareDataSettings, "out").parse_args()
    settings, folder = options.settings, options.out
    if settings.execution:  # before hours of sampling
        check_sandbox(settings.execution.unsafe_execution)
    data = make_data(as_plain(settings.data), as_plain(settings.preferences), cutter(settings))
    for split, prompts in data.prompts.items():
        write_records(folder / "prompts" / f"{split}.jsonl", prompts)
    write_records(folder / "corpus.jsonl", data.corpus)
    write_records(folder / "labelled.jsonl", data.labelled)
    counts = {split: len(prompts) for split, prompts in data.prompts.items()}
    counts |= {"corpus": len(data.corpus), "labelled": len(data.labelled)}
    write_json(folder / "data.json", {"config": settings.name} | counts)
    print(counts)


if __name__ == "__main__":
    run_main(main)
