use rule gpu_job as build_preferences with:
    input:
        reference=f"{SFT}/run.json",
        train=PROMPTS["train"],
        validation=PROMPTS["validation"],
        fitted_scorer=fitted_scorer,
    output:
        ensure(f"{PREFERENCES}/train.jsonl", non_empty=True),
        ensure(f"{PREFERENCES}/validation.jsonl", non_empty=True),
        f"{PREFERENCES}/summary.json",
    log:
        "logs/{task}/build_preferences.log",
    params:
        # Not an output, here and below: see train_sft.
        **stage_params("build_preferences", result_cache=f"{PREFERENCES}/sampled.partial"),
