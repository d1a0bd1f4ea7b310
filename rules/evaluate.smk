rule evaluate_run:
    input:
        policy=policy_of,
        reference=f"{SFT}/model.safetensors",
        samples=SAMPLES,
        pairs=scored("validation"),
        scorer=fitted,
    output:
        scores=SCORES,
        tokens=TOKENS,
    log:
        "logs/{task}/evaluate/{run}.log",
    benchmark:
        "logs/{task}/timings/evaluate/{run}.tsv"
    conda:
        "../envs/eval.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("evaluate", "mem_mb"),
        runtime=asks("evaluate", "runtime"),
    params:
        policy=subpath(input.policy, parent=True),
        reference=subpath(input.reference, parent=True),
        settings=settings("evaluate"),
        code=code("evaluate"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/evaluate.py --settings {params.settings:q}"
        " --policy {params.policy} --reference {params.reference} --samples {input.samples}"
        " --pairs {input.pairs} --scores {output.scores} --tokens {output.tokens} > {log} 2>&1"
