"""One batch of preferences as a module: what reaches what, what is left alone, and what a look inside a pair tells."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo.data.collation import collate_pairs
from sparsepo.data.encoding import TokenPair
from sparsepo.methods.registry import METHODS as TABLE
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.method_masks import build_method_masks
from sparsepo.training.pair_objective import PairObjective

VOCABULARY = 23
PAIRS = [
    TokenPair([3, 4, 5], [6, 7, 8, 9], [10, 11], ([0.5, -1.0, 2.0, 0.25], [1.5, -0.5]), (1.0, 0.5)),
    TokenPair([12, 2, 5, 1, 2], [6, 3], [10, 11, 3, 4, 5], ([1.0, 3.0], [0.5, 0.25, -2.0, 1.0, 0.0]), (0.75, 0.25)),
    TokenPair([20], [1, 1, 1], [0, 2], ([-1.0, 0.5, 0.25], [2.0, 4.0]), (4.0, -1.0)),
    TokenPair([5, 6, 7, 8], [20, 21, 22, 13, 14], [19, 1, 4], ([0.5] * 5, [0.25, 1.0, 0.5]), (0.5, 0.25)),
]
METHODS = {name: row for name, row in TABLE.items() if row.trainer == "pairs"}
OF_A_STEP = {"mismatched_kl": {"kl": 0.25}, "running_reward": {"shift": 0.25}}
LEARNED = [name for name, row in METHODS.items() if row.masks.get("mask") == "layers"]
REPEATABLE = [name for name, row in METHODS.items() if row.mask({}) != "random"]


@cache
def weights(seed, architecture="gpt2", width=16):
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(architecture, **sizes, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    return config, {name: value + 0.2 * torch.randn_like(value) for name, value in made.state_dict().items()}


def model(seed, **options):
    """A tiny random model, a new one each time, in eval mode."""
    config, state = weights(seed, **options)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    made.load_state_dict(state)
    return made.eval()


def batch_of(pairs, method, pad=0):
    """What the trainer makes of pairs for this method, as one step."""
    loss_kwargs = OF_A_STEP.get(METHODS[method].statistic, {})
    return replace(collate_pairs(pairs, pad), loss_kwargs=loss_kwargs)


def objective(method, policy_seed=0, **given):
    """policy, reference and calibrated masks of a method."""
    torch.manual_seed(0)
    reference = model(1)
    hyper, _ = METHODS[method].split_parameters(given)
    masks = build_method_masks(method, reference, given)
    made = PairObjective(model(policy_seed), reference, method, hyper, masks.double() if masks else None)
    made.calibrate([collate_pairs(PAIRS, 0)])
    return made


# --- PairObjective


@pytest.mark.parametrize("method", METHODS)
def test_the_policy_and_the_masks_are_trained_and_the_reference_is_not(method):
    made = objective(method, l1_u=0.01) if method in LEARNED else objective(method)
    made(batch_of(PAIRS, method)).loss.mean().backward()
    trained = {name.split(".")[0] for name, parameter in made.named_parameters() if parameter.grad is not None}
    assert trained == ({"policy", "masks"} if method in LEARNED else {"policy"})
    assert all(p.grad.isfinite().all() for p in made.parameters())
    assert all(p.grad is None for p in made.reference.parameters())


@pytest.mark.parametrize("method", ["dpo", "sparsepo_independent"])
def test_the_reference_is_not_saved_with_the_rest(method):
    made = objective(method)
    policy = sum(p.numel() for p in made.policy.state_dict().values())
    masks = sum(p.numel() for p in made.masks.state_dict().values()) if made.masks else 0
    assert sum(p.numel() for p in made.state_dict().values()) == policy + masks


@pytest.mark.parametrize("mask", ["layers", "activations"])
@pytest.mark.parametrize("method", ["simpo", "orpo"])
def test_masks_read_the_reference_also_where_neither_the_loss_nor_the_log_does(method, mask):
    losses = []
    for kl in (("reverse",), ()):
        policy, reference, given = model(0), model(1), {"mask": mask}
        torch.manual_seed(0)
        masks = build_method_masks(method, reference, given).double()
        loss_kwargs, _ = METHODS[method].split_parameters(given)
        made = PairObjective(policy, reference, method, loss_kwargs, masks, kl=kl)
        made.calibrate([collate_pairs(PAIRS, 0)])
        losses.append(made(collate_pairs(PAIRS, 0)).loss)
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].needs_reference])
def test_rewards_are_zero_before_the_first_step(method):
    output = objective(method, policy_seed=1)(batch_of(PAIRS, method))
    assert not output.pair.chosen_reward.any() and not output.pair.rejected_reward.any()


@pytest.mark.parametrize("method", REPEATABLE)
def test_the_pad_token_changes_nothing(method):
    """Not even where it is a token that the pairs use."""
    made = objective(method)
    results = []
    for pad in (0, 1, 20):
        made.zero_grad()
        output = made(batch_of(PAIRS, method, pad))
        output.loss.mean().backward()
        results.append([output.loss.detach(), *(p.grad.clone() for p in made.parameters() if p.grad is not None)])
    for other in results[1:]:
        for mine, theirs in zip(other, results[0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", REPEATABLE)
def test_the_gradient_of_a_batch_is_the_mean_over_its_pairs(method):
    """So that accumulated micro-batches of one size equal the whole batch."""
    made = objective(method)
    made(batch_of(PAIRS, method)).loss.mean().backward()
    together = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    for pair in PAIRS:
        (made(batch_of([pair], method)).loss.sum() / len(PAIRS)).backward()
    for name, gradient in together.items():
        torch.testing.assert_close(made.get_parameter(name).grad, gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", ["mapo", "sparsepo_independent"])
def test_what_is_optimised_is_the_loss_plus_the_penalty_of_both_responses(method):
    l1 = {"l1_u": 0.3, "l1_d": 0.7} if method in LEARNED else {}
    made = objective(method, **l1)
    output = made(collate_pairs(PAIRS, 0))
    norms = {
        name: sum(getattr(side, name).abs().where(side.valid, 0.0).sum(-1) for side in (output.chosen, output.rejected))
        for name in ("m_u", "m_d")
    }
    penalty = l1.get("l1_u", 0) * norms["m_u"] + l1.get("l1_d", 0) * norms["m_d"]
    torch.testing.assert_close(output.penalty, penalty)
    torch.testing.assert_close(output.loss, output.pair.loss + penalty)


def test_a_reference_of_another_architecture_and_width_will_do_with_the_same_vocabulary():
    policy, reference = model(0), model(1, architecture="gpt_neox", width=32)
    for record in inspect_pairs(policy, reference, PAIRS, "sparsepo_common"):
        assert len(record["chosen"]["m_u"]) == len(record["chosen"]["logps"])
        assert min(record["chosen"]["reverse_kl"]) > 0


# --- what a token's numbers depend on


@pytest.mark.parametrize("method", ["mapo", "sparsepo_independent"])
def test_weights_and_kl_of_a_token_depend_on_what_came_before_it_alone(method):
    """Another last token, which no state has seen: its log-probs change and nothing else."""
    made = objective(method)
    first, other = PAIRS[0], TokenPair(PAIRS[0].prompt, [*PAIRS[0].chosen[:-1], 15], PAIRS[0].rejected)
    before, after = (
        inspect_pairs(made.policy, made.reference, [pair], method, {}, made.masks)[0]["chosen"]
        for pair in (first, other)
    )
    for name in ("m_u", "m_d", "reverse_kl", "forward_kl"):
        assert before[name] == pytest.approx(after[name], rel=1e-9, abs=1e-12)
    assert before["logps"][:-1] == pytest.approx(after["logps"][:-1], rel=1e-9)
    assert before["logps"][-1] != pytest.approx(after["logps"][-1], rel=1e-3)
    assert before["ref_logps"][-1] != pytest.approx(after["ref_logps"][-1], rel=1e-3)


def test_the_chosen_response_does_not_see_the_rejected_one():
    other = [TokenPair(pair.prompt, pair.chosen, [14, 15, 16, 17, 18, 19]) for pair in PAIRS]
    made = objective("sparsepo_common")
    before, after = (
        inspect_pairs(made.policy, made.reference, pairs, "sparsepo_common", {}, made.masks) for pairs in (PAIRS, other)
    )
    for mine, theirs in zip(before, after, strict=True):
        assert mine["reward_chosen"] == pytest.approx(theirs["reward_chosen"], rel=1e-9)
        assert mine["chosen"]["m_u"] == pytest.approx(theirs["chosen"]["m_u"], rel=1e-9, abs=1e-12)


# --- inspect_pairs


def test_pairs_may_be_mappings_of_any_sequences():
    as_mappings = [vars(p) | {"prompt": tuple(p.prompt), "chosen": torch.tensor(p.chosen)} for p in PAIRS]
    policy, reference = model(0), model(1)
    assert inspect_pairs(policy, reference, as_mappings, "dpo") == inspect_pairs(policy, reference, PAIRS, "dpo")


def test_no_pairs_give_no_records():
    assert inspect_pairs(model(0), model(1), [], "sparsepo_common") == []


@pytest.mark.parametrize("method", METHODS)
def test_a_record_tells_each_response_token_once(method):
    pairs = [replace(pair, values=tuple([abs(value) for value in side] for side in pair.values)) for pair in PAIRS]
    records = inspect_pairs(model(0), model(1), pairs, method, batch_size=3)
    terms = {"logps", "ref_logps", "ref_entropy", "reverse_kl", "forward_kl", "values"} | (
        {"m_u", "m_d"} if METHODS[method].mask({}) != "none" else set()
    )
    assert len(records) == len(PAIRS)
    for record, pair in zip(records, PAIRS, strict=True):
        assert set(record) == {"loss", "penalty", "reward_chosen", "reward_rejected", "chosen", "rejected"}
        for side in ("chosen", "rejected"):
            assert {name: len(values) for name, values in record[side].items()} == dict.fromkeys(
                terms, len(getattr(pair, side))
            )


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_the_entropy_of_the_reference_is_that_of_the_distribution_that_predicts_the_token(layout):
    """By torch, of one unpadded sequence at a time; entropy weights are the same numbers."""
    policy, reference = model(0), model(1)
    records = inspect_pairs(policy, reference, PAIRS, "sparsepo_entropy", batch_size=3, layout=layout)
    for record, pair in zip(records, PAIRS, strict=True):
        for side in ("chosen", "rejected"):
            response = getattr(pair, side)
            with torch.no_grad():
                logits = reference(torch.tensor([pair.prompt + response])).logits[0]
            start = len(pair.prompt) - 1
            distributions = torch.distributions.Categorical(logits=logits[start : start + len(response)])
            expected = pytest.approx(distributions.entropy().tolist(), rel=1e-9)
            assert record[side]["ref_entropy"] == expected
            assert record[side]["m_u"] == record[side]["m_d"] == expected


def test_hyper_parameters_go_to_the_loss_and_to_masks_built_here():
    policy, reference = model(0), model(1)
    given = {"beta": 0.7, "form": "released", "mask": "uniform"}
    sparse = inspect_pairs(policy, reference, PAIRS, "sparsepo_common", given)
    tdpo1 = inspect_pairs(policy, reference, PAIRS, "tdpo1", {"beta": 0.7})
    assert [record["loss"] for record in sparse] == pytest.approx([record["loss"] for record in tdpo1], rel=1e-9)


def test_given_masks_are_used_as_they_are():
    reference = model(1)
    masks = build_method_masks("sparsepo_common", reference, {}).double()
    before = {name: value.clone() for name, value in masks.state_dict().items()}
    first = inspect_pairs(model(0), reference, PAIRS, "sparsepo_common", {}, masks)
    assert first == inspect_pairs(model(0), reference, PAIRS, "sparsepo_common", {}, masks)
    assert all(torch.equal(before[name], value) for name, value in masks.state_dict().items())


@pytest.mark.parametrize("batch_size", [8, 2])
def test_masks_built_here_are_calibrated_on_the_pairs_given(batch_size):
    torch.manual_seed(0)
    records = inspect_pairs(model(0), model(1), PAIRS, "sparsepo_common", batch_size=batch_size)
    found = [weight for record in records for side in ("chosen", "rejected") for weight in record[side]["m_u"]]
    assert sum(found) / len(found) == pytest.approx(1.0, abs=1e-4)
    assert 0.5 - 1e-5 <= min(found) and max(found) <= 1.5 + 1e-5


def test_a_pair_of_one_token_responses_does_not_blow_up_the_weights_of_the_next():
    """Both its tokens come from the same state, so there is no deviation to standardise by."""
    torch.manual_seed(0)
    pairs = [TokenPair([3, 4], [5], [6]), PAIRS[0]]
    record = inspect_pairs(model(0), model(1), pairs, "sparsepo_common", batch_size=1)[1]
    assert max(record["chosen"]["m_u"]) < 1e3


@pytest.mark.parametrize("training", [True, False])
def test_the_models_are_left_as_they_were(training):
    policy, reference = model(0).train(training), model(1).train(training)
    inspect_pairs(policy, reference, PAIRS, "mapo")
    for one in (policy, reference):
        assert one.training == training
        assert all(p.requires_grad and p.grad is None for p in one.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in one.modules())


@pytest.mark.parametrize(
    "pair, message",
    [
        ({"prompt": [1], "chosen": [2]}, "'rejected' is missing"),
        ({"prompt": [1], "chosen": [2], "rejected": []}, "at least one token each"),
        ({"prompt": [], "chosen": [2], "rejected": [3]}, "at least one token each"),
        (TokenPair([1], [], [3]), "at least one token each"),
    ],
)
def test_a_pair_that_cannot_be_scored_is_a_users_mistake(pair, message):
    with pytest.raises(UserError, match=message):
        inspect_pairs(model(0), model(1), [pair], "dpo")


@pytest.mark.parametrize(
    "method, hyper, message",
    [
        ("dppo", {}, "method 'dppo' is unknown; .*did you mean 'dpo'"),
        ("dpo", {"head": "last"}, "method 'dpo' has no parameter 'head'"),
        (
            "dpo",
            {"activation_sites": ("mlp",)},
            "'activation_sites' of 'dpo' is not read where mask is 'none', but with activations",
        ),
        ("dpo", {"beta": 0}, "parameter 'beta' of 'dpo' must be greater than 0, not 0"),
    ],
)
def test_what_no_method_can_take_is_a_users_mistake(method, hyper, message):
    with pytest.raises(UserError, match=message):
        inspect_pairs(model(0), model(1), PAIRS, method, hyper)
