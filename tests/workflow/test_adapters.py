"""A task with adapters in the workflow: what a run keeps, and that all that reads it finds its base."""

import json

import pytest
import yaml

RUN = "results/small/runs/dpo/beta~0.1/seed~0"

pytestmark = pytest.mark.timeout(900)


@pytest.mark.slow
def test_runs_keep_their_adapters_and_are_sampled_and_evaluated_with_them(tiny, unfinished, snakemake):
    """The first task trains all weights in SFT, the second an adapter on what the first one made."""
    config = yaml.safe_load(tiny)
    task = config["tasks"]["small"]
    task["methods"] = {"dpo": {"beta": ["0.1"]}}
    task["training"] |= {"adapter": {"rank": 4}, "frontier_every": 2}
    task["evaluation"]["frontier_prompts"] = 4
    (unfinished / "config.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(unfinished, "--cores", "2")
    assert done.returncode == 0, done.stdout
    run = unfinished / RUN
    assert (run / "adapter_model.safetensors").is_file() and not (run / "model.safetensors").exists()
    named = json.loads((run / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(unfinished / "results/small/sft")
    scores = json.loads((unfinished / "results/small/scores/dpo/beta~0.1/seed~0.json").read_text())
    assert scores
    task["model"] = {"source": "folder", "path": str(unfinished / "results/small/sft")}
    task["sft"] |= {"adapter": {"rank": 2}}
    config["tasks"] = {"second": task}
    (unfinished / "second.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(unfinished, "train", "measures", "--cores", "2", "--configfile", "second.yaml")
    assert done.returncode == 0, done.stdout
    second = unfinished / "results/second"
    assert (second / "sft/adapter_model.safetensors").is_file() and not (second / "sft/model.safetensors").exists()
    named = json.loads((second / "runs/dpo/beta~0.1/seed~0/adapter_config.json").read_text())
    assert (named["r"], named["base_model_name_or_path"]) == (6, str(unfinished / "results/small/sft"))
