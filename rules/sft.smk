use rule gpu_job as train_sft with:
    input:
        corpus="results/{task}/corpus.jsonl",
    output:
        training_outputs(SFT),
    log:
        "logs/{task}/train_sft.log",
    params:
        # Not an output: Snakemake deletes outputs before a retry, and a killed training needs its checkpoints.
        **stage_params("train_sft", checkpoint=f"{SFT}/checkpoint", config=resolved_config),
