# What the runs of a sweep need of the frozen reference, computed once; which run reads what: `Stages.reference_caches`.
use rule gpu_job as cache_reference with:
    input:
        reference=f"{SFT}/run.json",
        pairs=f"{PREFERENCES}/train.jsonl",
    output:
        f"{REFERENCE}/values.bin",
        f"{REFERENCE}/index.json",
    log:
        "logs/{task}/cache_reference/{kind}.log",
    params:
        **stage_params("cache_reference", kind="{kind}"),
