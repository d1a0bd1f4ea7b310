rule sample_policy:
    input:
        policy=policy_of,
        test=PROMPTS.format(task="{task}", split="test"),
        validation=PROMPTS.format(task="{task}", split="validation"),
    output:
        ensure(SAMPLES, non_empty=True),
    log:
        "logs/{task}/sample/{run}.log",
    benchmark:
        "logs/{task}/timings/sample/{run}.tsv"
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("sample", "mem_mb"),
        runtime=asks("sample", "runtime"),
    params:
        # Not an output: see make_sft.
        kept=f"{SAMPLES}.partial",
        policy=subpath(input.policy, parent=True),
        settings=settings("sample"),
        code=code("sample"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/sample.py --settings {params.settings:q}"
        " --policy {params.policy} --validation {input.validation} --test {input.test}"
        " --kept {params.kept} --code {params.code} --out {output} > {log} 2>&1"
