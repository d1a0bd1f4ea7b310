# From one config to policies, samples, tables and figures:
#   data -> sft -> preferences -> reference (cached), oracles (of token scores) -> train (method x grid x seed) -> sample -> evaluate -> tables, figures, page
# and, where a config asks for them, what is measured of generated responses, of benchmarks and of programs (measure.smk).
from snakemake.utils import min_version

min_version("9.0")


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/sft.smk"
include: "rules/preferences.smk"
include: "rules/reference.smk"


if any(task.oracles for task in STAGES.config.tasks.values()):

    include: "rules/oracles.smk"


include: "rules/train.smk"
include: "rules/sample.smk"
include: "rules/evaluate.smk"
include: "rules/measure.smk"
include: "rules/report.smk"


if STAGES.trains("rounds"):

    include: "rules/rounds.smk"


if STAGES.trains("on_policy"):

    include: "rules/on_policy.smk"


localrules:
    all,
    data,
    sft,
    preferences,
    train,
    samples,
    scores,
    measures,
    tables,
    figures,
    report,


rule all:
    default_target: True
    input:
        every_task(TABLES + GRIDS),
        figures(),
        PAGE,


rule data:
    input:
        every_task([PROMPTS.format(task="{task}", split="train")]),


rule sft:
    input:
        every_task([f"{SFT}/model.safetensors"]),


rule preferences:
    input:
        every_task([f"{PREFERENCES}/train.jsonl"]),


rule train:
    input:
        every_run(f"{RUN}/model.safetensors", sft=False),


rule samples:
    input:
        every_run(SAMPLES),


rule scores:
    input:
        every_run(SCORES),


rule measures:
    input:
        [path for task in STAGES.tasks for path in every_measure(task)],


rule tables:
    input:
        every_task(TABLES + GRIDS),


rule figures:
    input:
        figures(),


rule report:
    input:
        PAGE,
