# Only where a method of some task trains on samples of its own policy.
rule train_on_policy:
    input:
        reference=f"{SFT}/model.safetensors",
        train=PROMPTS.format(task="{task}", split="train"),
        prompts=PROMPTS.format(task="{task}", split="test"),
        scorer=fitted,
    output:
        weights=f"{RUN}/model.safetensors",
        config=f"{RUN}/config.json",
        dynamics=f"{RUN}/dynamics.jsonl",
        frontier=f"{RUN}/frontier.jsonl",
        record=f"{RUN}/run.json",
    log:
        "logs/{task}/train/{run}.log",
    benchmark:
        "logs/{task}/timings/train/{run}.tsv"
    wildcard_constraints:
        run=STAGES.trained("on_policy"),
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("train_on_policy", "mem_mb"),
        runtime=asks("train_on_policy", "runtime"),
    params:
        # Not an output: see make_sft.
        checkpoint=f"{RUN}/checkpoint",
        reference=subpath(input.reference, parent=True),
        folder=subpath(output.weights, parent=True),
        settings=settings("train_on_policy"),
        config=config_of,
        code=code("train_on_policy"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/train_on_policy.py"
        " --settings {params.settings:q} --config {params.config:q} --reference {params.reference}"
        " --train {input.train} --prompts {input.prompts}"
        " --checkpoint {params.checkpoint} --code {params.code} --out {params.folder} > {log} 2>&1"
