rule train_policy:
    input:
        reference=f"{SFT}/model.safetensors",
        pairs=scored("train"),
        prompts=PROMPTS.format(task="{task}", split="test"),
        cache=cache_of,
        validation=scored("validation"),
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
        run=STAGES.trained("pairs"),
    conda:
        "../envs/train.yaml"
    threads: processes("train")
    resources:
        gpu=processes("train"),
        mem_mb=asks("train", "mem_mb"),
        runtime=asks("train", "runtime"),
    params:
        # Not an output: see make_sft.
        checkpoint=f"{RUN}/checkpoint",
        reference=subpath(input.reference, parent=True),
        cache=lambda wildcards, input: [str(Path(index).parent) for index in input.cache],
        folder=subpath(output.weights, parent=True),
        settings=settings("train"),
        python=python("train"),
        config=config_of,
        code=code("train"),
    shell:
        "python -m sparsepo.runtime.gpu_slots --count {resources.gpu} -- {params.python} $SCRIPTS/train.py"
        " --settings {params.settings:q} --config {params.config:q}"
        " --reference {params.reference} --pairs {input.pairs} --validation {input.validation} --prompts {input.prompts}"
        " --cache {params.cache:q} --checkpoint {params.checkpoint} --code {params.code} --out {params.folder} > {log} 2>&1"
