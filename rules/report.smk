use rule cpu_job as make_grid_table with:
    input:
        scores=all_runs(SCORES),
    output:
        csv="results/tables/{task}_grid.csv",
        markdown=report("results/tables/{task}_grid.md", caption="report/table.rst", category="{task}"),
        latex="results/tables/{task}_grid.tex",
    log:
        "logs/{task}/make_grid_table.log",
    params:
        **stage_params("make_grid_table"),


# Only where there is a reward.
use rule cpu_job as make_matched_kl_table with:
    input:
        scores=all_runs(SCORES),
    output:
        csv="results/tables/{task}_matched_kl.csv",
        markdown=report("results/tables/{task}_matched_kl.md", caption="report/matched_kl.rst", category="{task}"),
        latex="results/tables/{task}_matched_kl.tex",
    log:
        "logs/{task}/make_matched_kl_table.log",
    params:
        **stage_params("make_matched_kl_table"),


# Only of planted data, where it is known which tokens matter.
use rule cpu_job as make_auc_table with:
    input:
        scores=all_runs(SCORES),
    output:
        csv="results/tables/{task}_auc.csv",
        markdown=report("results/tables/{task}_auc.md", caption="report/auc.rst", category="{task}"),
        latex="results/tables/{task}_auc.tex",
    log:
        "logs/{task}/make_auc_table.log",
    params:
        **stage_params("make_auc_table"),


use rule cpu_job as compare_methods with:
    input:
        measures=lambda wildcards: every_measure([wildcards.task]),
        fitted_scorer=fitted_scorer,
    output:
        csv="results/tables/{task}.csv",
        markdown=report("results/tables/{task}.md", caption="report/comparison.rst", category="{task}"),
        latex="results/tables/{task}.tex",
        differences="results/tables/{task}_differences.csv",
    log:
        "logs/{task}/compare_methods.log",
    params:
        **stage_params("compare_methods"),


use rule cpu_job as plot_frontier with:
    input:
        scores=all_runs(SCORES),
        frontier=all_runs(f"{RUN}/frontier.jsonl", sft=False),
    output:
        final=figure("frontier"),
        pareto=figure("pareto"),
    log:
        "logs/{task}/plot_frontier.log",
    params:
        **stage_params("plot_frontier"),


use rule cpu_job as plot_diversity with:
    input:
        scores=all_runs(SCORES),
    output:
        out=figure("diversity"),
    log:
        "logs/{task}/plot_diversity.log",
    params:
        **stage_params("plot_diversity"),


use rule cpu_job as plot_temperatures with:
    input:
        table="results/tables/{task}.csv",
    output:
        out=figure("temperatures"),
    log:
        "logs/{task}/plot_temperatures.log",
    params:
        **stage_params("plot_temperatures"),


use rule cpu_job as plot_dynamics with:
    input:
        scores=all_runs(SCORES, sft=False),
        dynamics=all_runs(f"{RUN}/dynamics.jsonl", sft=False),
    output:
        sparsity=figure("sparsity"),
        token_kl=figure("token_kl"),
    log:
        "logs/{task}/plot_dynamics.log",
    params:
        **stage_params("plot_dynamics"),


use rule cpu_job as plot_tokens with:
    input:
        scores=lambda wildcards: SCORES.format(task=wildcards.task, run=STAGES.first_run(**wildcards)),
        tokens=lambda wildcards: TOKENS.format(task=wildcards.task, run=STAGES.first_run(**wildcards)),
    output:
        out=figure("tokens/{method}"),
    log:
        "logs/{task}/plot_tokens/{method}.log",
    params:
        **stage_params("plot_tokens"),


use rule cpu_job as plot_token_comparison with:
    input:
        scores=lambda wildcards: expand(SCORES, task=wildcards.task, run=STAGES.compared_runs(**wildcards)),
        tokens=lambda wildcards: expand(TOKENS, task=wildcards.task, run=STAGES.compared_runs(**wildcards)),
    output:
        out=figure("token_comparison"),
    log:
        "logs/{task}/plot_token_comparison.log",
    params:
        **stage_params("plot_token_comparison"),


use rule cpu_job as plot_selection with:
    input:
        scores=lambda wildcards: expand(
            SCORES, task=wildcards.task, run=["sft", *STAGES.oracle_selected_runs(**wildcards)]
        ),
        summaries=selecting_oracles("summary.json"),
        pairs=selecting_oracles("validation.jsonl"),
    output:
        out=figure("selection"),
    log:
        "logs/{task}/plot_selection.log",
    params:
        **stage_params("plot_selection"),


use rule cpu_job as plot_rounds with:
    input:
        sft=SCORES.replace("{run}", "sft"),
        frontier=lambda wildcards: expand(
            f"{RUN}/frontier.jsonl", task=wildcards.task, run=STAGES.runs_trained_by("rounds", wildcards.task)
        ),
    output:
        out=figure("rounds"),
    log:
        "logs/{task}/plot_rounds.log",
    params:
        **stage_params("plot_rounds"),


use rule cpu_job as build_report with:
    input:
        every_measure(),
        [path for task in STAGES.tasks for path in STAGES.fitted_scorer(task)],
        [path for kind in ("samples", "generations", "programs") for path in every_sampled(kind)],
        every_run(TOKENS),
        every_task([PROMPTS["test"], f"{SFT}/run.json"]),
        every_run(f"{RUN}/run.json", sft=False),
        every_run(f"{RUN}/dynamics.jsonl", sft=False),
        every_run(f"{RUN}/frontier.jsonl", sft=False),
    output:
        PAGE,
    log:
        "logs/report/build_report.log",
    params:
        **stage_params("build_report", results="results"),
        page_files=STAGES.report_file_hashes(),
