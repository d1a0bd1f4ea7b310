# From one config to policies, samples, tables and figures:
#   data -> sft -> preferences -> cached reference, oracles -> train (method x grid x seed) -> sample -> measure -> tables, figures, page
# Every job belongs to a stage of sparsepo.workflow.registry. The rules of methods or measures that no task asks for match no file.
from snakemake.utils import min_version

min_version("9.0")


include: "rules/common.smk"
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
        every_task(TABLES + GRID_TABLES),
        every_figure(),
        PAGE,


rule data:
    input:
        every_task([PROMPTS["train"]]),


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
        every_measure(),


rule tables:
    input:
        every_task(TABLES + GRID_TABLES),


rule figures:
    input:
        every_figure(),


rule report:
    input:
        PAGE,
