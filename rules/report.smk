rule compare_methods:
    input:
        measures=lambda wildcards: every_measure(wildcards.task),
        scorer=fitted,
    output:
        csv="results/tables/{task}.csv",
        markdown=report("results/tables/{task}.md", caption="report/comparison.rst", category="{task}"),
        latex="results/tables/{task}.tex",
        differences="results/tables/{task}_differences.csv",
    log:
        "logs/{task}/table.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=settings("compare"),
        code=code("compare"),
    shell:
        "python $SCRIPTS/compare.py --settings {params.settings:q} --measures {input.measures} --scorer {input.scorer}"
        " --csv {output.csv} --markdown {output.markdown} --latex {output.latex}"
        " --differences {output.differences} > {log} 2>&1"


rule make_table:
    input:
        scores=lambda wildcards: every_run(SCORES, tasks=[wildcards.task]),
    output:
        csv="results/tables/{task}_grid.csv",
        markdown=report("results/tables/{task}_grid.md", caption="report/table.rst", category="{task}"),
        latex="results/tables/{task}_grid.tex",
    log:
        "logs/{task}/grid.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=settings("table"),
        code=code("table"),
    shell:
        "python $SCRIPTS/table.py --settings {params.settings:q} --scores {input.scores}"
        " --csv {output.csv} --markdown {output.markdown} --latex {output.latex} > {log} 2>&1"


rule plot_frontier:
    input:
        scores=lambda wildcards: every_run(SCORES, tasks=[wildcards.task]),
        points=lambda wildcards: every_run(f"{RUN}/frontier.jsonl", sft=False, tasks=[wildcards.task]),
    output:
        report(
            expand("results/figures/{{task}}/frontier.{kind}", kind=["svg", "png"]),
            caption="report/frontier.rst",
            category="{task}",
        ),
    log:
        "logs/{task}/figures/frontier.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("frontier"),
    shell:
        "python $SCRIPTS/frontier.py --scores {input.scores} --points {input.points}" " --out {output} > {log} 2>&1"


rule plot_diversity:
    input:
        lambda wildcards: every_run(SCORES, tasks=[wildcards.task]),
    output:
        report(
            expand("results/figures/{{task}}/diversity.{kind}", kind=["svg", "png"]),
            caption="report/diversity.rst",
            category="{task}",
        ),
    log:
        "logs/{task}/figures/diversity.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("diversity"),
    shell:
        "python $SCRIPTS/diversity.py --scores {input} --out {output} > {log} 2>&1"


rule plot_temperatures:
    input:
        "results/tables/{task}.csv",
    output:
        report(
            expand("results/figures/{{task}}/temperatures.{kind}", kind=["svg", "png"]),
            caption="report/temperatures.rst",
            category="{task}",
        ),
    log:
        "logs/{task}/figures/temperatures.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("temperatures"),
    shell:
        "python $SCRIPTS/temperatures.py --table {input} --out {output} > {log} 2>&1"


rule plot_dynamics:
    input:
        scores=lambda wildcards: every_run(SCORES, sft=False, tasks=[wildcards.task]),
        dynamics=lambda wildcards: every_run(f"{RUN}/dynamics.jsonl", sft=False, tasks=[wildcards.task]),
    output:
        sparsity=report(
            expand("results/figures/{{task}}/sparsity.{kind}", kind=["svg", "png"]),
            caption="report/sparsity.rst",
            category="{task}",
        ),
        token_kl=report(
            expand("results/figures/{{task}}/token_kl.{kind}", kind=["svg", "png"]),
            caption="report/token_kl.rst",
            category="{task}",
        ),
    log:
        "logs/{task}/figures/dynamics.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("dynamics"),
    shell:
        "python $SCRIPTS/dynamics.py --scores {input.scores} --dynamics {input.dynamics}"
        " --sparsity {output.sparsity} --token-kl {output.token_kl} > {log} 2>&1"


rule plot_tokens:
    input:
        scores=lambda wildcards: SCORES.format(task=wildcards.task, run=STAGES.first_run(**wildcards)),
        tokens=lambda wildcards: TOKENS.format(task=wildcards.task, run=STAGES.first_run(**wildcards)),
    output:
        report(
            expand("results/figures/{{task}}/tokens/{{method}}.{kind}", kind=["svg", "png"]),
            caption="report/tokens.rst",
            category="{task}",
        ),
    log:
        "logs/{task}/figures/tokens-{method}.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("tokens"),
    shell:
        "python $SCRIPTS/tokens.py --scores {input.scores} --tokens {input.tokens} --out {output} > {log} 2>&1"


rule make_page:
    input:
        measures=[path for task in STAGES.tasks for path in every_measure(task)],
        fitted=[path for task in STAGES.tasks for path in STAGES.fitted(task)],
        tokens=every_run(TOKENS),
        samples=[path for pattern in (SAMPLES, GENERATIONS, PROGRAMS) for path in every_sampled(pattern)],
        prompts=every_task([PROMPTS.format(task="{task}", split="test")]),
        trained=every_run(f"{RUN}/run.json", sft=False),
        dynamics=every_run(f"{RUN}/dynamics.jsonl", sft=False),
        frontier=every_run(f"{RUN}/frontier.jsonl", sft=False),
        sft=every_task([f"{SFT}/run.json"]),
    output:
        PAGE,
    log:
        "logs/report/page.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=lambda wildcards: STAGES.page(),
        results=subpath(output[0], ancestor=2),
        code=code("page"),
    shell:
        "python $SCRIPTS/page.py --settings {params.settings:q} --results {params.results} --out {output} > {log} 2>&1"
