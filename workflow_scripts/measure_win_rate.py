"""Let judges compare sampled responses with the chosen ones or other runs': win rates at each temperature."""

from collections.abc import Sequence

from sparsepo.config.evaluation import opponent_metric
from sparsepo.data.chat import scored_prompt
from sparsepo.data.records import Completion, Prompt, read_records, write_json
from sparsepo.evaluation.judges import build_judge
from sparsepo.evaluation.scorers import cut_notes
from sparsepo.evaluation.win_rate import check_chosen, win_rate
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import MeasureWinRateSettings


def selected(rows: Sequence[Completion], split: str, temperature: float) -> list[Completion]:
    return [row for row in rows if (row.split, row.temperature) == (split, temperature)]


def main() -> None:
    usage = "generations validation test judge-cache out [fitted-scorer] [opponents...]"
    options = stage_parser(__doc__, MeasureWinRateSettings, usage).parse_args()
    settings, rows = options.settings, read_records(options.generations, Completion)
    prompts_read = [*read_records(options.validation, Prompt), *read_records(options.test, Prompt)]
    chosen = {prompt.prompt: prompt.reference for prompt in prompts_read}
    opponents = [read_records(path, Completion) for path in options.opponents]
    judges = {
        name: build_judge(
            section, options.judge_cache / name.removeprefix("win_rate").lstrip("_"), options.fitted_scorer
        )
        for name, section in settings.judges.items()
    }
    notes: list[str] = []
    splits: dict[str, dict] = {split: {} for split in settings.splits}
    for split in splits:
        for temperature in dict.fromkeys(row.temperature for row in rows if row.split == split):
            own = selected(rows, split, temperature)
            prompts, groups, texts = [scored_prompt(row) for row in own], [row.prompt for row in own], {}
            if settings.chosen:
                texts["chosen"] = [chosen[prompt] for prompt in groups]
                check_chosen(prompts, texts["chosen"])
            for opponent, their_rows in zip(settings.opponents, opponents, strict=True):
                theirs = selected(their_rows, split, temperature)
                assert [row.prompt for row in theirs] == groups, opponent  # in the order of the prompts
                texts[opponent] = [row.text for row in theirs]
            measured = splits[split].setdefault(f"{temperature:g}", {})
            for name, judge in judges.items():
                for opponent, against in texts.items():
                    metric = opponent_metric(name, opponent)
                    result = win_rate(judge, prompts, [row.text for row in own], against, groups)
                    measured[metric] = result.measurement
                    measured |= {f"{metric}_lc": result.length_controlled} if result.length_controlled else {}
                    place = f"{split}, temperature {temperature:g}" + f", {metric}" * (metric != "win_rate")
                    notes += [f"{place}: {note}" for note in [*result.notes, *cut_notes(judge)]]
    write_json(options.out, settings.header | {"measure": "win_rate", "splits": splits, "notes": notes})


if __name__ == "__main__":
    run_main(main)
