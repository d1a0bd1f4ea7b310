"""Make a task's prompts, its SFT corpus, and the labelled documents for a scorer."""

from typing import Any

from sparsepo.data.encoding import Encoder
from sparsepo.data.prompts import PromptBuilder, PromptLimit
from sparsepo.data.records import write_json, write_records
from sparsepo.data.sources import first_words, make_data, token_cutter
from sparsepo.evaluation.sandbox import check_sandbox
from sparsepo.models.loading import fetch_tokenizer, set_chat_template, spec_context_length, train_tokenizer
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings.base import as_plain
from sparsepo.workflow.settings.data import PrepareDataSettings


def tokenizer_of(settings: PrepareDataSettings) -> Any:
    """The tokenizer of the model. One from scratch does not exist yet: this is the one that its corpus will give."""
    model = as_plain(settings.model)
    if settings.model.source != "scratch":
        return fetch_tokenizer(model)
    kind, size = settings.model.tokenizer.kind, settings.model.tokenizer.vocab_size
    empty = set_chat_template(train_tokenizer([], kind, size), settings.model.chat_template)
    builder = PromptBuilder.of(empty, settings.model)
    corpus = make_data(as_plain(settings.data), as_plain(settings.preferences), first_words, builder).corpus
    return set_chat_template(train_tokenizer([text.text for text in corpus], kind, size), settings.model.chat_template)


def main() -> None:
    options = stage_parser(__doc__, PrepareDataSettings, "out").parse_args()
    settings, folder = options.settings, options.out
    if settings.execution:  # before hours of sampling
        check_sandbox(settings.execution.unsafe_execution)
    tokenizer, context = tokenizer_of(settings), spec_context_length(as_plain(settings.model))
    limits = settings.max_prompt_tokens, settings.max_new_tokens, settings.data.on_long_prompt
    builder = PromptBuilder.of(tokenizer, settings.model, PromptLimit.of(Encoder(tokenizer), context, *limits))
    cut = first_words if settings.model.source == "scratch" else token_cutter(tokenizer)
    data = make_data(as_plain(settings.data), as_plain(settings.preferences), cut, builder)
    for split, prompts in data.prompts.items():
        write_records(folder / "prompts" / f"{split}.jsonl", prompts)
    write_records(folder / "corpus.jsonl", data.corpus)
    write_records(folder / "labelled.jsonl", data.labelled)
    counts = {split: len(prompts) for split, prompts in data.prompts.items()}
    counts |= {"corpus": len(data.corpus), "labelled": len(data.labelled)}
    write_json(folder / "data.json", {"config": settings.name} | counts)
    print(counts, *builder.notes, sep="\n")


if __name__ == "__main__":
    run_main(main)
