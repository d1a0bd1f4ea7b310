# Of a task whose policies start from another model than the reference.
use rule train_sft as load_policy with:
    input:
        corpus="results/{task}/corpus.jsonl",
    output:
        training_outputs(START),
    log:
        "logs/{task}/load_policy.log",
    wildcard_constraints:
        task=STAGES.other_start_pattern,
    params:
        **stage_params("load_policy", checkpoint=f"{START}/checkpoint", config=resolved_config),


# Runs of one seed that share the passes of the reference (`training.together`), by the path of the first of them. The
# output of each is then in its folder, under trained/, from where `train_policy` takes it. No rule asks for this one: which
# runs are together changes with a further run, and would make those again that are there. MALLOC_ARENA_MAX: one heap for the
# threads of all runs, see training/together.py.
use rule gpu_job as train_together with:
    input:
        reference=f"{SFT}/run.json",
        policy=other_start,
        pairs=preference_pairs("train"),
        validation=preference_pairs("validation"),
        prompts=PROMPTS["test"],
        fitted_scorer=fitted_scorer,
    output:
        f"{RUN}/together.json",
    log:
        "logs/{task}/train_together/{run}.log",
    wildcard_constraints:
        run=STAGES.run_pattern_of("pairs"),
    params:
        **stage_params(
            "train_together",
            runs="results/{task}/runs",
            code_versions=of_job(STAGES.code_versions),
            config=resolved_config,
        )
        | {"launcher": "env MALLOC_ARENA_MAX=1 python"},


use rule gpu_job as train_policy with:
    input:
        reference=f"{SFT}/run.json",
        policy=other_start,
        pairs=preference_pairs("train"),
        validation=preference_pairs("validation"),
        prompts=PROMPTS["test"],
        cache=reference_caches,
        fitted_scorer=fitted_scorer,
    output:
        training_outputs(RUN, "frontier.jsonl"),
    log:
        "logs/{task}/train_policy/{run}.log",
    wildcard_constraints:
        run=STAGES.run_pattern_of("pairs"),
    params:
        **stage_params("train_policy", checkpoint=f"{RUN}/checkpoint", config=resolved_config),


# Methods that train on samples of their own policy.
use rule gpu_job as train_on_policy with:
    input:
        reference=f"{SFT}/run.json",
        train=PROMPTS["train"],
        prompts=PROMPTS["test"],
        fitted_scorer=fitted_scorer,
    output:
        training_outputs(RUN, "frontier.jsonl"),
    log:
        "logs/{task}/train_on_policy/{run}.log",
    wildcard_constraints:
        run=STAGES.run_pattern_of("on_policy"),
    params:
        **stage_params("train_on_policy", checkpoint=f"{RUN}/checkpoint", config=resolved_config),
