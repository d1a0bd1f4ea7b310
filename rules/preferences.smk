rule make_preferences:
    input:
        reference=f"{SFT}/model.safetensors",
        train=PROMPTS.format(task="{task}", split="train"),
        validation=PROMPTS.format(task="{task}", split="validation"),
        scorer=fitted,
    output:
        train=ensure(f"{PREFERENCES}/train.jsonl", non_empty=True),
        validation=ensure(f"{PREFERENCES}/validation.jsonl", non_empty=True),
        summary=f"{PREFERENCES}/summary.json",
    log:
        "logs/{task}/preferences.log",
    benchmark:
        "logs/{task}/timings/preferences.tsv"
    conda:
        "../envs/train.yaml"
    threads: 2
    resources:
        gpu=1,
        mem_mb=asks("preferences", "mem_mb"),
        runtime=asks("preferences", "runtime"),
    params:
        # Not an output: see make_sft.
        kept=f"{PREFERENCES}/sampled.partial",
        reference=subpath(input.reference, parent=True),
        folder=subpath(output.train, parent=True),
        settings=settings("preferences"),
        inputs=lambda wildcards: STAGES.input_hashes(wildcards.task),
        code=code("preferences"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/preferences.py --settings {params.settings:q}"
        " --reference {params.reference} --prompts {input.train} {input.validation}"
        " --kept {params.kept} --code {params.code} --out {params.folder} > {log} 2>&1"
