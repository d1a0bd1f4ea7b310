rule make_data:
    output:
        prompts=[PROMPTS.format(task="{task}", split=split) for split in ("train", "validation", "test")],
        corpus="results/{task}/corpus.jsonl",
        labelled="results/{task}/labelled.jsonl",
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
        code=code("data"),
    shell:
        "python $SCRIPTS/data.py --settings {params.settings:q} --out {params.folder} > {log} 2>&1"


rule fit_scorer:
    input:
        labelled="results/{task}/labelled.jsonl",
    output:
        weights="results/{task}/scorer/weights.npz",
        words="results/{task}/scorer/words.json",
        report="results/{task}/scorer/report.json",
    log:
        "logs/{task}/scorer.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=settings("fit"),
        folder=subpath(output.report, parent=True),
        code=code("fit"),
    shell:
        "python $SCRIPTS/fit.py --settings {params.settings:q} --labelled {input.labelled} --out {params.folder} > {log} 2>&1"
