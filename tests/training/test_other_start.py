"""A policy that starts from another model than the reference: its losses, its masks, and what is refused."""

import copy
import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from sparsepo.config import Config
from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.data.records import write_records
from sparsepo.models.loading import load_model, save_model, train_tokenizer
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.method_masks import load_masks
from sparsepo.workflow.stages import Stages

ROOT = Path(__file__).resolve().parents[2]
ONE_STEP = {"data": 8, "max_steps": 1, "starts_as_reference": False}


def larger(toy, **changed):
    return toy.model(seed=3, **{"n_embd": 24, "n_layer": 3} | changed)


def sum_of_logps(model, prompt, response):
    """Of one sequence alone, in float64."""
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
    return sum(float(logps[len(prompt) - 1 + at, token]) for at, token in enumerate(response))


def test_the_first_loss_is_that_of_the_log_ratios_to_the_reference(toy, tmp_path):
    policy, reference = larger(toy).double().eval(), toy.model().double().eval()
    margins = []
    for pair in encode_pairs(Encoder(toy.tokenizer), toy.pairs(8), 99, 99, 48).pairs:
        chosen, rejected = (
            sum_of_logps(policy, pair.prompt, side) - sum_of_logps(reference, pair.prompt, side)
            for side in (pair.chosen, pair.rejected)
        )
        margins.append(chosen - rejected)
    toy.trainer(tmp_path, "dpo", hyper={"beta": 0.3}, policy=policy, reference=reference, **ONE_STEP).train()
    expected = sum(math.log1p(math.exp(-0.3 * margin)) for margin in margins) / 8
    assert abs(expected - math.log(2)) > 0.1
    assert toy.rows(tmp_path)[0]["loss"] == pytest.approx(expected, rel=1e-7)  # logged in float32


@pytest.mark.parametrize("method", ["tdpo2", "mapo", "sparsepo_independent"])
def test_terms_and_masks_are_those_of_a_look_inside_the_pairs(toy, tmp_path, method):
    """Learned masks have the sizes of the reference, and are loaded for it."""
    policy, reference = larger(toy), toy.model()
    before = copy.deepcopy(policy).eval()
    trainer = toy.trainer(tmp_path / "run", method, policy=policy, reference=reference, **ONE_STEP)
    masks = copy.deepcopy(trainer.masks)
    trainer.train()
    pairs = toy.pairs(8)
    found = inspect_pairs(before, reference.eval(), pairs, method, {}, masks, tokenizer=toy.tokenizer)
    losses = [record["loss"] for record in found]
    assert toy.rows(tmp_path / "run")[0]["loss"] == pytest.approx(sum(losses) / 8, rel=1e-5)
    trainer.save(tmp_path / "out")
    if masks is not None:
        loaded = load_masks(tmp_path / "out", reference).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in trainer.masks.state_dict().items())


def test_a_policy_with_an_adapter_may_start_elsewhere(toy, tmp_path):
    policy, reference = larger(toy), toy.model()
    found = inspect_pairs(
        copy.deepcopy(policy).eval(), copy.deepcopy(reference).eval(), toy.pairs(8), "dpo", tokenizer=toy.tokenizer
    )
    toy.trainer(tmp_path, policy=policy, reference=reference, adapter={"rank": 2}, **ONE_STEP).train()
    assert toy.rows(tmp_path)[0]["loss"] == pytest.approx(sum(record["loss"] for record in found) / 8, rel=1e-5)


def test_one_that_is_said_to_start_as_the_reference_is_refused(toy, tmp_path):
    trainer = toy.trainer(tmp_path, policy=larger(toy), data=8)
    with pytest.raises(UserError, match="policy and the reference differ before the first step"):
        trainer.train()


def test_a_start_without_reference_or_that_cannot_read_the_pairs_is_refused(toy, tmp_path):
    with pytest.raises(UserError, match="has another output head: pass the reference$"):
        toy.trainer(tmp_path, policy=larger(toy), caches=(), **ONE_STEP)
    with pytest.raises(UserError, match="a sequence has .* tokens, and GPT2LMHeadModel can read 6$"):
        toy.trainer(tmp_path, policy=larger(toy, n_positions=6), **ONE_STEP)
    wide = larger(toy)
    wide.resize_token_embeddings(128)
    with pytest.raises(UserError, match="vocabularies of 128 and 63 rows: .* or start from a model with as many rows"):
        toy.trainer(tmp_path, policy=wide, **ONE_STEP)


# --- the script


def stages_of(folder):
    """Of a task of two model folders."""
    task = {
        "model": {"source": "folder", "path": str(folder / "reference")},
        "policy": {"source": "folder", "path": str(folder / "start")},
        "data": {"source": "planted", "texts": 60, "prompts": {"train": 8, "validation": 8, "test": 8}},
        "preferences": {"source": "generated", "scorer": {"kind": "vader"}},
        "methods": {"tdpo2": {"beta": "0.1"}},
        "training": {"batch_size": 8, "max_steps": 2, "frontier_every": 0, "learning_rate": 1e-3},
        "evaluation": {"scorer": {"kind": "vader"}, "token_pairs": 4, "frontier_prompts": 8},
    }
    return Stages(Config.model_validate({"name": "small", "tasks": {"t": task}}))


@pytest.fixture
def run_stage(toy, tmp_path, monkeypatch):
    """(stage, **options) -> the folder that its script writes, with the reference and 8 pairs."""
    save_model(toy.model(), toy.tokenizer, tmp_path / "reference")
    write_records(tmp_path / "pairs.jsonl", toy.pairs(8))

    def run(stage, out, **options):
        place = importlib.util.spec_from_file_location(stage, ROOT / f"workflow_scripts/{stage}.py")
        script = importlib.util.module_from_spec(place)
        place.loader.exec_module(script)
        stages = stages_of(tmp_path)
        settings = stages.settings(stage, "t", stages.runs("t")[1])
        options |= {"settings": settings, "out": tmp_path / out}
        options |= {"reference": tmp_path / "reference", "pairs": tmp_path / "pairs.jsonl"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", [f"{stage}.py", *words])
        script.main()
        return tmp_path / out

    return run


@pytest.fixture
def train(run_stage, tmp_path):
    """(start model, its tokenizer, name of the output, **options) -> the folder of the trained policy."""

    def run(start, tokenizer, out="out", **options):
        save_model(start, tokenizer, tmp_path / "start")
        options |= {"policy": tmp_path / "start", "checkpoint": tmp_path / f"{out}.checkpoint", "config": "{}"}
        return run_stage("train_policy", out, **options)

    return run


def test_the_script_trains_the_start_and_a_cached_reference_changes_nothing(toy, tmp_path, train, run_stage):
    online = train(larger(toy), toy.tokenizer)
    trained, start = load_model(online), load_model(tmp_path / "start")
    assert trained.config.n_embd == 24
    moved = [float((a - b).detach().abs().max()) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert 1e-4 < max(moved) < 0.01, "two steps of 1e-3 from the start"
    assert any("start/model.safetensors" in path for path in json.loads((online / "run.json").read_text())["inputs"])
    cache = run_stage("cache_reference", "cache", kind="states")
    from_cache = train(larger(toy), toy.tokenizer, "cached", cache=cache / "index.json")
    losses = [[row["loss"] for row in toy.rows(folder)] for folder in (online, from_cache)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 2


def test_the_script_refuses_a_start_with_another_tokenizer_or_a_shorter_context(toy, train):
    other = train_tokenizer(["w00 w01 x y z"], "word", 100)
    with pytest.raises(UserError, match="^the model of 'policy': its tokenizer differs from that of the task's model"):
        train(larger(toy), other)
    with pytest.raises(UserError, match="^the model of 'policy' reads 40 tokens at once, fewer than the 48 of the"):
        train(larger(toy, n_positions=40), toy.tokenizer)
