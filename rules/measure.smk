use rule gpu_measure as evaluate_run with:
    input:
        policy=policy_weights,
        reference=f"{SFT}/run.json",
        samples=SAMPLES,
        pairs=preference_pairs("validation"),
        fitted_scorer=fitted_scorer,
    output:
        scores=SCORES,
        tokens=TOKENS,
    log:
        "logs/{task}/evaluate_run/{run}.log",
    params:
        **stage_params("evaluate_run"),


# The measures below are taken only where a config asks for them.
use rule gpu_measure as measure_summaries with:
    input:
        **PROMPTS,
        generations=GENERATIONS,
    output:
        "results/{task}/summaries/{run}.json",
    log:
        "logs/{task}/measure_summaries/{run}.log",
    params:
        **stage_params("measure_summaries"),


use rule gpu_measure as measure_win_rate with:
    input:
        generations=GENERATIONS,
        validation=PROMPTS["validation"],
        test=PROMPTS["test"],
        fitted_scorer=fitted_scorer,
        opponents=opponents,
    output:
        "results/{task}/win_rate/{run}.json",
    log:
        "logs/{task}/measure_win_rate/{run}.log",
    params:
        # Not an output: the answers of a judge cost money, and Snakemake deletes outputs before a retry.
        **stage_params("measure_win_rate", judge_cache="results/{task}/answers/{run}"),


use rule gpu_measure as measure_benchmarks with:
    input:
        policy=policy_weights,
        prompts=PROMPTS["test"],
    output:
        "results/{task}/benchmarks/{run}.json",
    log:
        "logs/{task}/measure_benchmarks/{run}.log",
    params:
        **stage_params(
            "measure_benchmarks",
            questions="results/{task}/benchmarks/questions/{run}",
            result_cache="results/{task}/benchmarks/{run}.json.partial",
        ),


use rule cpu_job as measure_pass_at_k with:
    input:
        programs=PROGRAMS,
    output:
        "results/{task}/pass_at_k/{run}.json",
    log:
        "logs/{task}/measure_pass_at_k/{run}.log",
    params:
        **stage_params("measure_pass_at_k", result_cache="results/{task}/pass_at_k/{run}.json.partial"),
