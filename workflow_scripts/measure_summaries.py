"""Measure generated summaries: ROUGE, BERTScore, self-BLEU, EDNA, length."""

from sparsepo.data.chat import plain_text, scored_prompt
from sparsepo.data.records import Completion, Prompt, read_records, write_json
from sparsepo.evaluation.summarization import build_summary_measures, left_out_notes
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import MeasureSummariesSettings


def main() -> None:
    options = stage_parser(__doc__, MeasureSummariesSettings, "generations train validation test out").parse_args()
    settings, rows = options.settings, read_records(options.generations, Completion)
    train, *held_out = (read_records(path, Prompt) for path in (options.train, options.validation, options.test))
    references = {prompt.prompt: prompt.reference for prompts in held_out for prompt in prompts}
    documents = {prompt.prompt: plain_text(scored_prompt(prompt)) for prompts in held_out for prompt in prompts}
    measure = build_summary_measures(settings.summaries, [prompt.reference for prompt in train])
    splits: dict[str, dict] = {split: {} for split in settings.splits}
    notes: list[str] = []
    for split in splits:
        for temperature in dict.fromkeys(row.temperature for row in rows if row.split == split):
            samples: dict[str, list[str]] = {}
            for row in rows:
                if (row.split, row.temperature) == (split, temperature):
                    samples.setdefault(row.prompt, []).append(row.text)
            chosen = [references[prompt] for prompt in samples]
            texts = [documents[prompt] for prompt in samples]
            splits[split][f"{temperature:g}"] = measure(texts, chosen, list(samples.values()))
            left_out = left_out_notes(settings.summaries, chosen, list(samples.values()))
            notes += [f"{split}, temperature {temperature:g}: {note}" for note in left_out]
    write_json(options.out, settings.header | {"measure": "summaries", "splits": splits, "notes": notes})


if __name__ == "__main__":
    run_main(main)
