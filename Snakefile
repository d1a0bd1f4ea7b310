# From one config to policies, samples, tables and figures:
#   data -> sft -> preferences -> cached reference, oracles -> train (method x grid x seed) -> sample -> measure -> tables, figures, page
# Every job belongs to a stage of sparsepo.workflow.registry. The rules of methods or measures that no task asks for match no file.
from snakemake.utils import min_version

min_version("9.0")


include: "rules/common.smk"


# Of --sdm apptainer; of the rules that follow.
container: str(IMAGE)


include: "rules/jobs.smk"
include: "rules/data.smk"
include: "rules/sft.smk"
include: "rules/preferences.smk"
include: "rules/reference.smk"
include: "rules/train.smk"
include: "rules/oracles.smk"
include: "rules/rounds.smk"
include: "rules/sample.smk"
include: "rules/measure.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        every_table(),
        every_figure(),
        PAGE,
    localrule: True


# What can be asked for by name in place of everything.
TARGETS = {
    "data": every_task([PROMPTS["train"]]),
    "sft": every_task([f"{SFT}/run.json"]),
    "preferences": every_task([f"{PREFERENCES}/train.jsonl"]),
    "together": every_together(),
    "train": every_run(f"{RUN}/run.json", sft=False),
    "samples": every_run(SAMPLES),
    "scores": every_run(SCORES),
    "measures": every_measure(),
    "tables": every_table(),
    "figures": every_figure(),
    "report": [PAGE],
}

for target, files in TARGETS.items():

    rule:
        name:
            target
        input:
            files,
        localrule: True
