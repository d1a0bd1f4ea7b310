"""Compiled blocks: another way to the same run."""

import pytest
import torch

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.records import Prompt
from sparsepo.generation.generate import sample

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # the compiler warns of its own parts
]


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    yield
    torch.compiler.reset()


WAYS = {
    "checkpointing": ("gpt2", {"gradient_checkpointing": True}),
    "validated": ("gpt_neox", {"validate_every": 2, "micro_batch_tokens": 60, "gradients": "recompute"}),
    "adapter": ("llama", {"adapter": {"rank": 4}}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_with_compiled_blocks_is_the_run_without(toy, tmp_path, way):
    architecture, given = WAYS[way]
    found = {}
    for on in (False, True):
        policy = toy.model(architecture)
        if "adapter" in given:
            from sparsepo.models.adapters import clone_sharing_weights

            reference = clone_sharing_weights(policy)
        else:
            reference = toy.model(architecture)
        held_out = {"validation": toy.pairs(8, seed=5)} if "validate_every" in given else {}
        made = toy.trainer(
            tmp_path / str(on),
            "sparsepo_independent",
            policy=policy,
            reference=reference,
            max_steps=5,
            mask_learning_rate=1e-5,  # at first their gradient is noise, which Adam scales to whole steps
            compile=on,
            **given,
            **held_out,
        )
        made.train()
        found[on] = [{**row, "reward_accuracy": 0.0} for row in toy.rows(tmp_path / str(on))]  # of ties at first
    assert found[True][-1] != found[False][-1], "the same to the last bit: nothing was compiled"
    for one, other in zip(found[True], found[False], strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_sampling_in_between_compiles_nothing_and_a_saved_policy_is_a_plain_one(toy, tmp_path):
    compiled = []

    def measure(policy):
        before = torch._dynamo.utils.counters["frames"]["total"]
        made = sample(policy, toy.tokenizer, [Prompt("w01 w02")], SamplingConfig(max_new_tokens=5, samples=2))
        compiled.append(torch._dynamo.utils.counters["frames"]["total"] - before)
        return {"words": float(len(made))}

    made = toy.trainer(
        tmp_path / "run", "sparsepo_common", max_steps=4, compile=True, measure=measure, frontier_every=2
    )
    made.train()
    assert compiled and not any(compiled)
    made.save(tmp_path / "saved")
    state = toy.weights(toy.model())
    assert made.policy.state_dict().keys() == state.keys()
