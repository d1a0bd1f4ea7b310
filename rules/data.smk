rule make_data:
    output:
        prompts=[PROMPTS.format(task="{task}", split=split) for split in ("train", "validation", "test")],
        corpus="results/{task}/corpus.jsonl",
        summary="results/{task}/data.json",
    log:
        "logs/{task}/data.log",
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=settings("data"),
        inputs=lambda wildcards: STAGES.input_hashes(wildcards.task),
        folder=subpath(output.corpus, parent=True),
        code=code_version("workflow_scripts/data.py"),
    shell:
        "python $SCRIPTS/data.py --settings {params.settings:q} --out {params.folder} > {log} 2>&1"
