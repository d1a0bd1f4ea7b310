# What rules inherit by `use rule ... as STAGE with`: each runs the script of its stage, workflow_scripts/STAGE.py.
# Its settings, the version of its code and the options of the script are made by `stage_params` in common.smk;
# memory and run time are those of the stage in sparsepo.workflow.registry.
rule cpu_job:
    log:
        "logs/cpu_job.log",
    conda:
        "../envs/eval.yaml"
    threads: threads_of
    resources:
        mem_mb=mem_mb,
        runtime=runtime,
    shell:
        'eval "$SPARSEPO_JOB"; '
        "OMP_NUM_THREADS={params.threads} python -m sparsepo.runtime.start_job $SCRIPTS/{params.script}"
        " --settings {params.settings:q} --code-version {params.code_version} {params.options} > {log} 2>&1"


rule gpu_job:
    log:
        "logs/gpu_job.log",
    conda:
        "../envs/train.yaml"
    threads: threads_of
    resources:
        **slurm_resources(),
        gpu=num_gpus,
        mem_mb=mem_mb,
        runtime=runtime,
    shell:
        'eval "$SPARSEPO_JOB"; '
        "OMP_NUM_THREADS={params.threads} python -m sparsepo.runtime.gpu_slots --count {resources.gpu} --"
        " {params.launcher} $SCRIPTS/{params.script}"
        " --settings {params.settings:q} --code-version {params.code_version} {params.options} > {log} 2>&1"


# With the libraries of the measures.
use rule gpu_job as gpu_measure with:
    conda:
        "../envs/eval.yaml"
