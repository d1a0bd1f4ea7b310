import json

# What scores the tokens of preference pairs, for the masks that read scores: sparsepo.config.oracles.
#   [sft_oracle ->] choose_oracle_pairs -> train_oracle -> score_tokens -> the pairs of the runs that name this oracle


# Of an oracle with a model of its own; the others start from the task's SFT model.
rule sft_oracle:
    input:
        corpus="results/{task}/corpus.jsonl",
        model=lambda wildcards: STAGES.model_files(**wildcards),
    output:
        weights=f"{ORACLE}/sft/model.safetensors",
        config=f"{ORACLE}/sft/config.json",
        dynamics=f"{ORACLE}/sft/dynamics.jsonl",
        record=f"{ORACLE}/sft/run.json",
    log:
        "logs/{task}/oracles/{oracle}/sft.log",
    benchmark:
        "logs/{task}/timings/oracles/{oracle}/sft.tsv"
    conda:
        "../envs/train.yaml"
    threads: lambda wildcards: max(2, STAGES.processes(wildcards.task, "sft"))
    resources:
        gpu=processes("sft"),
        mem_mb=asks("sft", "mem_mb"),
        runtime=asks("sft", "runtime"),
    params:
        # Not an output: see make_sft.
        checkpoint=f"{ORACLE}/sft/checkpoint",
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


def base_of(wildcards):
    """The weights that an oracle starts from."""
    return f"{STAGES.base(**wildcards)}/model.safetensors"


rule choose_oracle_pairs:
    input:
        reference=f"{SFT}/model.safetensors",
        base=base_of,
        pairs=f"{PREFERENCES}/train.jsonl",
    output:
        f"{ORACLE}/pairs.jsonl",
    log:
        "logs/{task}/oracles/{oracle}/pairs.log",
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        reference=subpath(input.reference, parent=True),
        base=subpath(input.base, parent=True),
        settings=settings("oracle_pairs"),
        code=code("oracle_pairs"),
    shell:
        "python $SCRIPTS/oracle_pairs.py --settings {params.settings:q} --reference {params.reference}"
        " --base {params.base} --pairs {input.pairs} --out {output} > {log} 2>&1"


rule train_oracle:
    input:
        base=base_of,
        pairs=f"{ORACLE}/pairs.jsonl",
    output:
        weights=f"{ORACLE}/policy/model.safetensors",
        config=f"{ORACLE}/policy/config.json",
        dynamics=f"{ORACLE}/policy/dynamics.jsonl",
        record=f"{ORACLE}/policy/run.json",
    log:
        "logs/{task}/oracles/{oracle}/train.log",
    benchmark:
        "logs/{task}/timings/oracles/{oracle}/train.tsv"
    conda:
        "../envs/train.yaml"
    threads: processes("train")
    resources:
        gpu=processes("train"),
        mem_mb=asks("train", "mem_mb"),
        runtime=asks("train", "runtime"),
    params:
        # Not an output: see make_sft.
        checkpoint=f"{ORACLE}/policy/checkpoint",
        base=subpath(input.base, parent=True),
        folder=subpath(output.weights, parent=True),
        settings=settings("train"),
        python=python("train"),
        config=config_of,
        code=code("train"),
    shell:
        "python -m sparsepo.runtime.gpu_slots --count {resources.gpu} -- {params.python} $SCRIPTS/train.py"
        " --settings {params.settings:q} --config {params.config:q} --reference {params.base} --pairs {input.pairs}"
        " --checkpoint {params.checkpoint} --code {params.code} --out {params.folder} > {log} 2>&1"


rule score_tokens:
    input:
        oracle=f"{ORACLE}/policy/model.safetensors",
        base=base_of,
        train=f"{PREFERENCES}/train.jsonl",
        validation=f"{PREFERENCES}/validation.jsonl",
    output:
        train=f"{ORACLE}/train.jsonl",
        validation=f"{ORACLE}/validation.jsonl",
        summary=f"{ORACLE}/summary.json",
    log:
        "logs/{task}/oracles/{oracle}/score.log",
    benchmark:
        "logs/{task}/timings/oracles/{oracle}/score.tsv"
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("score_tokens", "mem_mb"),
        runtime=asks("score_tokens", "runtime"),
    params:
        oracle=subpath(input.oracle, parent=True),
        base=subpath(input.base, parent=True),
        folder=subpath(output.train, parent=True),
        settings=settings("score_tokens"),
        code=code("score_tokens"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/score_tokens.py --settings {params.settings:q}"
        " --oracle {params.oracle} --base {params.base} --pairs {input.train} {input.validation}"
        " --out {params.folder} > {log} 2>&1"


def of_oracles(task, name):
    """A file of each oracle that runs of the task select by."""
    return expand(f"{ORACLE}/{name}", task=task, oracle=json.loads(STAGES.settings("selection", task)))


rule plot_selection:
    input:
        scores=lambda wildcards: expand(SCORES, task=wildcards.task, run=["sft", *STAGES.oracle_selected_runs(**wildcards)]),
        summaries=lambda wildcards: of_oracles(wildcards.task, "summary.json"),
        pairs=lambda wildcards: of_oracles(wildcards.task, "validation.jsonl"),
    output:
        report(
            expand("results/figures/{{task}}/selection.{kind}", kind=["svg", "png"]),
            caption="report/selection.rst",
            category="{task}",
        ),
    log:
        "logs/{task}/figures/selection.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=settings("selection"),
        code=code("selection"),
    shell:
        "python $SCRIPTS/selection.py --settings {params.settings:q} --scores {input.scores} --summaries {input.summaries}"
        " --pairs {input.pairs} --out {output} > {log} 2>&1"
