"""The losses against numbers worked out by hand, the identities between them, and what may never reach them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsepo.objective import losses
from sparsepo.objective.response_terms import Side, reward_mean, weighted_sum

NAN, INF = float("nan"), float("inf")
TERMS = ("logps", "ref_logps", "reverse_kl", "forward_kl", "values", "m_u", "m_d")


def example(masked=True):
    """One pair, weighted if `masked`; the rejected response has one token, and nan where its second would be.

        chosen    log pi/ref   0.5, -1.0   sum -0.5, mean -0.25     mean log pi -1.5
                  reverse KL   0.2,  0.5   sum  0.7                 forward KL 0.1, 0.3   sum 0.4
                  m_u          1.0,  0.5   sum m_u log pi/ref   0.5 - 0.5  =  0
                  m_d          0.5,  2.0   sum m_d reverse      0.1 + 1.0  =  1.1,  forward 0.05 + 0.6 = 0.65
                  values      -1.0, -1.5   sum -2.5             score 0.75
        rejected  log pi/ref  -2.5         sum -2.5, mean -2.5      mean log pi -4
                  reverse KL   0.9                                  forward KL 0.6
                  m_u          2.0         sum m_u log pi/ref  -5
                  m_d          0.5         sum m_d reverse      0.45,                  forward 0.3
                  values      -3.0         sum -3               score 0.25

    So h = 2 from sums and 2.25 from means.
    """
    rows = {
        "chosen": [[-1.0, -2.0], [-1.5, -1.0], [0.2, 0.5], [0.1, 0.3], [-1.0, -1.5], [1.0, 0.5], [0.5, 2.0]],
        "rejected": [[-4.0, NAN], [-1.5, NAN], [0.9, NAN], [0.6, NAN], [-3.0, NAN], [2.0, NAN], [0.5, NAN]],
    }
    terms = TERMS if masked else TERMS[:-2]
    score = {"chosen": 0.75, "rejected": 0.25}
    valid = {"chosen": [[True, True]], "rejected": [[True, False]]}
    return [
        Side(
            **{
                name: torch.tensor([row], dtype=torch.float64, requires_grad=True)
                for name, row in zip(terms, rows[side], strict=False)
            },
            valid=torch.tensor(valid[side]),
            score=torch.tensor([score[side]], dtype=torch.float64),
        )
        for side in ("chosen", "rejected")
    ]


def softplus(z):
    """-log sigmoid(-z)"""
    return math.log1p(math.exp(z))


def log_odds(mean):
    p = math.exp(mean)
    return math.log(p / (1 - p))


ODDS_C, ODDS_R = log_odds(-1.5), log_odds(-4.0)

# method, hyper-parameters, loss, chosen reward, rejected reward
BY_HAND = [
    ("dpo", {"beta": 0.5}, softplus(-1.0), -0.25, -1.25),
    ("cdpo", {"beta": 0.5, "label_smoothing": 0.1}, 0.9 * softplus(-1.0) + 0.1 * softplus(1.0), -0.25, -1.25),
    ("robust", {"beta": 0.5, "label_smoothing": 0.1}, softplus(-1.0) - 0.125, -0.25, -1.25),  # softplus(1) = 1 + s(-1)
    ("hinge", {"beta": 0.25}, 0.5, -0.125, -0.625),  # 1 - 0.25 * 2
    ("hinge", {"beta": 1.0}, 0.0, -0.5, -2.5),
    ("ipo", {"beta": 0.5, "reduction": "sum"}, 1.0, -0.25, -1.25),  # (2 - 1)^2
    ("ipo", {"beta": 0.5, "reduction": "mean"}, 1.5625, -0.125, -1.25),  # (2.25 - 1)^2
    ("simpo", {"beta": 0.5, "gamma": 0.3}, softplus(-0.95), -0.75, -2.0),  # 0.5 (-1.5 + 4) - 0.3
    ("dpop", {"beta": 0.5, "penalty": 5.0}, softplus(0.25), -1.5, -1.25),  # 0.5 (-0.5 - 5 * 0.5) and 0.5 (-2.5)
    ("tdpo1", {"beta": 0.5}, softplus(-0.9), -0.05, -0.95),  # 0.5 (-0.5 + 0.4) and 0.5 (-2.5 + 0.6)
    ("tdpo2", {"beta": 0.5, "alpha": 0.5}, softplus(-0.95), -0.15, -1.1),  # 0.5 (-0.5 + 0.2) and 0.5 (-2.5 + 0.3)
    ("odpo", {"beta": 0.5, "alpha": 2.0}, softplus(-1.0 + 2 * math.log(0.5)), -0.25, -1.25),  # margin of the scores 0.5
    # (3 (1 - sigmoid(-0.25 - 0.1)) + 2 (1 - sigmoid(0.1 + 1.25))) / 2
    (
        "kto",
        {"beta": 0.5, "desirable": 3.0, "undesirable": 2.0, "kl": 0.2},
        (3 / (1 + math.exp(-0.35)) + 2 / (1 + math.exp(1.35))) / 2,
        -0.25,
        -1.25,
    ),
    ("orpo", {"beta": 0.5}, 1.5 + 0.5 * softplus(ODDS_R - ODDS_C), 0.5 * ODDS_C, 0.5 * ODDS_R),
    ("sepo", {"beta": 0.5}, softplus(-1.25), -0.75, -2.0),  # simpo without a margin
    ("selective_nll", {}, 1.5, -1.5, -4.0),
    # chosen -3 + 0.25 * 2.5 + 0.75 * 2.5 = -0.5, rejected -4 + 0.25 * 1.5 + 0.75 * 3 = -1.375; (0.875 - 0.5)^2
    ("inpo", {"beta": 1.0, "ratio": 0.25}, 0.140625, -0.5, -1.375),
    ("rpo", {"beta": 0.5, "rpo_alpha": 2.0}, softplus(-1.0) + 3.0, -0.25, -1.25),  # mean log pi -1.5
    ("dpo_norm", {"beta": 0.5}, softplus(-1.125), -0.125, -1.25),
    ("ld_dpo", {"beta": 0.5, "ld_alpha": 0.25}, softplus(-1.375), 0.125, -1.25),  # 0.5 (0.5 - 0.25), 0.5 (-2.5)
    ("apo_zero", {"beta": 0.5}, 1 - 1 / (1 + math.exp(0.25)) + 1 / (1 + math.exp(1.25)), -0.25, -1.25),
    ("apo_down", {"beta": 0.5}, 1 / (1 + math.exp(0.25)) + 1 - 1 / (1 + math.exp(-1)), -0.25, -1.25),
    ("sppo", {"beta": 0.5}, 4.5, -0.25, -1.25),  # (-0.5 - 1)^2 + (-2.5 + 1)^2
    ("nca", {"beta": 0.5}, softplus(0.25) + 0.5 * softplus(-0.25) + 0.5 * softplus(-1.25), -0.25, -1.25),
    ("bco", {"beta": 0.5, "shift": -0.75}, 2 * softplus(-0.5), -0.25, -1.25),
]
# the same pair with its weights: sum m_u log pi/ref 0 and -5, weighted mean of log pi (-1 - 1) / 1.5 and -4
MASKED_BY_HAND = [
    ("dpo", {"beta": 0.5}, softplus(-2.5), 0.0, -2.5),
    ("cdpo", {"beta": 0.5, "label_smoothing": 0.1}, 0.9 * softplus(-2.5) + 0.1 * softplus(2.5), 0.0, -2.5),
    ("robust", {"beta": 0.5, "label_smoothing": 0.1}, (0.9 * softplus(-2.5) - 0.1 * softplus(2.5)) / 0.8, 0.0, -2.5),
    ("hinge", {"beta": 0.1}, 0.5, 0.0, -0.5),
    ("ipo", {"beta": 0.5, "reduction": "sum"}, 16.0, 0.0, -2.5),  # (5 - 1)^2
    ("ipo", {"beta": 0.5, "reduction": "mean"}, 2.25, 0.0, -1.25),  # (0 / 1.5 + 5 / 2 - 1)^2
    ("simpo", {"beta": 0.5, "gamma": 0.3}, softplus(-4 / 3 + 0.3), -2 / 3, -2.0),
    ("dpop", {"beta": 0.5, "penalty": 5.0}, softplus(-2.5), 0.0, -2.5),
    ("tdpo1", {"beta": 0.5}, softplus(-2.675), 0.325, -2.35),  # sparsepo, released
    ("tdpo2", {"beta": 0.5, "alpha": 0.5}, softplus(-2.5875), 0.1625, -2.425),
    ("odpo", {"beta": 0.5, "alpha": 1.0}, softplus(-2.5 + math.log(0.5)), 0.0, -2.5),
    (
        "kto",
        {"beta": 0.5, "desirable": 1.0, "undesirable": 1.0, "kl": 0.0},
        (0.5 + 1 / (1 + math.exp(2.5))) / 2,
        0.0,
        -2.5,
    ),
    ("sepo", {"beta": 0.5}, softplus(-4 / 3), -2 / 3, -2.0),
    ("selective_nll", {}, 4 / 3, -4 / 3, -4.0),
    # chosen 1 * (-1 + 0.75 + 0.5) + 0.5 * (-2 + 0.5 + 0.75) = -0.125, rejected 2 (-4 + 0.75 + 1.5) = -3.5
    ("inpo", {"beta": 0.5, "ratio": 0.5}, 2.375**2, -0.0625, -1.75),
    ("sparsepo", {"beta": 0.5, "form": "paper"}, softplus(-2.175), -0.55, -2.725),  # 0.5 (0 - 1.1), 0.5 (-5 - 0.45)
    ("sparsepo", {"beta": 0.5, "form": "released"}, softplus(-2.675), 0.325, -2.35),  # 0.5 (0.65), 0.5 (-5 + 0.3)
    ("tis_dpo", {"beta": 0.2}, softplus(-0.87), -0.22, -1.09),  # 0.2 (0 - 1.1), 0.2 (-5 - 0.45)
    ("rpo", {"beta": 0.5, "rpo_alpha": 2.0}, softplus(-2.5) + 3.0, 0.0, -2.5),
    ("dpo_norm", {"beta": 0.5}, softplus(-1.25), 0.0, -1.25),
    ("ld_dpo", {"beta": 0.5, "ld_alpha": 0.25}, softplus(-2.6875), 0.1875, -2.5),  # 0.5 (0.5 - 0.25 * 0.5)
    ("apo_zero", {"beta": 0.5}, 0.5 + 1 / (1 + math.exp(2.5)), 0.0, -2.5),
    ("apo_down", {"beta": 0.5}, 1.5 - 1 / (1 + math.exp(-2.5)), 0.0, -2.5),
    ("sppo", {"beta": 0.5}, 17.0, 0.0, -2.5),  # 1 + (-5 + 1)^2
    ("nca", {"beta": 0.5}, 1.5 * math.log(2) + 0.5 * softplus(-2.5), 0.0, -2.5),
    ("bco", {"beta": 0.5, "shift": -1.25}, 2 * softplus(-1.25), 0.0, -2.5),
]


@pytest.mark.parametrize(
    "masked, call", [(False, call) for call in BY_HAND] + [(True, call) for call in MASKED_BY_HAND]
)
def test_a_loss_is_the_number_worked_out_by_hand(masked, call):
    name, hyper, loss, chosen_reward, rejected_reward = call
    result = getattr(losses, name)(*example(masked), **hyper)
    assert result.loss.tolist() == pytest.approx([loss], rel=1e-12)
    assert result.chosen_reward.tolist() == pytest.approx([chosen_reward], rel=1e-12)
    assert result.rejected_reward.tolist() == pytest.approx([rejected_reward], rel=1e-12)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


# method, hyper-parameters, term, gradient at the chosen tokens, at the rejected token (None: not in the graph).
# For -log sigmoid(z) the gradient is -sigmoid(-z) dz.
CDPO = 0.45 * sigmoid(-1.0) - 0.05 * sigmoid(1.0)
DPO, PAPER, RELEASED = 0.5 * sigmoid(-1.0), 0.5 * sigmoid(-2.175), 0.5 * sigmoid(-2.675)
LOG_2 = math.log(2)
KTO = {"beta": 0.5, "desirable": 3.0, "undesirable": 2.0, "kl": 0.2}
KTO_C = 0.5 * 3 * 0.5 * sigmoid(-0.35) * sigmoid(0.35)  # half of w_D beta sigmoid'(r_c - z)
KTO_R = 0.5 * 2 * 0.5 * sigmoid(1.35) * sigmoid(-1.35)
ORPO = sigmoid(ODDS_R - ODDS_C)
GRADIENTS_BY_HAND = [
    ("dpo", {"beta": 0.5}, "logps", [-DPO, -DPO], DPO),
    ("dpo", {"beta": 0.5}, "forward_kl", None, None),
    ("cdpo", {"beta": 0.5, "label_smoothing": 0.1}, "logps", [-CDPO, -CDPO], CDPO),
    ("hinge", {"beta": 0.25}, "logps", [-0.25, -0.25], 0.25),
    ("hinge", {"beta": 1.0}, "logps", [0.0, 0.0], 0.0),
    ("ipo", {"beta": 0.5, "reduction": "sum"}, "logps", [2.0, 2.0], -2.0),  # 2 (h - 1)
    ("ipo", {"beta": 0.5, "reduction": "mean"}, "logps", [1.25, 1.25], -2.5),  # 2 (h - 1) / tokens
    ("simpo", {"beta": 0.5, "gamma": 0.3}, "logps", [-0.25 * sigmoid(-0.95)] * 2, 0.5 * sigmoid(-0.95)),
    ("simpo", {"beta": 0.5, "gamma": 0.3}, "ref_logps", None, None),
    # below the reference the chosen response counts 1 + penalty times
    ("dpop", {"beta": 0.5, "penalty": 5.0}, "logps", [-3 * sigmoid(0.25)] * 2, 0.5 * sigmoid(0.25)),
    ("tdpo1", {"beta": 0.5}, "forward_kl", [-0.5 * sigmoid(-0.9)] * 2, 0.5 * sigmoid(-0.9)),
    ("tdpo1", {"beta": 0.5}, "reverse_kl", None, None),
    ("tdpo2", {"beta": 0.5, "alpha": 0.5}, "forward_kl", None, 0.25 * sigmoid(-0.95)),
    ("odpo", {"beta": 0.5, "alpha": 1.0}, "logps", [-0.5 * sigmoid(-1 - LOG_2)] * 2, 0.5 * sigmoid(-1 - LOG_2)),
    ("kto", KTO, "logps", [-KTO_C, -KTO_C], KTO_R),
    # d(-l) and -beta sigmoid(o_r - o_c) do, do/dl = 1 / (1 - p), over two tokens and one
    ("orpo", {"beta": 0.5}, "logps", [-0.5 - 0.25 * ORPO / (1 - math.exp(-1.5))] * 2, 0.5 * ORPO / (1 - math.exp(-4))),
    ("sepo", {"beta": 0.5}, "logps", [-0.25 * sigmoid(-1.25)] * 2, 0.5 * sigmoid(-1.25)),
    ("selective_nll", {}, "logps", [-0.5, -0.5], None),
    ("inpo", {"beta": 1.0, "ratio": 0.25}, "logps", [0.75, 0.75], -0.75),  # 2 * 0.375
    ("sparsepo", {"beta": 0.5, "form": "paper"}, "logps", [-PAPER, -0.5 * PAPER], 2 * PAPER),  # m_u
    ("sparsepo", {"beta": 0.5, "form": "paper"}, "reverse_kl", [0.5 * PAPER, 2 * PAPER], -0.5 * PAPER),  # m_d
    ("sparsepo", {"beta": 0.5, "form": "paper"}, "forward_kl", None, None),
    ("sparsepo", {"beta": 0.5, "form": "paper"}, "m_u", [-0.5 * PAPER, PAPER], -2.5 * PAPER),  # log pi/ref
    ("sparsepo", {"beta": 0.5, "form": "paper"}, "m_d", [0.2 * PAPER, 0.5 * PAPER], -0.9 * PAPER),  # reverse KL
    ("sparsepo", {"beta": 0.5, "form": "released"}, "forward_kl", [-0.5 * RELEASED, -2 * RELEASED], 0.5 * RELEASED),
    ("sparsepo", {"beta": 0.5, "form": "released"}, "reverse_kl", None, None),
    ("sparsepo", {"beta": 0.5, "form": "released"}, "m_d", [-0.1 * RELEASED, -0.3 * RELEASED], 0.6 * RELEASED),
]


@pytest.mark.parametrize("name, hyper, term, at_chosen, at_rejected", GRADIENTS_BY_HAND)
def test_a_gradient_is_the_number_worked_out_by_hand(name, hyper, term, at_chosen, at_rejected):
    sides = example(masked=name == "sparsepo")
    getattr(losses, name)(*sides, **hyper).loss.sum().backward()
    chosen, rejected = (getattr(side, term).grad for side in sides)
    if at_chosen is None:
        assert chosen is None
    else:
        assert chosen[0].tolist() == pytest.approx(at_chosen, rel=1e-12)
    if at_rejected is None:
        assert rejected is None
    else:
        assert rejected[0].tolist() == pytest.approx([at_rejected, 0.0], rel=1e-12)


# --- identities

SYMMETRIC = {  # loss(rejected, chosen) - loss(chosen, rejected) as a function of the margin
    "dpo": ({"beta": 0.3}, lambda margin: margin),
    "cdpo": ({"beta": 0.3, "label_smoothing": 0.1}, lambda margin: 0.8 * margin),
    "robust": ({"beta": 0.3, "label_smoothing": 0.1}, lambda margin: margin / 0.8),
    "hinge": ({"beta": 0.3}, lambda margin: (1 + margin).relu() - (1 - margin).relu()),
    "ipo": ({"beta": 0.3, "reduction": "mean"}, lambda margin: 2 * margin / 0.3**2),  # 2 h / beta
    "simpo": ({"beta": 0.3, "gamma": 0.0}, lambda margin: margin),
    "tdpo1": ({"beta": 0.3}, lambda margin: margin),
    "tdpo2": ({"beta": 0.3, "alpha": 0.7}, lambda margin: margin),
    "sparsepo": ({"beta": 0.3, "form": "paper"}, lambda margin: margin),
    "tis_dpo": ({"beta": 0.3}, lambda margin: margin),
    "sepo": ({"beta": 0.3}, lambda margin: margin),
}
EVERY = {
    **{name: hyper for name, (hyper, _) in SYMMETRIC.items()},
    "dpop": {"beta": 0.3, "penalty": 2.0},
    "simpo": {"beta": 0.3, "gamma": 0.4},
    "odpo": {"beta": 0.3, "alpha": 0.0},
}
OWN = [
    ("odpo", {"beta": 0.3, "alpha": 1.0}),
    ("kto", {"beta": 0.3, "desirable": 1.0, "undesirable": 1.5, "kl": 0.1}),
    ("orpo", {"beta": 0.3}),
    ("selective_nll", {}),
    ("inpo", {"beta": 0.3, "ratio": 0.5}),
    ("dpo_norm", {"beta": 0.3}),
    ("apo_zero", {"beta": 0.3}),
    ("apo_down", {"beta": 0.3}),
    ("sppo", {"beta": 0.3}),
    ("nca", {"beta": 0.3}),
    ("bco", {"beta": 0.3, "shift": 0.2}),
]
"""Losses that are no function of the margin of their rewards alone."""
REFERENCE_FREE = {"simpo", "sepo", "orpo", "selective_nll"}
CALLS = [*EVERY.items(), ("sparsepo", {"beta": 0.3, "form": "released"}), ("ipo", {"beta": 0.3, "reduction": "sum"})]


def random_side(pairs, tokens, seed, padding=0.0):
    """Random terms and weights, responses of 1 to `tokens` tokens, `padding` wherever there is no token."""
    draw = torch.Generator().manual_seed(seed)
    valid = torch.arange(tokens) < torch.randint(1, tokens + 1, (pairs, 1), generator=draw)
    terms = {name: torch.rand(pairs, tokens, generator=draw, dtype=torch.float64) for name in TERMS}
    terms["logps"], terms["ref_logps"] = -3 * terms["logps"], -3 * terms["ref_logps"]
    score = torch.full((pairs,), -float(seed), dtype=torch.float64)
    return Side(**{n: v.where(valid, padding).requires_grad_() for n, v in terms.items()}, valid=valid, score=score)


def with_terms(side, **changes):
    return Side(**{**vars(side), **changes})


pairs_of_sides = st.builds(
    lambda pairs, tokens, seed: (random_side(pairs, tokens, seed), random_side(pairs, tokens + 1, seed + 1)),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 1000),
)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def same(first, second):
    for one, other in zip(vars(first).values(), vars(second).values(), strict=True):
        close(one, other)


@settings(max_examples=30, deadline=None)
@given(sides=pairs_of_sides)
def test_all_weights_one_in_the_released_form_is_tdpo1(sides):
    ones = [with_terms(side, m_u=torch.ones_like(side.logps), m_d=torch.ones_like(side.logps)) for side in sides]
    none = [with_terms(side, m_u=None, m_d=None) for side in sides]
    for weighted in (ones, none):
        same(losses.sparsepo(*weighted, beta=0.4, form="released"), losses.tdpo1(*none, beta=0.4))


@settings(max_examples=30, deadline=None)
@given(sides=pairs_of_sides, form=st.sampled_from(["paper", "released"]))
def test_weight_one_on_the_reward_and_zero_on_the_kl_is_dpo(sides, form):
    plain = [with_terms(side, m_u=None, m_d=torch.zeros_like(side.logps)) for side in sides]
    same(losses.sparsepo(*plain, beta=0.4, form=form), losses.dpo(*plain, beta=0.4))


@settings(max_examples=30, deadline=None)
@given(sides=pairs_of_sides)
def test_a_mask_of_ones_is_no_mask(sides):
    ones = [with_terms(side, m_u=torch.ones_like(side.logps), m_d=torch.ones_like(side.logps)) for side in sides]
    none = [with_terms(side, m_u=None, m_d=None) for side in sides]
    for name, hyper in CALLS + OWN:
        same(getattr(losses, name)(*ones, **hyper), getattr(losses, name)(*none, **hyper))


@settings(max_examples=30, deadline=None)
@given(sides=pairs_of_sides)
def test_a_masked_token_could_as_well_not_be_there(sides):
    """Weight 0 on the last token of every response that has more than one: as if it were cut off."""
    cut = [
        side.valid & (torch.arange(side.valid.shape[1]) < (side.valid.sum(-1, keepdim=True) - 1).clamp_min(1))
        for side in sides
    ]
    masked = [with_terms(side, m_u=kept.double(), m_d=kept.double()) for side, kept in zip(sides, cut, strict=True)]
    short = [with_terms(side, m_u=None, m_d=None, valid=kept) for side, kept in zip(sides, cut, strict=True)]
    for name, hyper in CALLS + OWN:
        same(getattr(losses, name)(*masked, **hyper), getattr(losses, name)(*short, **hyper))


@settings(max_examples=30, deadline=None)
@given(sides=pairs_of_sides)
def test_the_first_round_of_inpo_is_ipo(sides):
    """The previous policy is the reference, whatever the ratio."""
    first = [with_terms(side, values=side.ref_logps) for side in sides]
    same(losses.inpo(*first, beta=0.4, ratio=0.3), losses.ipo(*first, beta=0.4, reduction="sum"))


MEANS = [("simpo", {"beta": 2.0, "gamma": 0.5}), ("orpo", {"beta": 0.5}), ("sepo", {"beta": 0.5}),
         ("selective_nll", {}), ("ipo", {"beta": 0.5, "reduction": "mean"})]  # fmt: skip


@pytest.mark.parametrize("name, hyper", MEANS)
def test_a_mean_over_no_token_is_the_plain_mean(name, hyper):
    """Not 0, which would say that a response without weights is certain."""
    dead = [with_terms(side, m_u=torch.zeros_like(side.logps)) for side in example()]
    plain = [with_terms(side, m_u=None) for side in example()]
    same(getattr(losses, name)(*dead, **hyper), getattr(losses, name)(*plain, **hyper))


@pytest.mark.parametrize("last", [0, 1])
def test_a_mean_has_no_jump_as_its_last_weight_vanishes(last):
    """Half of MIN_WEIGHT is half of the way from the token's value to the mean of the three."""
    values = torch.tensor([[-4.0, -1.0, -1.0, 9.0]], dtype=torch.float64)
    valid = torch.tensor([[True, True, True, False]])

    def mean(weight):
        weights = torch.zeros_like(values)
        weights[0, last] = weight
        return float(reward_mean(values, Side(values, None, None, None, valid, m_u=weights)))

    token, plain = float(values[0, last]), -2.0
    expected = {1.0: token, 1e-3: token, 5e-4: (token + plain) / 2, 1e-9: plain, 0.0: plain}
    assert [mean(weight) for weight in expected] == pytest.approx(list(expected.values()), abs=1e-5)


def test_orpo_has_an_end_where_a_response_is_certain():
    sides = [with_terms(side, logps=torch.zeros_like(side.logps).requires_grad_()) for side in example(masked=False)]
    result = losses.orpo(*sides, beta=0.5)
    result.loss.sum().backward()
    assert result.loss.isfinite().all() and all(side.logps.grad.isfinite().all() for side in sides)


@settings(max_examples=30, deadline=None)
@given(sides=pairs_of_sides)
def test_parameters_at_zero_give_dpo(sides):
    dpo = losses.dpo(*sides, beta=0.4)
    same(losses.cdpo(*sides, beta=0.4, label_smoothing=0.0), dpo)
    same(losses.robust(*sides, beta=0.4, label_smoothing=0.0), dpo)
    same(losses.dpop(*sides, beta=0.4, penalty=0.0), dpo)
    same(losses.tdpo2(*sides, beta=0.4, alpha=0.0), dpo)


@settings(max_examples=30, deadline=None)
@given(sides=pairs_of_sides)
def test_tdpo2_with_alpha_one_has_the_value_of_tdpo1(sides):
    same(losses.tdpo2(*sides, beta=0.4, alpha=1.0), losses.tdpo1(*sides, beta=0.4))


@settings(max_examples=30, deadline=None)
@given(sides=pairs_of_sides, flipped=st.floats(0.0, 0.45))
def test_robust_dpo_is_dpo_in_expectation_over_flipped_labels(sides, flipped):
    right = losses.robust(*sides, beta=0.4, label_smoothing=flipped).loss
    wrong = losses.robust(*sides[::-1], beta=0.4, label_smoothing=flipped).loss
    close((1 - flipped) * right + flipped * wrong, losses.dpo(*sides, beta=0.4).loss)


@settings(max_examples=20, deadline=None)
@given(sides=pairs_of_sides, name=st.sampled_from(sorted(SYMMETRIC)))
def test_swapping_the_sides_flips_the_margin(sides, name):
    hyper, difference = SYMMETRIC[name]
    forth = getattr(losses, name)(*sides, **hyper)
    back = getattr(losses, name)(*sides[::-1], **hyper)
    close(back.chosen_reward, forth.rejected_reward)
    close(back.rejected_reward, forth.chosen_reward)
    margin = forth.chosen_reward - forth.rejected_reward
    close(back.loss - forth.loss, difference(margin))


@settings(max_examples=20, deadline=None)
@given(sides=pairs_of_sides)
def test_a_policy_equal_to_its_reference_has_no_reward_and_loss_log_two(sides):
    zero = [
        with_terms(s, ref_logps=s.logps, reverse_kl=torch.zeros_like(s.logps), forward_kl=torch.zeros_like(s.logps))
        for s in sides
    ]
    expected = {"hinge": 1.0, "ipo": 1 / (4 * 0.3**2)}
    for name, hyper in [call for call in CALLS if call[0] not in REFERENCE_FREE]:
        result = getattr(losses, name)(*zero, **hyper)
        close(result.loss, torch.full_like(result.loss, expected.get(name, math.log(2))))
        assert not result.chosen_reward.any() and not result.rejected_reward.any()


@settings(max_examples=20, deadline=None)
@given(sides=pairs_of_sides)
def test_the_logged_rewards_are_those_the_loss_was_computed_from(sides):
    links = {
        "hinge": lambda margin: (1 - margin).relu(),
        "ipo": lambda margin: (margin / 0.3 - 1 / 0.6) ** 2,
        "simpo": lambda margin: -torch.nn.functional.logsigmoid(margin - 0.4),
        "cdpo": lambda m: -0.9 * m.sigmoid().log() - 0.1 * (-m).sigmoid().log(),
        "robust": lambda m: (-0.9 * m.sigmoid().log() + 0.1 * (-m).sigmoid().log()) / 0.8,
    }
    for name, hyper in CALLS:
        result = getattr(losses, name)(*sides, **hyper)
        link = links.get(name, lambda margin: -torch.nn.functional.logsigmoid(margin))
        close(result.loss, link(result.chosen_reward - result.rejected_reward))


# --- what may never reach a loss


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    call=st.sampled_from(CALLS + OWN),
    padding=st.sampled_from([NAN, INF, -INF, 1e30]),
    pairs=st.integers(1, 3),
)
def test_what_lies_outside_the_responses_reaches_neither_value_nor_gradient(seed, call, padding, pairs):
    name, hyper = call
    results, sides = [], []
    for filled in (0.0, padding):
        sides.append([random_side(pairs, 5, seed, filled), random_side(pairs, 6, seed + 1, filled)])
        results.append(getattr(losses, name)(*sides[-1], **hyper))
        results[-1].loss.sum().backward()
    for clean, dirty in zip(vars(results[0]).values(), vars(results[1]).values(), strict=True):
        assert torch.equal(clean, dirty)
    for clean, dirty in zip(*sides, strict=True):
        for term in TERMS:
            expected, found = getattr(clean, term).grad, getattr(dirty, term).grad
            assert (expected is None) == (found is None)
            if found is not None:
                assert torch.equal(expected, found)
                assert not found[~dirty.valid].any()


@pytest.mark.parametrize("name, hyper", CALLS + OWN)
def test_a_pair_gets_the_same_loss_alone_and_in_a_batch(name, hyper):
    sides = random_side(4, 5, 7), random_side(4, 6, 8)
    together = getattr(losses, name)(*sides, **hyper)
    for at in range(4):
        alone = [Side(**{n: v[at : at + 1] for n, v in vars(side).items()}) for side in sides]
        result = getattr(losses, name)(*alone, **hyper)
        for value, values in zip(vars(result).values(), vars(together).values(), strict=True):
            close(value, values[at : at + 1])


@pytest.mark.parametrize("name, hyper", CALLS + OWN)
def test_margins_of_a_thousand_nats_keep_the_loss_and_its_gradient_finite(name, hyper):
    sides = example()
    for factor in (1e4, -1e4):
        big = [with_terms(side, logps=(factor * side.logps).detach().requires_grad_()) for side in sides]
        loss = getattr(losses, name)(*big, **hyper).loss
        loss.sum().backward()
        assert loss.isfinite().all()
        assert all(side.logps.grad is None or side.logps.grad.isfinite().all() for side in big)


def test_a_weighted_sum_counts_response_tokens_alone():
    values = torch.tensor([[1.0, 2.0, NAN]])
    valid = torch.tensor([[True, True, False]])
    assert weighted_sum(values, None, valid).tolist() == [3.0]
    assert weighted_sum(values, torch.tensor([[3.0, -1.0, INF]]), valid).tolist() == [1.0]


# --- refusals


@pytest.mark.parametrize("term", TERMS)
def test_a_term_of_another_shape_is_refused_by_name(term):
    side = random_side(2, 3, 0)
    with pytest.raises(ValueError, match=rf"{term} has shape \(2, 2\), valid has \(2, 3\)"):
        with_terms(side, **{term: getattr(side, term)[:, :2]})


@pytest.mark.parametrize("valid", [torch.ones(2, 3), torch.ones(6, dtype=torch.bool)])
def test_valid_must_be_a_boolean_matrix(valid):
    terms = {name: torch.zeros(valid.shape) for name in TERMS}
    with pytest.raises(ValueError, match="valid must be a boolean tensor"):
        Side(**terms, valid=valid)


@pytest.mark.parametrize("pairs", [1, 2])
def test_sides_of_different_numbers_of_pairs_are_refused(pairs):
    for name, hyper in CALLS:
        with pytest.raises((ValueError, RuntimeError)):
            getattr(losses, name)(random_side(pairs, 4, 0), random_side(3, 4, 1), **hyper)


@pytest.mark.parametrize("label_smoothing", [-0.1, 0.5, 0.7])
def test_robust_dpo_refuses_half_or_more_flipped_labels(label_smoothing):
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        losses.robust(*example(), beta=0.1, label_smoothing=label_smoothing)


@pytest.mark.parametrize("name, hyper", CALLS)
def test_hyper_parameters_are_keywords_without_defaults(name, hyper):
    with pytest.raises(TypeError):
        getattr(losses, name)(*example(), *hyper.values())
    for missing in hyper:
        with pytest.raises(TypeError, match=missing):
            getattr(losses, name)(*example(), **{key: value for key, value in hyper.items() if key != missing})
