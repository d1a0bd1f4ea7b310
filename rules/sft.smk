rule make_sft:
    input:
        corpus="results/{task}/corpus.jsonl",
        model=lambda wildcards: STAGES.model_files(wildcards.task),
    output:
        weights=f"{SFT}/model.safetensors",
        config=f"{SFT}/config.json",
        dynamics=f"{SFT}/dynamics.jsonl",
        record=f"{SFT}/run.json",
    log:
        "logs/{task}/sft.log",
    benchmark:
        "logs/{task}/timings/sft.tsv"
    conda:
        "../envs/train.yaml"
    threads: lambda wildcards: max(2, STAGES.processes(wildcards.task, "sft"))
    resources:
        gpu=processes("sft"),
        mem_mb=asks("sft", "mem_mb"),
        runtime=asks("sft", "runtime"),
    params:
        # Not an output: Snakemake deletes outputs before a retry, and a killed training needs its checkpoints.
        checkpoint=f"{SFT}/checkpoint",
        folder=subpath(output.weights, parent=True),
        settings=settings("sft"),
        python=python("sft"),
        config=config_of,
        code=code("sft"),
    shell:
        "python -m sparsepo.runtime.gpu_slots --count {resources.gpu} -- {params.python} $SCRIPTS/sft.py"
        " --settings {params.settings:q} --config {params.config:q}"
        " --corpus {input.corpus} --model {input.model:q} --checkpoint {params.checkpoint} --code {params.code}"
        " --out {params.folder} > {log} 2>&1"
