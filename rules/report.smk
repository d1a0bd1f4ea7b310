rule make_table:
    input:
        scores=lambda wildcards: every_run(SCORES, tasks=[wildcards.task]),
    output:
        csv="results/tables/{task}.csv",
        markdown=report("results/tables/{task}.md", caption="report/table.rst", category="{task}"),
        latex="results/tables/{task}.tex",
    log:
        "logs/{task}/table.log",
    conda:
        "../envs/eval.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=settings("table"),
        code=code_version("workflow_scripts/table.py"),
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
        code=code_version("workflow_scripts/frontier.py"),
    shell:
        "python $SCRIPTS/frontier.py --scores {input.scores} --points {input.points}" " --out {output} > {log} 2>&1"


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
        code=code_version("workflow_scripts/dynamics.py"),
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
        code=code_version("workflow_scripts/tokens.py"),
    shell:
        "python $SCRIPTS/tokens.py --scores {input.scores} --tokens {input.tokens} --out {output} > {log} 2>&1"
