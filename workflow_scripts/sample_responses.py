"""Sample responses of a policy to prompts of the splits and at the temperatures that are asked for."""

from collections.abc import Iterator
from pathlib import Path

from sparsepo.data.hh_dialogues import count_human_turns
from sparsepo.data.records import Prompt, read_records, write_records
from sparsepo.generation.requests import SplitRequest, sample_requests
from sparsepo.runtime.atomic_folder import weights_file
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import job_identity, open_cache
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import SampleResponsesSettings


def prompts_of(settings: SampleResponsesSettings, path: Path) -> list[Prompt]:
    """The prompts of a split that are answered. Raises UserError when none is left."""
    prompts = read_records(path, Prompt)
    answered = [prompt for prompt in prompts if not settings.single_turn or count_human_turns(prompt) == 1]
    if not answered:
        raise UserError(
            f"{path}: none of its {len(prompts)} prompts is the first turn of a dialogue; set single_turn: false"
        )
    return answered[: settings.prompts]


def requests(settings: SampleResponsesSettings, paths: dict[str, Path]) -> Iterator[SplitRequest]:
    for split in settings.splits:
        prompts = prompts_of(settings, paths[split])
        for temperature in settings.temperatures:
            sampling = settings.sampling.model_copy(update={"temperature": temperature})
            yield SplitRequest(split, prompts, paths[split], sampling)


def main() -> None:
    options = stage_parser(__doc__, SampleResponsesSettings, "policy validation test result-cache out").parse_args()
    settings, inputs = options.settings, [weights_file(options.policy), options.validation, options.test]
    cache = open_cache(options.result_cache, job_identity(settings.as_dict(), options.code_version, inputs))
    wanted = requests(settings, {"validation": options.validation, "test": options.test})
    write_records(options.out, sample_requests(wanted, options.policy, settings.loading, cache))
    cache.delete()


if __name__ == "__main__":
    run_main(main)
