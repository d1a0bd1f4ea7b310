# Oracles score the tokens of preference pairs, for the masks that read scores (sparsepo.config.oracles):
#   [train_oracle_sft ->] select_oracle_pairs -> train_oracle [and train_swapped_oracle] -> score_tokens -> the pairs of the
#   runs that name the oracle; where nothing is trained, score_tokens alone


# Of an oracle with a model of its own; the others start from the task's SFT model.
use rule train_sft as train_oracle_sft with:
    output:
        training_outputs(f"{ORACLE}/sft"),
    log:
        "logs/{task}/train_oracle_sft/{oracle}.log",
    params:
        **stage_params("train_oracle_sft", checkpoint=f"{ORACLE}/sft/checkpoint", config=resolved_config),


use rule cpu_job as select_oracle_pairs with:
    input:
        reference=f"{SFT}/run.json",
        base=oracle_start,
        pairs=f"{PREFERENCES}/train.jsonl",
    output:
        f"{ORACLE}/pairs.jsonl",
        f"{ORACLE}/swapped_pairs.jsonl",
    log:
        "logs/{task}/select_oracle_pairs/{oracle}.log",
    conda:
        "../envs/train.yaml"
    params:
        **stage_params("select_oracle_pairs"),


use rule train_policy as train_oracle with:
    input:
        reference=oracle_start,
        pairs=f"{ORACLE}/pairs.jsonl",
    output:
        training_outputs(f"{ORACLE}/policy"),
    log:
        "logs/{task}/train_oracle/{oracle}.log",
    wildcard_constraints:
        oracle=STAGES.oracle_pattern,
    params:
        **stage_params("train_oracle", checkpoint=f"{ORACLE}/policy/checkpoint", config=resolved_config),


# The other model of a contrast: trained as the oracle is, on pairs whose rejected response is the chosen one.
use rule train_policy as train_swapped_oracle with:
    input:
        reference=oracle_start,
        pairs=f"{ORACLE}/swapped_pairs.jsonl",
    output:
        training_outputs(f"{ORACLE}/swapped"),
    log:
        "logs/{task}/train_swapped_oracle/{oracle}.log",
    wildcard_constraints:
        oracle=STAGES.oracle_pattern,
    params:
        **stage_params("train_swapped_oracle", checkpoint=f"{ORACLE}/swapped/checkpoint", config=resolved_config),


use rule gpu_job as score_tokens with:
    input:
        oracle=scoring_model,
        base=scoring_base,
        train=f"{PREFERENCES}/train.jsonl",
        validation=f"{PREFERENCES}/validation.jsonl",
    output:
        f"{ORACLE}/train.jsonl",
        f"{ORACLE}/validation.jsonl",
        f"{ORACLE}/summary.json",
    log:
        "logs/{task}/score_tokens/{oracle}.log",
    params:
        **stage_params("score_tokens"),
