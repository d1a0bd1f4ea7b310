"""Measure a policy on tasks of lm-eval."""

from sparsepo.data.records import Prompt, read_records, write_json
from sparsepo.evaluation.lm_eval.run import run_tasks
from sparsepo.generation.generate import sampling_dtype
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.atomic_folder import weights_file
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.result_cache import job_identity, open_cache
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import MeasureBenchmarksSettings


def main() -> None:
    options = stage_parser(__doc__, MeasureBenchmarksSettings, "policy prompts questions result-cache out").parse_args()
    settings, inputs = options.settings, [weights_file(options.policy), options.prompts]
    cache = open_cache(options.result_cache, job_identity(settings.as_dict(), options.code_version, inputs))
    model, tokenizer = load_model(options.policy, sampling_dtype(), **settings.loading), load_tokenizer(options.policy)
    chat = settings.chat if read_records(options.prompts, Prompt)[0].rendered else None  # as it was trained
    result = run_tasks(model, tokenizer, settings.benchmarks, options.questions, cache, chat)
    measure = {"measure": "benchmarks", "splits": {"test": {"": result["measurements"]}}, "notes": result["notes"]}
    write_json(options.out, settings.header | measure | {"results": result["results"]})
    cache.delete()


if __name__ == "__main__":
    run_main(main)
