use rule gpu_job as sample_responses with:
    input:
        policy=policy_weights,
        validation=PROMPTS["validation"],
        test=PROMPTS["test"],
    output:
        ensure(SAMPLES, non_empty=True),
    log:
        "logs/{task}/sample_responses/{run}.log",
    params:
        **stage_params("sample_responses", result_cache=f"{SAMPLES}.partial"),


# Responses for summaries and win rates.
use rule sample_responses as sample_generations with:
    output:
        ensure(GENERATIONS, non_empty=True),
    log:
        "logs/{task}/sample_generations/{run}.log",
    params:
        **stage_params("sample_generations", result_cache=f"{GENERATIONS}.partial"),


# Programs for pass@k.
use rule sample_responses as sample_programs with:
    output:
        ensure(PROGRAMS, non_empty=True),
    log:
        "logs/{task}/sample_programs/{run}.log",
    conda:
        "../envs/eval.yaml"
    params:
        **stage_params("sample_programs", result_cache=f"{PROGRAMS}.partial"),
