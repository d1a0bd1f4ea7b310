use rule cpu_job as prepare_data with:
    output:
        list(PROMPTS.values()),
        "results/{task}/corpus.jsonl",
        "results/{task}/labelled.jsonl",
        "results/{task}/data.json",
    log:
        "logs/{task}/prepare_data.log",
    conda:
        "../envs/train.yaml"
    params:
        **stage_params("prepare_data"),


use rule cpu_job as fit_scorer with:
    input:
        labelled="results/{task}/labelled.jsonl",
    output:
        "results/{task}/scorer/weights.npz",
        "results/{task}/scorer/words.json",
        "results/{task}/scorer/report.json",
    log:
        "logs/{task}/fit_scorer.log",
    params:
        **stage_params("fit_scorer"),
