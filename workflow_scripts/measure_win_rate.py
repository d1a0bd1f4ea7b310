"""Let a judge compare sampled responses with the chosen ones: the win rate at each temperature."""

from sparsepo.data.chat import scored_prompt
from sparsepo.data.records import Completion, Prompt, read_records, write_json
from sparsepo.evaluation.judges import build_judge
from sparsepo.evaluation.scorers import cut_notes
from sparsepo.evaluation.win_rate import win_rate
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import MeasureWinRateSettings


def main() -> None:
    usage = "generations validation test judge-cache out [fitted-scorer]"
    options = stage_parser(__doc__, MeasureWinRateSettings, usage).parse_args()
    settings, rows = options.settings, read_records(options.generations, Completion)
    prompts_read = [*read_records(options.validation, Prompt), *read_records(options.test, Prompt)]
    chosen = {prompt.prompt: prompt.reference for prompt in prompts_read}
    judge, notes = build_judge(settings.judge, options.judge_cache, options.fitted_scorer), []
    splits: dict[str, dict] = {split: {} for split in settings.splits}
    for split in splits:
        for temperature in dict.fromkeys(row.temperature for row in rows if row.split == split):
            selected = [row for row in rows if (row.split, row.temperature) == (split, temperature)]
            prompts, texts = [scored_prompt(row) for row in selected], [row.text for row in selected]
            groups = [row.prompt for row in selected]
            result = win_rate(judge, prompts, texts, [chosen[prompt] for prompt in groups], groups)
            splits[split][f"{temperature:g}"] = {"win_rate": result.measurement}
            place, new_notes = f"{split}, temperature {temperature:g}", [*result.notes, *cut_notes(judge)]
            notes += [f"{place}: {note}" for note in new_notes]
    write_json(options.out, settings.header | {"measure": "win_rate", "splits": splits, "notes": notes})


if __name__ == "__main__":
    run_main(main)
