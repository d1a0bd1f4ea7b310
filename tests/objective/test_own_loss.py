"""What is refused of losses and masks of the user, and that nothing built in is."""

import pytest
import torch
import torch.nn.functional as F

from sparsepo.methods.registry import METHODS
from sparsepo.objective import losses
from sparsepo.objective.mask_builder import Masks
from sparsepo.objective.masks import MaskHead, MaskInputs
from sparsepo.objective.own_loss import check_loss
from sparsepo.objective.response_terms import PairLoss, reward_mean, reward_sum
from sparsepo.runtime.errors import UserError

BUILT_IN = [
    name for name, row in METHODS.items() if row.loss and row.trainer == "pairs" and not (row.statistic or row.rounds)
]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_losses_pass_as_losses_of_the_user_would(name):
    row = METHODS[name]
    needs = {"needs_reference": row.needs_reference, "needs_scores": row.needs_scores, "needs_values": row.needs_values}
    (kl,) = row.kl_directions(row.hyper) or (None,)
    has_weights = len(row.mask_choices) > 0
    check_loss(name, getattr(losses, row.loss), row.hyper, has_weights=has_weights, kl=kl, **needs)


def margins(chosen, rejected, total=lambda side: reward_sum(side.logratio, side)):
    return total(chosen), total(rejected)


def with_rewards(function, total=lambda side: reward_sum(side.logratio, side)):
    def loss(chosen, rejected):
        c, r = margins(chosen, rejected, total)
        return PairLoss(function(c - r), c, r)

    return loss


REFUSED = {
    "their mean": (with_rewards(lambda h: -F.logsigmoid(h).mean()), r"has shape \(\) and its rewards \(8,\)"),
    "token losses": (with_rewards(lambda h: h[:, None].expand(-1, 3)), r"has shape \(8, 3\)"),
    "a tensor": (lambda chosen, rejected: chosen.logps.sum(-1), "returns a Tensor: return PairLoss"),
    "no gradient": (with_rewards(lambda h: -F.logsigmoid(h.detach())), "leave detach"),
    "nan": (with_rewards(lambda h: torch.log(h - 1e9)), "is nan for log-probs between -1 and 0"),
    "padding": (with_rewards(F.softplus, lambda side: side.logratio.mean(-1)), "length of other responses"),
    "the batch": (with_rewards(lambda h: -F.logsigmoid(h - h.mean().detach())), "name a `statistic`"),
    "no mask": (with_rewards(F.softplus, lambda side: side.logratio.sum(-1)), "weights of a mask"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_loss_that_trains_something_else_is_refused(case):
    loss, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence):
        check_loss("mine", loss, {}, has_weights=True)


def test_a_good_loss_passes_and_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_loss("sums", with_rewards(lambda h: (h - 0.5) ** 2), {}, has_weights=True)
    check_loss("means", with_rewards(F.softplus, lambda side: reward_mean(side.logps, side)), {}, has_weights=True)
    check_loss("plain", with_rewards(F.softplus, lambda side: side.logratio.sum(-1)), {}, has_weights=False)
    check_loss("kl", with_rewards(F.softplus, lambda side: side.reverse_kl.sum(-1) + side.logps.sum(-1)), {},
               has_weights=False, kl="reverse", needs_reference=False)  # fmt: skip
    assert torch.equal(torch.rand(2), expected)


VALID = torch.tensor([[True, True], [True, False]])


def head(function, **attributes):
    return type("Head", (MaskHead,), {"forward": lambda self, inputs: function(inputs), **attributes})()


def weights(own):
    return Masks({"common": own}, l1_u=0.0, l1_d=0.0)(MaskInputs(VALID, torch.tensor([[3, 1], [2, 0]])))[0]


def test_a_mask_of_the_user_reads_the_tokens_and_may_be_boolean():
    table = torch.tensor([9.0, 0.5, 0.0, 2.0])
    assert weights(head(lambda inputs: table[inputs.token_ids])).tolist() == [[2.0, 0.5], [0.0, 9.0]]
    assert weights(head(lambda inputs: inputs.token_ids > 1)).tolist() == [[1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    "function, sentence",
    [
        (lambda inputs: torch.ones(2), r"mask Head: forward returned \(2,\); a tensor of the shape .* \(2, 2\)"),
        (lambda inputs: None, "mask Head: forward returned NoneType"),
        (lambda inputs: torch.tensor([[1.0, torch.nan], [1.0, 1.0]]), "a weight that is not finite"),
        (lambda inputs: torch.tensor([[1.0, -2.0], [1.0, 1.0]]), "a weight of -2; write can_be_negative = True"),
    ],
)
def test_weights_that_are_none_are_refused(function, sentence):
    with pytest.raises(UserError, match=sentence):
        weights(head(function))


def test_cells_without_a_token_may_hold_anything_and_negative_weights_can_be_meant():
    assert weights(head(lambda inputs: torch.tensor([[1.0, 2.0], [1.0, -torch.inf]]))).shape == (2, 2)
    assert weights(head(lambda inputs: -torch.ones(2, 2), can_be_negative=True)).tolist() == [[-1.0] * 2] * 2
