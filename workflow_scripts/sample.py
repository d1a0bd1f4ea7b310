"""Sample responses of a policy to prompts of the splits and at the temperatures that are asked for."""

from collections.abc import Iterator
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.hh_dialogues import count_human_turns
from sparsepo.data.records import Prompt, read_records
from sparsepo.generation.cli import SplitRequest, sample_requests
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError


def wanted(settings: dict, path: Path) -> list[Prompt]:
    """The prompts of a split that are answered. Raises UserError when none is left."""
    prompts = read_records(path, Prompt)
    kept = [prompt for prompt in prompts if not settings["single_turn"] or count_human_turns(prompt.prompt) == 1]
    if not kept:
        raise UserError(
            f"{path}: none of its {len(prompts)} prompts is the first turn of a dialogue; set single_turn: false"
        )
    return kept[: settings["prompts"]]


def requests(settings: dict, validation: Path, test: Path) -> Iterator[SplitRequest]:
    paths = {"validation": validation, "test": test}
    for split in settings["splits"]:
        prompts = wanted(settings, paths[split])
        for temperature in settings["temperatures"]:
            sampling = SamplingConfig(**settings["sampling"], temperature=temperature)
            yield SplitRequest(split, prompts, paths[split], sampling)


def main() -> None:
    sample_requests(__doc__, requests)


if __name__ == "__main__":
    run_main(main)
