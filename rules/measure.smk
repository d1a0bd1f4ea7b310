# What is measured beside rewards and KL, each part only where a config asks for it.
rule generate:
    input:
        policy=policy_of,
        test=PROMPTS.format(task="{task}", split="test"),
        validation=PROMPTS.format(task="{task}", split="validation"),
    output:
        ensure(GENERATIONS, non_empty=True),
    log:
        "logs/{task}/generate/{run}.log",
    benchmark:
        "logs/{task}/timings/generate/{run}.tsv"
    conda:
        "../envs/train.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("generate", "mem_mb"),
        runtime=asks("generate", "runtime"),
    params:
        # Not an output: see make_sft.
        kept=f"{GENERATIONS}.partial",
        policy=subpath(input.policy, parent=True),
        settings=settings("generate"),
        code=code("generate", "sample"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/sample.py --settings {params.settings:q}"
        " --policy {params.policy} --validation {input.validation} --test {input.test}"
        " --kept {params.kept} --code {params.code} --out {output} > {log} 2>&1"


rule measure_summaries:
    input:
        generations=GENERATIONS,
        prompts=[PROMPTS.format(task="{task}", split=split) for split in ("train", "validation", "test")],
    output:
        MEASURES.replace("{part}", "summaries"),
    log:
        "logs/{task}/summaries/{run}.log",
    benchmark:
        "logs/{task}/timings/summaries/{run}.tsv"
    conda:
        "../envs/eval.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("summaries", "mem_mb"),
        runtime=asks("summaries", "runtime"),
    params:
        settings=settings("summaries"),
        code=code("summaries"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/summaries.py --settings {params.settings:q}"
        " --generations {input.generations} --prompts {input.prompts} --out {output} > {log} 2>&1"


rule measure_wins:
    input:
        generations=GENERATIONS,
        prompts=[PROMPTS.format(task="{task}", split=split) for split in ("validation", "test")],
        scorer=fitted,
    output:
        MEASURES.replace("{part}", "wins"),
    log:
        "logs/{task}/wins/{run}.log",
    benchmark:
        "logs/{task}/timings/wins/{run}.tsv"
    conda:
        "../envs/eval.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("wins", "mem_mb"),
        runtime=asks("wins", "runtime"),
    params:
        # Not an output: a judge's answers cost money, and Snakemake deletes outputs before a retry.
        answers="results/{task}/answers/{run}",
        settings=settings("wins"),
        code=code("wins"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/wins.py --settings {params.settings:q}"
        " --generations {input.generations} --prompts {input.prompts} --answers {params.answers} --out {output} > {log} 2>&1"


rule measure_benchmarks:
    input:
        policy=policy_of,
    output:
        MEASURES.replace("{part}", "benchmarks"),
    log:
        "logs/{task}/benchmarks/{run}.log",
    benchmark:
        "logs/{task}/timings/benchmarks/{run}.tsv"
    conda:
        "../envs/eval.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("benchmarks", "mem_mb"),
        runtime=asks("benchmarks", "runtime"),
    params:
        # Not an output: see make_sft.
        kept=f"{MEASURES}.partial".replace("{part}", "benchmarks"),
        policy=subpath(input.policy, parent=True),
        work="results/{task}/benchmarks/questions/{run}",
        settings=settings("benchmarks"),
        inputs=lambda wildcards: STAGES.input_hashes(wildcards.task),
        code=code("benchmarks"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/benchmarks.py --settings {params.settings:q}"
        " --policy {params.policy} --work {params.work}"
        " --kept {params.kept} --code {params.code} --out {output} > {log} 2>&1"


rule sample_programs:
    input:
        policy=policy_of,
        test=PROMPTS.format(task="{task}", split="test"),
        validation=PROMPTS.format(task="{task}", split="validation"),
    output:
        ensure(PROGRAMS, non_empty=True),
    log:
        "logs/{task}/programs/{run}.log",
    benchmark:
        "logs/{task}/timings/programs/{run}.tsv"
    conda:
        "../envs/eval.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=asks("programs", "mem_mb"),
        runtime=asks("programs", "runtime"),
    params:
        # Not an output: see make_sft.
        kept=f"{PROGRAMS}.partial",
        policy=subpath(input.policy, parent=True),
        settings=settings("programs"),
        code=code("programs"),
    shell:
        "python -m sparsepo.runtime.gpu_slots -- python $SCRIPTS/programs.py --settings {params.settings:q}"
        " --policy {params.policy} --validation {input.validation} --test {input.test}"
        " --kept {params.kept} --code {params.code} --out {output} > {log} 2>&1"


rule measure_code:
    input:
        programs=PROGRAMS,
    output:
        MEASURES.replace("{part}", "code"),
    log:
        "logs/{task}/code/{run}.log",
    conda:
        "../envs/eval.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=asks("code", "runtime"),
    params:
        # Not an output: see make_sft.
        kept=f"{MEASURES}.partial".replace("{part}", "code"),
        settings=settings("code"),
        inputs=lambda wildcards: STAGES.input_hashes(wildcards.task),
        code=code("code", "execute"),
    shell:
        "python $SCRIPTS/execute.py --settings {params.settings:q} --programs {input.programs}"
        " --kept {params.kept} --code {params.code} --out {output} > {log} 2>&1"
