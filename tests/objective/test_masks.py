"""Mask heads: values by hand, a start that is alive, and what may never reach a weight."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from sparsepo.methods.registry import METHODS
from sparsepo.objective.fixed_masks import ActivationHead, EntropyHead, RandomHead, UniformHead
from sparsepo.objective.learned_masks import LastHead, LayerHead, LayerStates
from sparsepo.objective.mask_builder import Masks, build_masks
from sparsepo.objective.masks import MaskHead, MaskInputs

NAN = float("nan")
LEARNED = ["layers", "last", "feed_forward_layers", "feed_forward_last", "binary_layers", "binary_last"]
LAYERS, WIDTH = 3, 8


def set_(parameter, values):
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


def states_of(*states):
    """Hidden states, one (s, t, d) nested list a layer, all of response tokens."""
    tensors = [torch.tensor(state) for state in states]
    return SimpleNamespace(valid=torch.ones(tensors[0].shape[:2], dtype=torch.bool), states=tensors)


def projections(head, states):
    """(s, t, p): what a head computes from the states of each layer that it reads."""
    parts = [head.project(layer, LayerStates(state)) for layer, state in enumerate(states)]
    return torch.cat([part for part in parts if part is not None], -1)


def weights_of(head, batch):
    return head(projections(head, batch.states))


def initialize(head, batch):
    head.center_on_one(projections(head, batch.states)[batch.valid].detach())


def inputs_of(masks, batch):
    """What a run gives to learned masks."""
    parts = {name: projections(head, batch.states) for name, head in masks.heads.items()}
    return MaskInputs(batch.valid, projections=parts)


def method_masks(num_layers, width, *, share="common", **given):
    """Masks with the defaults of the table."""
    method = "mapo" if given.get("mask") == "activations" else "sparsepo_common"
    _, parameters = METHODS[method].split_parameters(given)
    return build_masks(num_layers, width, **parameters | {"share": share})


# --- learned heads by hand


def layer_head(binary=False):
    r"""Two layers of width 2; a LayerNorm of (a, b) is (1, -1) if a > b, (-1, 1) if a < b.

    w_1 = (2, 0), b_1 = 1 gives 3 or -1; w_2 = (0, 1), b_2 = 0.5 gives -0.5 or 1.5; merged with (1, -1).
    """
    head = LayerHead(2, 2, binary=binary)
    set_(head.layer[0].weight, [[2.0, 0.0]])
    set_(head.layer[0].bias, [1.0])
    set_(head.layer[1].weight, [[0.0, 1.0]])
    set_(head.layer[1].bias, [0.5])
    set_(head.merge.weight, [[1.0, -1.0]])
    return head


HIGH, LOW = [100.0, 0.0], [0.0, 100.0]  # far enough apart that the epsilon of a LayerNorm does not count
HAND = states_of([[HIGH, HIGH, LOW, LOW]], [[HIGH, LOW, HIGH, LOW]])


def test_a_layer_head_is_the_number_worked_out_by_hand():
    """ReLU(ReLU(3) - ReLU(-0.5)) = 3, ReLU(3 - 1.5) = 1.5, ReLU(ReLU(-1) - ReLU(-0.5)) = 0, ReLU(0 - 1.5) = 0."""
    assert weights_of(layer_head(), HAND)[0].tolist() == pytest.approx([3.0, 1.5, 0.0, 0.0], abs=1e-5)
    assert weights_of(layer_head(binary=True), HAND).tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_a_binary_head_has_the_gradient_of_the_head_without_its_relus():
    """Of c_1 p_1 + c_2 p_2, p_1 = 3, 3, -1, -1 and p_2 = -0.5, 1.5, -0.5, 1.5, over tokens that count 1, 2, 3, 4."""
    head = layer_head(binary=True)
    (weights_of(head, HAND) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    expected = [3 * 1 + 3 * 2 - 1 * 3 - 1 * 4, -0.5 * 1 + 1.5 * 2 - 0.5 * 3 + 1.5 * 4]
    assert head.merge.weight.grad[0].tolist() == pytest.approx(expected, abs=1e-4)
    assert head.layer[0].bias.grad.tolist() == pytest.approx([1.0 + 2.0 + 3.0 + 4.0])


@pytest.mark.parametrize("head", ["binary_layers", "binary_last"])
def test_a_binary_head_whose_weights_are_all_0_comes_back(head):
    dead, batch = built(head, 0), random_states(0)
    initialize(dead, batch)
    with torch.no_grad():
        for linear in dead.outputs():
            linear.bias.sub_(3.0)
    assert not weights_of(dead, batch)[batch.valid].any()
    optimizer = torch.optim.SGD(dead.parameters(), 0.01)
    for _ in range(200):
        (-weights_of(dead, batch)[batch.valid].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert weights_of(dead, batch)[batch.valid].all()


def test_the_layers_share_one_norm_with_learned_gain_and_shift():
    """Gain 2 and shift 1 make (3, -1) or (-1, 3): layer 1 gives 7 or -1, layer 2 gives -0.5 or 3.5."""
    head = layer_head()
    set_(head.norm.weight, [2.0, 2.0])
    set_(head.norm.bias, [1.0, 1.0])
    assert weights_of(head, HAND)[0].tolist() == pytest.approx([7.0, 3.5, 0.0, 0.0], abs=1e-4)


def test_the_scale_of_the_states_does_not_reach_a_layer_head():
    larger = states_of(*[(50 * state).tolist() for state in HAND.states])
    torch.testing.assert_close(weights_of(layer_head(), larger), weights_of(layer_head(), HAND), atol=1e-5, rtol=0)


@pytest.mark.parametrize("binary, expected", [(False, [[5.0, 0.5, 0.0]]), (True, [[1.0, 1.0, 0.0]])])
def test_a_last_head_is_the_number_worked_out_by_hand(binary, expected):
    """w = (1, -2), b = 0.5 on the last layer alone: 1.5 + 3 + 0.5, 2 - 2 + 0.5, -1 - 2 + 0.5."""
    head = LastHead(2, 2, binary=binary)
    set_(head.layer.weight, [[1.0, -2.0]])
    set_(head.layer.bias, [0.5])
    batch = states_of([[[NAN, NAN]] * 3], [[[1.5, -1.5], [2.0, 1.0], [-1.0, 1.0]]])
    assert weights_of(head, batch).tolist() == expected


def test_a_feed_forward_head_is_two_maps_with_no_nonlinearity_between():
    """Inner (x, -y, x + y) of (1, -3) is (1, 3, -2), then 1 - 3 * 3 - 2 * -2 + 5 = 1, with no ReLU on the -2."""
    head = LastHead(1, 2, inner=3)
    set_(head.layer[0].weight, [[1.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    set_(head.layer[0].bias, [0.0, 0.0, 0.0])
    set_(head.layer[1].weight, [[1.0, -3.0, -2.0]])
    set_(head.layer[1].bias, [5.0])
    assert weights_of(head, states_of([[[1.0, -3.0]]])).tolist() == [[1.0]]


# --- calibration


def random_states(seed, sequences=12, tokens=20, scale=1.0, padding=1e4):
    """States with a common offset, so that an uncalibrated head would be one-sided; responses of 1 to 20 tokens.

    States outside the responses are `padding`.
    """
    draw = torch.Generator().manual_seed(seed)
    valid = torch.arange(tokens) < torch.randint(1, tokens + 1, (sequences, 1), generator=draw)
    offset = 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    states = [scale * (offset + torch.randn(sequences, tokens, WIDTH, generator=draw)) for _ in range(LAYERS)]
    return SimpleNamespace(valid=valid, states=[state.where(valid[..., None], padding) for state in states])


def built(head, seed):
    torch.manual_seed(seed)
    return method_masks(LAYERS, WIDTH, mask=head).heads["common"]


@pytest.mark.parametrize("head", LEARNED)
def test_a_head_starts_with_every_weight_near_one(head):
    """Of the tokens that it is started on: mean 1, none further away than 1/2."""
    for seed in range(20):
        made, batch = built(head, seed), random_states(seed)
        initialize(made, batch)
        weights = weights_of(made, batch)[batch.valid].detach()
        assert float(weights.mean()) == pytest.approx(1.0, abs=1e-5)
        assert 0.5 - 1e-5 <= float(weights.min()) and float(weights.max()) <= 1.5 + 1e-5
        assert head.startswith("binary") or float(weights.max() - weights.min()) > 0.2


@pytest.mark.parametrize("head", LEARNED)
def test_a_new_head_has_a_gradient_on_every_token_also_of_an_unseen_batch(head):
    for seed in range(20):
        made = built(head, seed)
        initialize(made, random_states(seed))
        unseen = random_states(1000 + seed)
        projected = projections(made, unseen.states).detach().requires_grad_()
        made(projected)[unseen.valid].sum().backward()
        assert (projected.grad[unseen.valid] != 0).all()


@torch.no_grad()
def test_a_head_drawn_as_published_has_small_weights_and_no_bias():
    """Standard deviation of 2000 draws from N(0, 0.02), and of many heads of 2 layers one in four without a weight."""
    masks = [build_masks(2, 500, mask="layers", share="common", init="authors") for _ in range(200)]
    torch.manual_seed(0)
    for made in masks:
        made.calibrate([])
    head = masks[0].heads["common"]
    drawn = torch.cat([made.heads["common"].layer[0].weight.flatten() for made in masks])
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.02) and abs(float(drawn.mean())) < 1e-3
    assert head.layer[0].bias.item() == 0.0 and head.norm.weight.eq(1).all()
    dead = sum(bool((made.heads["common"].merge.weight <= 0).all()) for made in masks)
    assert 0.15 < dead / len(masks) < 0.35


@pytest.mark.parametrize("head", ["layers", "last"])
def test_calibration_copes_with_states_of_any_scale(head):
    for scale in (1e-3, 1e3):
        made, batch = built(head, 0), random_states(0, scale=scale)
        initialize(made, batch)
        weights = weights_of(made, batch)[batch.valid].detach()
        assert float(weights.mean()) == pytest.approx(1.0, abs=1e-3)
        assert float(weights.std()) > 0.05


@pytest.mark.parametrize("head", LEARNED)
def test_calibration_of_a_single_token_or_of_equal_ones_leaves_a_finite_head(head):
    for seed, batch in enumerate(
        [states_of(*[[[[1.0] * WIDTH]]] * LAYERS), states_of(*[[[[0.5] * WIDTH] * 5]] * LAYERS)]
    ):
        made = built(head, seed)
        initialize(made, batch)
        assert weights_of(made, batch).isfinite().all()
        assert all(parameter.isfinite().all() for parameter in made.parameters())


@pytest.mark.parametrize("head", LEARNED)
def test_calibration_leaves_no_trace_in_the_graph(head):
    made, batch = built(head, 0), random_states(0)
    initialize(made, batch)
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in made.parameters())


def test_both_heads_of_independent_masks_are_calibrated():
    torch.manual_seed(0)
    masks, batch = method_masks(LAYERS, WIDTH, share="independent"), random_states(3)
    masks.calibrate([inputs_of(masks, batch)])
    m_u, m_d = (weights[batch.valid].detach() for weights in masks(inputs_of(masks, batch)))
    assert not torch.equal(m_u, m_d)
    for weights in (m_u, m_d):
        assert float(weights.mean()) == pytest.approx(1.0, abs=1e-4)


def test_calibration_does_not_depend_on_how_tokens_are_cut_into_batches():
    masks = []
    for cut in ([slice(None)], [slice(0, 1), slice(1, None)]):
        torch.manual_seed(0)
        made, whole = method_masks(LAYERS, WIDTH, share="independent"), random_states(3)
        parts = [SimpleNamespace(valid=whole.valid[at], states=[state[at] for state in whole.states]) for at in cut]
        made.calibrate(inputs_of(made, part) for part in parts)
        masks.append(made(inputs_of(made, whole)))
    for one, other in zip(*masks, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("padding", [1e4, NAN])
@pytest.mark.parametrize("head", LEARNED)
def test_padding_reaches_neither_calibration_nor_the_weight_of_a_response_token(head, padding):
    weights = []
    for fill in (0.0, padding):
        made, batch = built(head, 0), random_states(5, padding=fill)
        initialize(made, batch)
        weights.append(weights_of(made, batch)[batch.valid])
    assert torch.equal(*weights)


@pytest.mark.parametrize("head", LEARNED)
def test_padding_reaches_no_gradient_of_a_learned_head(head):
    grads = []
    for fill in (0.0, 1e4):
        made, batch = built(head, 0), random_states(5, padding=fill)
        weights_of(made, batch).where(batch.valid, 0.0).sum().backward()
        grads.append([parameter.grad for parameter in made.parameters()])
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


# --- activation heads


def activation_inputs(*modules, valid=None):
    values = [torch.tensor(module) for module in modules]
    valid = torch.ones(values[0].shape, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return MaskInputs(valid=valid, activations={"mlp": values})


def test_weights_in_the_authors_reading_are_the_numbers_worked_out_by_hand():
    """(2, 4, 6) is rescaled to (0, 0.5, 1), (3, 1, 2) to (1, 0, 0.5); their mean follows."""
    inputs = activation_inputs([[2.0, 4.0, 6.0]], [[3.0, 1.0, 2.0]])
    assert ActivationHead("authors")(inputs).tolist() == [[0.5, 0.25, 0.75]]


def test_weights_in_the_papers_reading_are_the_numbers_worked_out_by_hand():
    """(2, 4, 6): mean 4, unbiased deviation 2; (9, 9, 9) has no deviation and counts as 0."""
    assert ActivationHead("paper")(activation_inputs([[2.0, 4.0, 6.0]])).tolist() == [[-1.0, 0.0, 1.0]]
    both = activation_inputs([[2.0, 4.0, 6.0]], [[9.0, 9.0, 9.0]])
    assert ActivationHead("paper")(both).tolist() == [[-0.5, 0.0, 0.5]]


def test_weights_in_the_papers_reading_sum_to_0_over_a_response_and_are_told_as_negative():
    torch.manual_seed(0)
    inputs = MaskInputs(torch.ones(5, 9, dtype=torch.bool), activations={"mlp": list(torch.randn(4, 5, 9).double())})
    assert ActivationHead("paper")(inputs).sum(-1).abs().max() < 1e-12
    assert ActivationHead("authors")(inputs).min() >= 0
    assert ActivationHead("paper").can_be_negative and not ActivationHead("authors").can_be_negative


def test_sites_count_equally_for_the_authors_and_activations_in_the_paper():
    """Three activations say (0, 1), one of another site says (1, 0)."""
    up, down = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])
    inputs = MaskInputs(valid=torch.tensor([[True, True]]), activations={"mlp": [up, up, up], "residual": [down]})
    assert ActivationHead("authors")(inputs).tolist() == [[0.5, 0.5]]
    torch.testing.assert_close(ActivationHead("paper")(inputs), torch.tensor([[-1.0, 1.0]]) / 2**0.5 / 2)


@pytest.mark.parametrize("reading, lonely", [("authors", 1.0), ("paper", 0.0)])
def test_a_response_with_nothing_to_compare_gets_a_defined_weight(reading, lonely):
    """One token, or the same activation at all tokens."""
    inputs = activation_inputs([[5.0, NAN, NAN], [7.0, 7.0, 7.0]], valid=[[True, False, False], [True, True, True]])
    weights = ActivationHead(reading)(inputs)
    assert weights[0, 0] == lonely
    assert weights[1].tolist() == [lonely] * 3


@pytest.mark.parametrize("reading", ["authors", "paper"])
@pytest.mark.parametrize("padding", [NAN, float("inf"), -float("inf"), 1e6])
def test_padding_never_reaches_an_activation_weight(reading, padding):
    head = ActivationHead(reading)
    alone = head(activation_inputs([[1.0, 4.0, 2.0]]))
    padded = activation_inputs([[1.0, 4.0, 2.0, padding]], valid=[[True, True, True, False]])
    assert head(padded)[:, :3].tolist() == alone.tolist()
    assert head(padded)[0, 3] == 0.0


def test_activation_weights_do_not_depend_on_scale_or_offset():
    head = ActivationHead("authors")
    assert head(activation_inputs([[10.0, 70.0, 30.0]])).tolist() == head(activation_inputs([[1.0, 7.0, 3.0]])).tolist()


def test_constant_activations_that_are_not_exact_in_binary_are_still_constant():
    """The mean of five 0.1 is not 0.1 in floating point; were the z-score not 0, rounding would decide a weight."""
    for count, value in itertools.product((3, 5, 7, 10), (0.1, 0.7, 1e-3, 123.456)):
        inputs = activation_inputs([[value] * count])
        assert ActivationHead("paper")(inputs).abs().max() < 1e-3
        assert ActivationHead("authors")(inputs).tolist() == [[1.0] * count]


def test_half_precision_activations_are_normalised_in_float32():
    inputs = activation_inputs([[2.0, 4.0, 6.0]])
    half = MaskInputs(valid=inputs.valid, activations={"mlp": [inputs.activations["mlp"][0].bfloat16()]})
    assert ActivationHead("authors")(half).dtype == torch.float32


# --- controls


def test_random_weights_are_uniform_and_drawn_anew():
    torch.manual_seed(0)
    inputs = MaskInputs(valid=torch.ones(50, 200, dtype=torch.bool))
    first, second = RandomHead()(inputs), RandomHead()(inputs)
    assert not torch.equal(first, second)
    assert first.min() >= 0 and first.max() < 1
    assert float(first.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(first.var()) == pytest.approx(1 / 12, abs=0.005)


def test_uniform_weights_are_one():
    assert UniformHead()(MaskInputs(valid=torch.ones(2, 3, dtype=torch.bool))).tolist() == [[1.0] * 3] * 2


def test_entropy_weights_are_the_entropy_and_what_lies_outside_the_responses_has_no_effect():
    inputs = MaskInputs(torch.tensor([[True, True, False]]), entropy=torch.tensor([[0.25, 2.0, NAN]]))
    assert EntropyHead()(inputs).tolist() == [[0.25, 2.0, 0.0]]


# --- Masks


class Constant(MaskHead):
    """A head for tests: the same weight everywhere."""

    can_be_negative = True

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, inputs):
        return torch.full(inputs.valid.shape, self.value)


THREE = MaskInputs(valid=torch.tensor([[True, True, True], [True, False, False]]))


@pytest.mark.parametrize(
    "heads, m_u, m_d, penalty",
    [
        # l1_u = 0.1, l1_d = 0.3, weights 2 (or -2) on the reward and 5 on the KL; 3 tokens and 1 token
        ({"common": 2.0}, 2.0, 2.0, [0.2 * 3 * 2, 0.2 * 2]),  # the mean of the coefficients, once
        ({"u": -2.0, "d": 5.0}, -2.0, 5.0, [0.1 * 6 + 0.3 * 15, 0.1 * 2 + 0.3 * 5]),
        ({"u": 2.0}, 2.0, 1.0, [0.1 * 6, 0.1 * 2]),  # a side without a head weighs 1 and pays nothing
        ({"d": 5.0}, 1.0, 5.0, [0.3 * 15, 0.3 * 5]),
    ],
)
def test_weights_and_penalty_follow_from_which_sides_have_a_head(heads, m_u, m_d, penalty):
    masks = Masks({side: Constant(value) for side, value in heads.items()}, l1_u=0.1, l1_d=0.3)
    weights = masks(THREE)
    assert [set(w.flatten().tolist()) for w in weights] == [{m_u}, {m_d}]
    assert masks.penalty(*weights, THREE.valid).tolist() == pytest.approx(penalty)


def test_the_penalty_counts_response_tokens_alone():
    masks = Masks({"u": Constant(1.0), "d": Constant(1.0)}, l1_u=1.0, l1_d=1.0)
    weights = torch.tensor([[1.0, -2.0, NAN], [3.0, NAN, NAN]], requires_grad=True)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    penalty = masks.penalty(weights, weights, valid)
    assert penalty.tolist() == [6.0, 6.0]
    penalty.sum().backward()
    assert weights.grad.tolist() == [[2.0, -2.0, 0.0], [2.0, 0.0, 0.0]]


@pytest.mark.parametrize("share, sides", [("common", ["common"]), ("independent", ["u", "d"])])
@pytest.mark.parametrize("head", [*LEARNED, "activations", "entropy", "random", "uniform"])
def test_every_head_comes_in_every_share(head, share, sides):
    masks = method_masks(LAYERS, WIDTH, mask=head, share=share)
    assert list(masks.heads) == sides
    assert masks.has_parameters == (head in LEARNED)
    needs = {"random": "nothing", "uniform": "nothing", "entropy": "entropy", "activations": "activations"}
    assert masks.reads == {needs.get(head, "hidden_states")}


@pytest.mark.parametrize("share, side", [("reward_only", "u"), ("kl_only", "d")])
def test_an_ablated_side_has_no_head(share, side):
    assert list(method_masks(LAYERS, WIDTH, share=share).heads) == [side]


def test_an_unknown_head_or_share_is_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="mask 'layer' is unknown; allowed: layers, last, .*uniform"):
        build_masks(LAYERS, WIDTH, mask="layer", share="common")
    with pytest.raises(
        ValueError, match="mask share 'both' is unknown; allowed: common, independent, reward_only, kl_"
    ):
        build_masks(LAYERS, WIDTH, mask="layers", share="both")


def test_a_model_with_more_layers_than_the_head_was_built_for_is_refused():
    with pytest.raises(ValueError, match="a mask head for 2 layers cannot read a model of 3 layers"):
        Masks({"u": LayerHead(2, 2)}, l1_u=0.0, l1_d=0.0).project(0, 3, torch.zeros(4, 2))


# --- weights from scores of tokens


def weights_from(values, mask, lengths=None, **parameters):
    """m_u of rows of values, the chosen responses first; nan beyond the length of a row."""
    values = torch.tensor(values, dtype=torch.float64)
    lengths = [values.shape[1]] * len(values) if lengths is None else lengths
    valid = torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]
    masks = build_masks(0, 0, mask=mask, share="common", **parameters)
    m_u, m_d = masks(MaskInputs(valid, values=values.where(valid, NAN)))
    assert m_u is m_d
    return m_u


def test_importance_is_the_exponential_of_clamped_scores_turned_round_on_rejected_responses():
    """exp(2 * clamp(s, -0.5, 1.5)): s = 0.25, -3, 4 become exp(0.5), exp(-1), exp(3); rejected exp(-0.5), ..."""
    scores = [[0.25, -3.0, 4.0], [0.25, -3.0, 4.0]]
    found = weights_from(scores, "importance", mu=2.0, clamp_min=-0.5, clamp_max=1.5)
    wanted = [[math.exp(0.5), math.exp(-1), math.exp(3)], [math.exp(-0.5), math.exp(1), math.exp(-3)]]
    assert found.tolist() == [pytest.approx(row, rel=1e-12) for row in wanted]


def test_importance_without_a_difference_of_the_models_is_one():
    assert weights_from([[0.0, -0.0]] * 2, "importance", mu=1.0, clamp_min=-0.5, clamp_max=1.5).tolist() == [[1, 1]] * 2


def gauss(place):
    return math.exp(-place * place / 2)


def test_attribution_is_the_share_of_a_gradient_mixed_with_a_gaussian_over_the_response():
    """Four tokens, sigma = 0.25 * 4 = 1, centre 1.5; two tokens, sigma 0.5, centre 0.5."""
    found = weights_from(
        [[1.0, 3.0, 4.0, 0.0], [5.0, 15.0, 9.0, 9.0]], "attribution", [4, 2], attribution_share=0.7, prior_width=0.25
    )
    prior = [gauss(1.5), gauss(0.5), gauss(0.5), gauss(1.5)]
    chosen = [4 * (0.7 * size / 8 + 0.3 * each / sum(prior)) for size, each in zip((1, 3, 4, 0), prior, strict=True)]
    assert found[0].tolist() == pytest.approx(chosen, rel=1e-6)
    assert found[1].tolist() == pytest.approx([2 * (0.7 * 0.25 + 0.15), 2 * (0.7 * 0.75 + 0.15), 0.0, 0.0], rel=1e-6)


def test_the_mean_weight_by_attribution_is_one_so_that_beta_means_what_it_does_in_dpo():
    values = torch.rand(6, 9, generator=torch.Generator().manual_seed(0)).tolist()
    lengths = [9, 1, 4, 7, 2, 5]
    found = weights_from(values, "attribution", lengths, attribution_share=0.4, prior_width=0.3)
    assert found.sum(-1).tolist() == pytest.approx(lengths)


def test_a_response_without_any_gradient_has_the_weights_of_the_prior():
    found = weights_from([[0.0], [2.0]], "attribution", attribution_share=0.7, prior_width=0.25)
    assert found.tolist() == [[1.0], [1.0]]
    found = weights_from([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], "attribution", attribution_share=1.0, prior_width=0.25)
    side = gauss(1 / 0.75)
    assert found[0].tolist() == pytest.approx([3 * each / (1 + 2 * side) for each in (side, 1, side)], rel=1e-6)
    assert found[1].tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("parameters", [("importance", {"mu": 1.0, "clamp_min": -0.5, "clamp_max": 1.5}),
                                        ("attribution", {"attribution_share": 0.5, "prior_width": 0.25})])  # fmt: skip
def test_what_lies_beyond_a_response_reaches_no_weight_from_scores(parameters):
    mask, given = parameters
    found = weights_from([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], mask, [2, 1], **given)
    alone = weights_from([[1.0, 2.0], [1.0, 0.0]], mask, [2, 1], **given)
    assert found.isfinite().all() and not found[:, 2].any()
    torch.testing.assert_close(found[:, :2], alone)
