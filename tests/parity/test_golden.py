"""The package against golden numbers: an independent float64 derivation, and what published code computed in float32.

All differences are relative to the largest magnitude of the array compared, as sums over a response lose digits to
cancellation and losses such as IPO's reach 100.
"""

import json
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch

from sparsepo.data.batches import ModelInputs, PairBatch
from sparsepo.data.collation import collate_pairs
from sparsepo.methods.registry import check_parameters
from sparsepo.objective import losses
from sparsepo.objective.fixed_masks import ActivationHead
from sparsepo.objective.mask_builder import Masks
from sparsepo.objective.masks import MaskHead, MaskInputs
from sparsepo.objective.response_index import ResponseIndex
from sparsepo.objective.response_terms import Side
from sparsepo.training.inspection import inspect_pairs, pair_records
from sparsepo.training.method_masks import build_method_masks
from sparsepo.training.pair_objective import PairObjective, run_reference

FOLDER = Path(__file__).parents[1] / "fixtures" / "golden"
GOLDEN, MAPO = (json.loads((FOLDER / f"{name}.json").read_text()) for name in ("golden", "mapo"))
TOKENS, LOSSES, SPARSEPO, LEFT = (GOLDEN[part] for part in ("tokens", "losses", "sparsepo", "left"))
SIDES = ("chosen", "rejected")
PAD = 96  # the end token, on purpose: padding must not be told from ids
PUBLISHED = 2e-5  # the published code ran in float32


def flat(nested):
    """A ragged list of lists (or tensors) as one float64 vector."""
    if isinstance(nested, torch.Tensor):
        return nested.detach().flatten().double()
    parts = [flat(part) if isinstance(part, list) else torch.tensor([part], dtype=torch.float64) for part in nested]
    return torch.cat(parts)


def assert_close(actual, expected, tolerance):
    actual, expected = flat(actual), flat(expected)
    assert actual.shape == expected.shape
    error = float((actual - expected).abs().max())
    assert error <= tolerance * float(expected.abs().max()), f"off by {error:.1e}: {actual} instead of {expected}"


def column(records, name, side=None):
    return [record[name] if side is None else record[side][name] for record in records]


def our_name(published):
    """Mask-head parameters: the published code's names in ours."""
    pairs = {"layer_norm": "norm", "mixer": "merge", "w_per_layer": "layer", "ff1": "0", "ff2": "1"}
    parts = [pairs.get(part, part) for part in published.split(".") if part != "w"]
    return ".".join(parts if parts[0] in ("norm", "merge", "layer") else ["layer", *parts])


def heads_of(problem, variant):
    """The mask heads that a golden variant used, built the way a run builds them, with the golden weights."""
    settings = {name: variant[name] for name in ("l1_u", "l1_d")} | {"mask": variant["head"]}
    masks = build_method_masks(f"sparsepo_{variant['share']}", problem.reference, settings).to(problem.dtype)
    assert set(masks.heads) == set(variant["weights"])
    for side, source in variant["weights"].items():
        own = {name: value for name, value in problem.heads.items() if name.startswith(f"{source}.")}
        masks.heads[side].load_state_dict({our_name(n.removeprefix(f"{source}.")): v for n, v in own.items()})
    return masks


def left_padded(pairs, positions=True):
    """As `collate_pairs`, but padded on the left; without `positions` a token's position is its column."""
    sequences = [pair.prompt + getattr(pair, side) for side in SIDES for pair in pairs]
    width = max(map(len, sequences))
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in sequences])
    start = [
        (side * len(pairs) + at + 1) * width - len(getattr(pair, name))
        for at, pair in enumerate(pairs)
        for side, name in enumerate(SIDES)
    ]
    lengths = [len(getattr(pair, name)) for pair in pairs for name in SIDES]
    places = [side * len(pairs) + at for at in range(len(pairs)) for side in (0, 1)]
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in sequences])
    inputs = ModelInputs.with_padding(ids, mask)
    if not positions:
        inputs = replace(inputs, position_ids=torch.arange(width).expand(len(sequences), -1))
    return PairBatch(
        num_tokens=sum(map(len, sequences)),
        inputs=inputs,
        responses=ResponseIndex.from_spans([place - 1 for place in start], start, lengths, places),
        pair_ends=tuple(accumulate(len(pair.chosen) + len(pair.rejected) for pair in pairs)),
    )


def batch_of(problem):
    return left_padded(problem.pairs) if problem.layout == "left" else collate_pairs(problem.pairs, PAD, problem.layout)


def inspect(problem, method, given=None, masks=None, batch=None):
    """What `inspect_pairs` tells of the problem's pairs in the problem's layout, or in a batch of one's own."""
    if problem.layout != "left" and batch is None:
        pairs = problem.policy, problem.reference, problem.pairs
        return inspect_pairs(*pairs, method, given, masks, layout=problem.layout)
    hyper, _ = check_parameters(method, given or {}).split_parameters(given or {})
    own = masks if masks is not None else build_method_masks(method, problem.reference, given or {})
    with torch.no_grad():
        made = PairObjective(problem.policy, problem.reference, method, hyper, own)
        return pair_records(made(batch_of(problem) if batch is None else batch))


def sequence_states(problem, states):
    """The (length, d) part of flattened states that belongs to each sequence, chosen ones first; and what is no one's.

    Where the prompt is shared, its last state carries the gradient of both responses: its row is nan.
    """
    made, used = [], torch.zeros(states.shape[:2], dtype=torch.bool)
    batch, shared = batch_of(problem), problem.layout in ("shared", "pairs")
    index = batch.responses
    ends = torch.cat([torch.tensor([0]), index.valid.sum(1).cumsum(0)])
    token = index.token[index.cell.argsort()]  # in the order of the grid
    flat_states, flat_used = states.flatten(0, 1), used.flatten()
    for place, sequence in enumerate((side, pair) for side in SIDES for pair in problem.pairs):
        prompt = len(sequence[1].prompt)
        own = token[ends[place] : ends[place + 1]]
        first = index.hidden[index.cell.argsort()][ends[place]]
        before = torch.arange(int(first) - prompt + 1, int(first) + 1)
        flat_used[torch.cat([before, own])] = True
        part = flat_states[torch.cat([before, own])].clone()
        if shared:
            part[prompt - 1] = float("nan")
        made.append(part)
    return made, flat_states[~flat_used]


def gradients(problem, method, hyper, masks=None):
    """Gradients of the mean loss: output matrix, final states per sequence, all policy parameters, mask heads."""
    objective = PairObjective(
        problem.policy.requires_grad_(True), problem.reference, method, hyper, masks, gradients=problem.gradients
    )
    objective.zero_grad()
    states = []

    def keep(_, __, out):
        out.last_hidden_state.retain_grad()
        states.append(out.last_hidden_state)

    handle = problem.policy.transformer.register_forward_hook(keep)
    (objective(batch_of(problem)).total / len(problem.pairs)).backward()
    handle.remove()
    per_sequence, padding = sequence_states(problem, states[0].grad)
    policy = {name: parameter.grad for name, parameter in problem.policy.named_parameters()}
    head = policy.pop("lm_head.weight")
    policy["transformer.wte.weight"] = policy["transformer.wte.weight"] + head
    norm = torch.stack([grad.norm() for grad in policy.values()]).norm()
    heads = {} if masks is None else {n: p.grad for n, p in masks.named_parameters()}
    return {"head": head, "states": per_sequence, "padding": padding, "norm": norm, "mask": heads}


def assert_policy_gradients(found, expected, tolerance):
    head, state = expected["head"], expected["state"]
    assert_close(found["head"].norm()[None], [head["norm"]], tolerance)
    assert_close(found["head"][:8].norm(dim=1), head["row_norms"], tolerance)
    assert_close(found["head"][:4, :4], head["block"], tolerance)
    norms = torch.cat([grad.norm(dim=1) for grad in found["states"]])
    known = ~norms.isnan()
    expected_norms = flat(state["position_norms"]["chosen"] + state["position_norms"]["rejected"])
    assert_close(norms[known], expected_norms[known], tolerance)
    if known.all():
        assert_close(norms.norm()[None], [state["norm"]], tolerance)
    block = found["states"][0][:, :4]
    own = ~block.isnan().any(1)
    assert_close(block[own], torch.tensor(state["block"], dtype=torch.float64)[own], tolerance)
    assert_close(found["norm"][None], [expected["policy_norm"]], tolerance)
    assert not found["padding"].any()


# --- token terms and losses without masks


@pytest.mark.parametrize("name", ["logps", "ref_logps", "reverse_kl", "forward_kl"])
@pytest.mark.parametrize("side", SIDES)
def test_token_terms_are_the_golden_ones(problem, name, side):
    records = inspect(problem, "dpo")
    assert_close(column(records, name, side), TOKENS[name][side], problem.tolerance)


@pytest.mark.parametrize("case", LOSSES)
def test_a_loss_and_its_rewards_are_the_golden_ones(problem, case):
    expected = LOSSES[case]
    records = inspect(problem, expected["method"], expected["hyper"])
    assert_close(column(records, "loss"), expected["loss"], problem.tolerance)
    for side in SIDES if case != "tdpo2" else ():
        if f"reward_{side}" in expected:
            assert_close(column(records, f"reward_{side}"), expected[f"reward_{side}"], problem.tolerance)


@pytest.mark.parametrize("case", [case for case in LOSSES if "published" in LOSSES[case]])
def test_a_loss_is_what_published_code_computed(problem, case):
    method, hyper = LOSSES[case]["method"], LOSSES[case]["hyper"]
    records = inspect(problem, method, hyper)
    assert_close(column(records, "loss"), LOSSES[case]["published"]["loss"], PUBLISHED)


@pytest.mark.parametrize("case", [case for case in LOSSES if "gradient" in LOSSES[case]])
def test_gradients_of_a_loss_are_the_golden_ones(problem, case):
    found = gradients(problem, LOSSES[case]["method"], LOSSES[case]["hyper"])
    assert_policy_gradients(found, LOSSES[case]["gradient"], problem.tolerance)


def test_tdpo2_rewards_weigh_the_kl_by_alpha_unlike_the_published_log(problem):
    """Published: beta (log-ratio + KL). Ours: beta (log-ratio + alpha KL), so they differ by beta (1 - alpha) KL."""
    case = LOSSES["tdpo2"]
    beta, alpha = case["hyper"]["beta"], case["hyper"]["alpha"]
    records = inspect(problem, "tdpo2", case["hyper"])
    for side in SIDES:
        kl = [sum(tokens) for tokens in TOKENS["forward_kl"][side]]
        expected = flat(case[f"reward_{side}"]) - beta * (1 - alpha) * flat(kl)
        assert_close(column(records, f"reward_{side}"), expected, problem.tolerance)


@pytest.mark.parametrize("case", ["dpop_5", "dpop_50"])
def test_dpop_rewards_are_dpo_rewards_less_the_penalised_shortfall(problem, case):
    hyper = LOSSES[case]["hyper"]
    records = inspect(problem, "dpop", hyper)
    lost = hyper["beta"] * hyper["penalty"] * flat(LOSSES[case]["shortfall"])
    chosen = flat(LOSSES["dpo"]["reward_chosen"]) - lost
    assert_close(column(records, "reward_chosen"), chosen, problem.tolerance)
    assert_close(column(records, "reward_rejected"), LOSSES["dpo"]["reward_rejected"], problem.tolerance)


@pytest.mark.parametrize("case", ["ipo_sum", "ipo_mean"])
def test_ipo_rewards_are_those_of_dpo_summed_or_per_token(problem, case):
    records = inspect(problem, "ipo", LOSSES[case]["hyper"])
    for side in SIDES:
        lengths = flat([len(tokens) for tokens in TOKENS["logps"][side]])
        expected = flat(LOSSES["dpo"][f"reward_{side}"]) / (lengths if case == "ipo_mean" else 1)
        assert_close(column(records, f"reward_{side}"), expected, problem.tolerance)


# --- SparsePO


def sparsepo(problem, variant, form):
    hyper = {"beta": variant["beta"], "form": form}
    masks = heads_of(problem, variant)
    method = f"sparsepo_{variant['share']}"
    return inspect(problem, method, hyper, masks)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("name", SPARSEPO)
def test_sparsepo_losses_and_rewards_are_the_golden_ones(problem, name, form):
    variant = SPARSEPO[name]
    records = sparsepo(problem, variant, form)
    assert_close(column(records, "loss"), variant["forms"][form]["loss"], problem.tolerance)
    assert_close(column(records, "penalty"), variant["penalty"], problem.tolerance)
    kl, sign = {"paper": ("reverse_kl", -1), "released": ("forward_kl", 1)}[form]
    for side in SIDES:
        parts = (flat(variant["sums"]["reward"][side]), flat(variant["sums"][kl][side]))
        expected = variant["beta"] * (parts[0] + sign * parts[1])
        assert_close(column(records, f"reward_{side}"), expected, problem.tolerance)


@pytest.mark.parametrize("name", [name for name in SPARSEPO if "published" in SPARSEPO[name]["forms"]["released"]])
def test_sparsepo_released_form_is_what_the_authors_code_computed(problem, name):
    records = sparsepo(problem, SPARSEPO[name], "released")
    assert_close(column(records, "loss"), SPARSEPO[name]["forms"]["released"]["published"]["loss"], PUBLISHED)


@pytest.mark.parametrize("name", SPARSEPO)
def test_learned_weights_and_their_zeros_are_the_golden_ones(problem, name):
    variant = SPARSEPO[name]
    records = sparsepo(problem, variant, "paper")
    for side in SIDES:
        for mask in ("m_u", "m_d"):
            weights = column(records, mask, side)
            if mask in variant["masks"]:
                assert_close(weights, variant["masks"][mask][side], problem.tolerance)
                zeros = sum(100 * row.count(0.0) / len(row) for row in weights) / len(weights)
                assert zeros == pytest.approx(variant["zeros_percent"][mask][side], rel=1e-9)
            else:
                other = {"common": column(records, "m_u", side)}
                assert weights == other.get(variant["share"], [[1.0] * len(row) for row in weights])


FORMS = [(name, form, values) for name, variant in SPARSEPO.items() for form, values in variant["forms"].items()]
WITH_GRADIENT = [(name, form) for name, form, values in FORMS if "gradient" in values]
WITH_PUBLISHED_NORMS = [(name, form) for name, form, values in FORMS if "grad_norms" in values.get("published", {})]


def mask_name(published):
    """A parameter of `Masks`: "rw.mixer.weight" is "heads.u.merge.weight"."""
    head, parameter = published.split(".", 1)
    side = {"rw": "u", "kl": "d", "common": "common"}[head]
    return f"heads.{side}.{our_name(parameter)}"


@pytest.mark.parametrize("name, form", WITH_GRADIENT)
def test_sparsepo_gradients_are_the_golden_ones(problem, name, form):
    variant = SPARSEPO[name]
    expected = variant["forms"][form]["gradient"]
    hyper = {"beta": variant["beta"], "form": form}
    found = gradients(problem, f"sparsepo_{variant['share']}", hyper, heads_of(problem, variant))
    assert_policy_gradients(found, expected, problem.tolerance)
    assert {mask_name(parameter) for parameter in expected["mask"]} == set(found["mask"])
    for parameter, values in expected["mask"].items():
        grad = found["mask"][mask_name(parameter)]
        if variant["head"].startswith("binary"):  # theirs pass no gradient, ours is straight-through
            assert values["norm"] == 0
            assert grad.norm() > 0
        else:
            assert_close(grad.norm()[None], [values["norm"]], problem.tolerance)
            assert_close(grad.flatten()[: len(values["first"])], values["first"], problem.tolerance)


@pytest.mark.parametrize("name, form", WITH_PUBLISHED_NORMS)
def test_gradient_norms_are_what_the_authors_code_computed(problem, name, form):
    variant = SPARSEPO[name]
    hyper = {"beta": variant["beta"], "form": form}
    found = gradients(problem, f"sparsepo_{variant['share']}", hyper, heads_of(problem, variant))
    norms = dict(variant["forms"][form]["published"]["grad_norms"])
    assert_close(found["head"].norm()[None], [norms.pop("lm_head")], PUBLISHED)
    states, expected = torch.cat(found["states"]).norm(), norms.pop("hidden")
    if not states.isnan():
        assert_close(states[None], [expected], PUBLISHED)
    learned = {} if variant["head"].startswith("binary") else norms
    for parameter, norm in learned.items():
        assert_close(found["mask"][mask_name(parameter)].norm()[None], [norm], PUBLISHED)


class Drawn(MaskHead):
    """The golden draws in the place of new ones."""

    def forward(self, inputs):
        rows = [flat(row) for side in SIDES for row in GOLDEN["random"]["m_u"][side]]
        return torch.nn.utils.rnn.pad_sequence(rows, True, float("nan"))


@pytest.mark.parametrize("form", ["paper", "released"])
def test_a_mask_of_given_draws_gives_the_golden_loss(problem, form):
    hyper = {"beta": GOLDEN["random"]["beta"], "form": form}
    records = inspect(problem, "sparsepo_common", hyper, Masks({"common": Drawn()}, l1_u=0.0, l1_d=0.0))
    assert_close(column(records, "loss"), GOLDEN["random"][form], problem.tolerance)
    if form == "released":
        assert_close(column(records, "loss"), GOLDEN["random"]["published"], PUBLISHED)


# --- left padding without position ids, as the published trainers do it


@pytest.mark.parametrize("case", LOSSES)
def test_left_padding_without_position_ids_gives_the_golden_losses_of_that(problem, case):
    batch = left_padded(problem.pairs, positions=False)
    records = inspect(problem, LOSSES[case]["method"], LOSSES[case]["hyper"], batch=batch)
    assert_close(column(records, "loss"), LEFT["losses"][case], problem.tolerance)
    for name, sides in LEFT["tokens"].items():
        for side in SIDES:
            assert_close(column(records, name, side), sides[side], problem.tolerance)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("name", SPARSEPO)
def test_left_padding_without_position_ids_gives_the_golden_sparsepo_losses_of_that(problem, name, form):
    variant, batch = SPARSEPO[name], left_padded(problem.pairs, positions=False)
    hyper = {"beta": variant["beta"], "form": form}
    records = inspect(problem, f"sparsepo_{variant['share']}", hyper, heads_of(problem, variant), batch)
    assert_close(column(records, "loss"), LEFT["sparsepo"][name][form], problem.tolerance)


# --- MaPO


MAPO_SITES = {"all": {}, "all+mlp": {"activation_sites": ("mlp", "attention", "residual", "logits")}}
"""Golden name -> parameters; the other names are those of the sites."""


def mapo(problem, sites, form, batch=None):
    given = MAPO_SITES.get(sites, {"activation_sites": tuple(sites.split("+"))})
    return inspect(problem, "mapo", {"beta": MAPO["beta"], "form": form, "reading": "authors", **given}, batch=batch)


@pytest.mark.parametrize("sites", [sites for sites in MAPO["right"] if sites != "uniform"])
def test_weights_in_the_authors_reading_are_the_golden_ones(problem, sites):
    records = mapo(problem, sites, "paper")
    for side in SIDES:
        assert_close(column(records, "m_u", side), MAPO["right"][sites]["mask"][side], problem.tolerance)
        assert column(records, "m_d", side) == column(records, "m_u", side)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("sites", [sites for sites in MAPO["right"] if sites != "uniform"])
def test_mapo_losses_in_the_authors_reading_are_the_golden_ones(problem, sites, form):
    assert_close(column(mapo(problem, sites, form), "loss"), MAPO["right"][sites][form], problem.tolerance)
    left = mapo(problem, sites, form, left_padded(problem.pairs, positions=False))
    assert_close(column(left, "loss"), MAPO["left"][sites][form], problem.tolerance)


def test_each_activation_in_the_authors_reading_is_a_golden_one(problem):
    """One by one, whatever their order: thirty activations of three layers, rescaled over the first response."""
    masks = build_method_masks("mapo", problem.reference, {"reading": "authors"})
    inputs = run_reference(problem.reference, masks, batch_of(problem)).mask_inputs
    golden = [row for rows in MAPO["first_chosen"].values() for row in rows]
    values = [value for site in inputs.activations.values() for value in site]
    assert len(golden) == len(values) == 30
    head = ActivationHead("authors")
    rows = [head(MaskInputs(inputs.valid, activations={"one": [value]}))[0, :4].double().tolist() for value in values]
    assert_close(sorted(rows), sorted(golden), 10 * problem.tolerance)


def test_the_form_says_which_reading_is_the_default(problem):
    for form, reading in (("paper", "paper"), ("released", "authors")):
        given = {"beta": MAPO["beta"], "form": form}
        by_form, by_name = (inspect(problem, "mapo", hyper) for hyper in (given, given | {"reading": reading}))
        assert column(by_form, "loss") == column(by_name, "loss")


@pytest.mark.parametrize("form", ["paper", "released"])
def test_mapo_loss_of_the_golden_weights_is_the_golden_one(form):
    chosen, rejected = (golden_side(side, MAPO["right"]["all"]["mask"][side]) for side in SIDES)
    result = losses.sparsepo(chosen, rejected, beta=MAPO["beta"], form=form)
    assert_close(result.loss, MAPO["right"]["all"][form], 1e-9)


def golden_side(side, mask):
    """A Side made of golden numbers alone; what lies outside the responses is nan."""
    columns = {name: TOKENS[name][side] for name in ("logps", "ref_logps", "reverse_kl", "forward_kl")}
    columns |= {"m_u": mask, "m_d": mask}
    padded = {
        name: torch.nn.utils.rnn.pad_sequence([flat(row) for row in rows], True, float("nan"))
        for name, rows in columns.items()
    }
    return Side(**padded, valid=~padded["logps"].isnan())


@pytest.mark.parametrize("form", ["paper", "released"])
def test_uniform_weights_give_the_golden_mapo_loss(problem, form):
    masks = build_method_masks("sparsepo_common", problem.reference, {"mask": "uniform"})
    hyper = {"beta": MAPO["beta"], "form": form}
    records = inspect(problem, "sparsepo_common", hyper, masks)
    assert_close(column(records, "loss"), MAPO["right"]["uniform"][form], problem.tolerance)
    if form == "released":
        assert_close(column(records, "loss"), MAPO["right"]["uniform"]["published"]["loss"], PUBLISHED)


def test_uniform_weights_in_the_released_form_are_tdpo1(problem):
    masks = build_method_masks("sparsepo_common", problem.reference, {"mask": "uniform"})
    released = {"beta": MAPO["beta"], "form": "released"}
    sparse = inspect(problem, "sparsepo_common", released, masks)
    tdpo1 = inspect(problem, "tdpo1", {"beta": MAPO["beta"]})
    assert_close(column(sparse, "loss"), column(tdpo1, "loss"), 1e-12 if problem.dtype == torch.float64 else 1e-6)
