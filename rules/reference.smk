# What the runs of a sweep need of the frozen reference, computed once; which run reads what: sparsepo.workflow.stages.
rule cache_reference:
    input:
        reference=f"{SFT}/model.safetensors",
        pairs=f"{PREFERENCES}/train.jsonl",
    output:
        values=f"{REFERENCE}/values.bin",
        index=f"{REFERENCE}/index.json",
    log:
        "logs/{task}/reference/{kind}.log",
    benchmark:
        "logs/{task}/timings/reference/{kind}.tsv"
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("reference", "mem_mb"),
        runtime=asks("reference", "runtime"),
    params:
        reference=subpath(input.reference, parent=True),
        folder=subpath(output.index, parent=True),
        settings=settings("reference"),
        code=code("reference"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/reference.py --settings {params.settings:q}"
        " --reference {params.reference} --pairs {input.pairs} --kind {wildcards.kind}"
        " --out {params.folder} > {log} 2>&1"
