"""Make a task's prompts, its SFT corpus, and the labelled documents for a scorer."""

from sparsepo.data.records import write_json, write_records
from sparsepo.evaluation.sandbox import check_sandbox
from sparsepo.models.prompting import task_data
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import PrepareDataSettings, as_plain


def main() -> None:
    options = stage_parser(__doc__, PrepareDataSettings, "out").parse_args()
    settings, folder = options.settings, options.out
    if settings.execution:  # before hours of sampling
        check_sandbox(settings.execution.unsafe_execution, settings.execution.packages)
    sections = as_plain(settings.data), as_plain(settings.preferences)
    limits = settings.max_prompt_tokens, settings.max_new_tokens
    data, builder = task_data(settings.model, *sections, limits, settings.columns)
    for split, prompts in data.prompts.items():
        write_records(folder / "prompts" / f"{split}.jsonl", prompts)
    write_records(folder / "corpus.jsonl", data.corpus)
    write_records(folder / "labelled.jsonl", data.labelled)
    counts = {split: len(prompts) for split, prompts in data.prompts.items()}
    counts |= {"corpus": len(data.corpus), "labelled": len(data.labelled)}
    if data.num_shared is not None:
        counts["shared_with_held_out"] = data.num_shared
    write_json(folder / "data.json", {"config": settings.name} | counts)
    for line in (counts, *builder.notes):
        print(line)


if __name__ == "__main__":
    run_main(main)
