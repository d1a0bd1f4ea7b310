# Only where a method of some task trains in rounds: sample the former policy, rank the samples, train on them, and again.
# The rounds lie beside the runs, under a name without their number: a run of more rounds goes on from one of fewer.


def former_policy(wildcards):
    """The weights that a round samples and goes on from: those of the round before, in the first those of SFT."""
    if wildcards.iteration == "1":
        return f"{SFT}/model.safetensors".format(**wildcards)
    before = {**wildcards, "iteration": int(wildcards.iteration) - 1}
    return f"{ROUND}/policy/model.safetensors".format(**before)


def rounds_of(wildcards):
    """The weights of every round of a run, in their order."""
    shared, iterations = STAGES.rounds(wildcards.task, wildcards.run)
    return expand(f"{ROUND}/policy/model.safetensors", task=wildcards.task, run=shared, iteration=iterations)


rule sample_round:
    input:
        policy=former_policy,
        prompts=PROMPTS.format(task="{task}", split="train"),
        scorer=fitted,
    output:
        pairs=ensure(f"{ROUND}/pairs.jsonl", non_empty=True),
        summary=f"{ROUND}/summary.json",
    log:
        "logs/{task}/rounds/{run}/iteration~{iteration}/pairs.log",
    benchmark:
        "logs/{task}/timings/rounds/{run}/iteration~{iteration}/pairs.tsv"
    wildcard_constraints:
        run=STAGES.shared_rounds,
        iteration=r"[1-9]\d*",
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("sample_round", "mem_mb"),
        runtime=asks("sample_round", "runtime"),
    params:
        # Not outputs: see make_sft and measure_wins.
        kept=f"{ROUND}/sampled.partial",
        answers="results/{task}/answers/rounds/{run}/iteration~{iteration}",
        policy=subpath(input.policy, parent=True),
        folder=subpath(output.pairs, parent=True),
        settings=settings("sample_round"),
        code=code("sample_round"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/sample_round.py --settings {params.settings:q}"
        " --policy {params.policy} --prompts {input.prompts} --iteration {wildcards.iteration}"
        " --kept {params.kept} --answers {params.answers} --code {params.code} --out {params.folder} > {log} 2>&1"


rule train_round:
    input:
        reference=f"{SFT}/model.safetensors",
        policy=former_policy,
        pairs=f"{ROUND}/pairs.jsonl",
        prompts=PROMPTS.format(task="{task}", split="test"),
        scorer=fitted,
    output:
        weights=f"{ROUND}/policy/model.safetensors",
        config=f"{ROUND}/policy/config.json",
        dynamics=f"{ROUND}/policy/dynamics.jsonl",
        frontier=f"{ROUND}/policy/frontier.jsonl",
        record=f"{ROUND}/policy/run.json",
    log:
        "logs/{task}/rounds/{run}/iteration~{iteration}/train.log",
    benchmark:
        "logs/{task}/timings/rounds/{run}/iteration~{iteration}/train.tsv"
    wildcard_constraints:
        run=STAGES.shared_rounds,
        iteration=r"[1-9]\d*",
    conda:
        "../envs/train.yaml"
    threads: processes("train_round")
    resources:
        gpu=processes("train_round"),
        mem_mb=asks("train_round", "mem_mb"),
        runtime=asks("train_round", "runtime"),
    params:
        # Not an output: see make_sft.
        checkpoint=f"{ROUND}/policy/checkpoint",
        reference=subpath(input.reference, parent=True),
        policy=subpath(input.policy, parent=True),
        folder=subpath(output.weights, parent=True),
        settings=settings("train_round"),
        python=python("train_round"),
        config=config_of,
        code=code("train_round", "train"),
    shell:
        "python -m sparsepo.runtime.gpu_slots --count {resources.gpu} -- {params.python} $SCRIPTS/train.py"
        " --settings {params.settings:q} --config {params.config:q}"
        " --reference {params.reference} --policy {params.policy} --iteration {wildcards.iteration}"
        " --pairs {input.pairs} --prompts {input.prompts}"
        " --checkpoint {params.checkpoint} --code {params.code} --out {params.folder} > {log} 2>&1"


# Copies, not links: Snakemake sets the time of an output, and a linked round would then seem newer than the next one.
rule finish_rounds:
    input:
        rounds_of,
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
        run=STAGES.trained("rounds"),
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        rounds=lambda wildcards, input: [str(Path(weights).parent) for weights in input],
        folder=subpath(output.weights, parent=True),
        code=code("finish_rounds"),
    shell:
        "python $SCRIPTS/finish_rounds.py --rounds {params.rounds:q} --out {params.folder} > {log} 2>&1"


rule plot_rounds:
    input:
        sft=SCORES.replace("{run}", "sft"),
        points=lambda wildcards: expand(
            f"{RUN}/frontier.jsonl", task=wildcards.task, run=STAGES.runs_by("rounds", wildcards.task)
        ),
    output:
        report(
            expand("results/figures/{{task}}/rounds.{kind}", kind=["svg", "png"]),
            caption="report/rounds.rst",
            category="{task}",
        ),
    log:
        "logs/{task}/figures/rounds.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        runs=lambda wildcards: STAGES.runs_by("rounds", wildcards.task),
        code=code("rounds"),
    shell:
        "python $SCRIPTS/rounds.py --runs {params.runs:q} --points {input.points} --sft {input.sft}"
        " --out {output} > {log} 2>&1"
