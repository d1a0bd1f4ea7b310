# Methods that train in rounds: sample the previous policy, rank the samples, train on them, and again.
# The rounds are kept beside the runs, under a path without their number: a run of more rounds starts from one of fewer.


use rule gpu_job as build_round_pairs with:
    input:
        policy=previous_policy,
        prompts=PROMPTS["train"],
        fitted_scorer=fitted_scorer,
    output:
        ensure(f"{ROUND}/pairs.jsonl", non_empty=True),
        f"{ROUND}/summary.json",
    log:
        "logs/{task}/build_round_pairs/{run}/iteration~{iteration}.log",
    wildcard_constraints:
        run=STAGES.round_pattern,
    params:
        **stage_params(
            "build_round_pairs",
            iteration="{iteration}",
            result_cache=f"{ROUND}/sampled.partial",
            judge_cache="results/{task}/answers/rounds/{run}/iteration~{iteration}",
        ),


use rule train_policy as train_round with:
    input:
        reference=f"{SFT}/run.json",
        policy=previous_policy,
        pairs=f"{ROUND}/pairs.jsonl",
        prompts=PROMPTS["test"],
        fitted_scorer=fitted_scorer,
    output:
        training_outputs(f"{ROUND}/policy", "frontier.jsonl"),
    log:
        "logs/{task}/train_round/{run}/iteration~{iteration}.log",
    wildcard_constraints:
        run=STAGES.round_pattern,
    params:
        **stage_params(
            "train_round", iteration="{iteration}", checkpoint=f"{ROUND}/policy/checkpoint", config=resolved_config
        ),


# Copies, not links: Snakemake sets the time of an output, and a linked round would then seem newer than the next one.
use rule cpu_job as finish_rounds with:
    input:
        rounds=all_rounds,
    output:
        training_outputs(RUN, "frontier.jsonl"),
    log:
        "logs/{task}/finish_rounds/{run}.log",
    wildcard_constraints:
        run=STAGES.run_pattern_of("rounds"),
    conda:
        "../envs/train.yaml"
    params:
        **stage_params("finish_rounds"),
