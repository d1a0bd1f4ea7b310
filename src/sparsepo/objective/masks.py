"""Mask heads: modules that give each response token a weight, from what the reference model makes of the text so far.

A head sees features at the position that predicts a token (t - 1 weighs token t), so it never sees the token itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepo.errors import UserError


@dataclass(frozen=True)
class Views:
    """What a mask head may look at, taken from the reference at the positions that predict response tokens.

    states: one (s, t, d) tensor a layer, 1..L, the last after the final norm (the embedding output is not among them).
    projected: instead of states, what each learned head made of them layer by layer: name -> (s, t, p).
    weights: instead of all else, the weight (s, t) that a head without parameters gave before.
    activations: kind -> one (s, t) tensor a module, the mean over the features of what that module computed.
    values: (s, t) numbers that came with the pairs; chosen responses are the first half of s.
    logratio: (s, t) log pi - log ref of each token, without gradient; for heads that look at the policy.
    valid: (s, t) True on response tokens; what lies elsewhere must not matter.
    """

    valid: Tensor
    states: Sequence[Tensor] = ()
    activations: Mapping[str, Sequence[Tensor]] | None = None
    projected: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None
    values: Tensor | None = None
    logratio: Tensor | None = None


class State:
    """A layer's states (..., d); `standard` is computed once, whatever number of heads look at it."""

    def __init__(self, values: Tensor):
        self.values = values.to(torch.promote_types(values.dtype, torch.float32))

    @cached_property
    def standard(self) -> Tensor:
        """Mean 0 and variance 1 over the features."""
        return F.layer_norm(self.values, self.values.shape[-1:])


class MaskHead(nn.Module):
    """Abstract: views -> weights (s, t). `looks_at` says which view the head needs."""

    looks_at: Literal["states", "activations", "values", "policy", "nothing"] = "nothing"

    def forward(self, views: Views) -> Tensor:
        raise NotImplementedError


class LearnedHead(MaskHead):
    """Abstract: a head whose weight is a ReLU over learned projections of the states, each of one layer alone.

    So a layer's states can be forgotten as soon as they are projected.
    """

    looks_at = "states"
    binary: bool

    def project(self, layer: int, depth: int, state: State) -> Tensor | None:
        """(..., 1): what the head says of layer number `layer` of 0 .. depth - 1, before any ReLU; None: nothing."""
        raise NotImplementedError

    def merged(self, projected: Tensor) -> Tensor:
        """(..., p) -> (...): the weight >= 0 that these projections make, before it is made binary."""
        raise NotImplementedError

    def forward(self, views: Views) -> Tensor:
        return self.weigh(self.projections(views))

    def weigh(self, projected: Tensor) -> Tensor:
        """(..., p) -> (...): the weight."""
        weight = self.merged(projected)
        return _straight_through(weight) if self.binary else weight

    def projections(self, views: Views) -> Tensor:
        """(s, t, p): every projection, before any ReLU."""
        depth = len(views.states)
        found = [self.project(layer, depth, State(state)) for layer, state in enumerate(views.states)]
        return torch.cat([projected for projected in found if projected is not None], -1)

    def start(self, raw: Tensor, zeros: float) -> None:
        """Set the weights so that on the tokens of `raw` (n, p) a share `zeros` weighs 0, and the mean weight is 1.

        Each projection is standardised, then all are shifted. A weight is 0 where every projection is <= 0, so the
        shift is a quantile of the largest. Left to chance the sign of the merge decides, and one small model in five
        starts with no live weight at all.
        """
        raise NotImplementedError


class LayerHead(LearnedHead):
    r"""Learned over all layers: m_t = ReLU(sum_l c_l ReLU(w_l . LayerNorm(h_l) + b_l)).

    One linear + ReLU a layer, merged by a linear (no bias) + ReLU (arXiv 2410.05102, Eq. 9-10). The LayerNorm shared by
    all layers is the authors' code, not their paper; it makes the head independent of the scale of a model's states.
    `inner` puts a hidden width in each layer's map, two feed-forward layers with no nonlinearity between (authors'
    code). `binary`: the weight is 1 where the merged value is positive, with a straight-through gradient.
    """

    def __init__(self, layers: int, width: int, *, inner: int | None = None, binary: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = nn.ModuleList(_projection(width, inner) for _ in range(layers))
        self.merge = nn.Linear(layers, 1, bias=False)
        nn.init.constant_(self.merge.weight, 1 / layers)
        self.binary = binary

    def project(self, layer: int, depth: int, state: State) -> Tensor:
        """The norm's gain and shift go into the linear map, so that one standardised state serves every head."""
        if depth != len(self.layer):
            raise ValueError(f"a head for {len(self.layer)} layers cannot look at a model of {depth}")
        first, *rest = _linears(self.layer[layer])
        bias = first.bias + first.weight @ self.norm.bias
        found = F.linear(state.standard.to(first.weight.dtype), first.weight * self.norm.weight, bias)
        for linear in rest:
            found = linear(found)
        return found

    def merged(self, projected: Tensor) -> Tensor:
        return F.relu(self.merge(F.relu(projected)))[..., 0]

    @torch.no_grad()
    def start(self, raw: Tensor, zeros: float) -> None:
        live = _start(self.layer, raw, zeros)
        if not self.binary:
            self.merge.weight.div_(_scale_of(self.merged(live).mean()))


class LastHead(LearnedHead):
    """Learned over the last layer only: m_t = ReLU(w . h_L + b); `inner` and `binary` as in LayerHead, no LayerNorm."""

    def __init__(self, width: int, *, inner: int | None = None, binary: bool = False):
        super().__init__()
        self.layer = _projection(width, inner)
        self.binary = binary

    def project(self, layer: int, depth: int, state: State) -> Tensor | None:
        return self.layer(state.values.to(next(self.parameters()).dtype)) if layer == depth - 1 else None

    def merged(self, projected: Tensor) -> Tensor:
        return F.relu(projected)[..., 0]

    @torch.no_grad()
    def start(self, raw: Tensor, zeros: float) -> None:
        live = self.merged(_start([self.layer], raw, zeros))
        if not self.binary:
            last, scale = _linears(self.layer)[-1], _scale_of(live.mean())
            last.weight.div_(scale)
            last.bias.div_(scale)


class ActivationHead(MaskHead):
    """MaPO: the weight is read off the reference's activations; nothing is learned.

    Each module's output is averaged over its features and z-scored over the response; kinds of modules count equally.
    `minmax` (the authors' code): each vector is then rescaled to [0, 1] over the response. `zscore` (the paper's text):
    it is not, and half the weights are negative. Where all values are equal (one token, say) there is nothing to
    compare: the rescaled weight is 1 and the z-score 0. The authors' rounding of statistics to float16 is left out.
    """

    looks_at = "activations"

    def __init__(self, kinds: Sequence[str], normalisation: Literal["minmax", "zscore"]):
        super().__init__()
        self.kinds = tuple(kinds)
        self.normalise = {"minmax": _minmax, "zscore": _zscore}[normalisation]

    def forward(self, views: Views) -> Tensor:
        activations = views.activations or {}
        per_kind = [
            torch.stack([self.normalise(values, views.valid) for values in activations[kind]]).mean(0)
            for kind in self.kinds
        ]
        return torch.stack(per_kind).mean(0)


class GivenHead(MaskHead):
    """The numbers that came with the pairs, as they are: one weight a token (as in TLCR, Yoon et al. 2024)."""

    looks_at = "values"

    def forward(self, views: Views) -> Tensor:
        return _brought(views).where(views.valid, 0.0)


class SelectedHead(MaskHead):
    """SePO: 1 on the tokens that an oracle's scores keep, the highest of a chosen response, the lowest of a rejected.

    The `values` are scores, log pi_oracle - log ref. Of N tokens floor(k N) are kept, and at least one; among equals
    the first. Source: Yang et al. 2024, arXiv 2408.13518.
    """

    looks_at = "values"

    def __init__(self, k_chosen: float, k_rejected: float):
        super().__init__()
        self.k_chosen, self.k_rejected = k_chosen, k_rejected

    def forward(self, views: Views) -> Tensor:
        chosen, rejected = _brought(views).chunk(2)
        ok_chosen, ok_rejected = views.valid.chunk(2)
        return torch.cat([highest(chosen, ok_chosen, self.k_chosen), highest(-rejected, ok_rejected, self.k_rejected)])


class ExcessHead(SelectedHead):
    """Rho-1: 1 on the tokens of the largest excess loss of the policy over an oracle trained on good texts.

    The excess is log pi_oracle - log pi, here as score - log pi/ref, with the policy as it is at this step. Source: Lin
    et al. 2024, who keep the top k of a batch; here it is of each response, so that a pair does not depend on others.
    """

    looks_at = "policy"

    def forward(self, views: Views) -> Tensor:
        chosen, rejected = (_brought(views) - views.logratio).chunk(2)
        ok_chosen, ok_rejected = views.valid.chunk(2)
        return torch.cat([highest(chosen, ok_chosen, self.k_chosen), highest(rejected, ok_rejected, self.k_rejected)])


class RandomHead(MaskHead):
    """Uniform in [0, 1), drawn anew for each batch: the control that says whether *where* matters."""

    def forward(self, views: Views) -> Tensor:
        return torch.rand(views.valid.shape, device=views.valid.device)


class UniformHead(MaskHead):
    """Weight 1 everywhere: in the released form this is TDPO v1."""

    def forward(self, views: Views) -> Tensor:
        return torch.ones(views.valid.shape, device=views.valid.device)


class Masks(nn.Module):
    """The two weights of a method, m_u on the reward and m_d on the KL, and what they cost.

    `heads` maps `common` to the one head of both, or `u` and `d` to a head each; a side without a head weighs 1.
    """

    def __init__(self, heads: Mapping[str, MaskHead], *, l1_u: float = 0.0, l1_d: float = 0.0, zeros: float = 0.25):
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        self.l1_u, self.l1_d, self.zeros = l1_u, l1_d, zeros

    @property
    def looks_at(self) -> set[str]:
        return {head.looks_at for head in self.heads.values()}

    @property
    def learned(self) -> bool:
        return any(True for _ in self.parameters())

    def forward(self, views: Views) -> tuple[Tensor, Tensor]:
        """m_u and m_d, each (s, t)."""
        weights = {name: self._weight(name, head, views) for name, head in self.heads.items()}
        if "common" in weights:
            return weights["common"], weights["common"]
        ones = torch.ones(views.valid.shape, device=views.valid.device)
        return weights.get("u", ones), weights.get("d", ones)

    def _weight(self, name: str, head: MaskHead, views: Views) -> Tensor:
        if head.looks_at == "activations" and views.weights is not None:
            return views.weights
        return head.weigh(views.projected[name]) if name in views.projected else head(views)

    def project(self, layer: int, depth: int, values: Tensor) -> dict[str, Tensor]:
        """What every learned head that looks at this layer makes of its states (..., d): name -> (..., 1)."""
        state = State(values)
        found = {name: head.project(layer, depth, state) for name, head in self._learned().items()}
        return {name: projected for name, projected in found.items() if projected is not None}

    def _learned(self) -> dict[str, LearnedHead]:
        return {name: head for name, head in self.heads.items() if isinstance(head, LearnedHead)}

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Views]) -> None:
        """Start every learned head alive on these tokens, see LearnedHead.start; one batch of states at a time."""
        heads = self._learned()
        if not heads:
            return
        raw = [
            {
                name: (views.projected[name] if name in views.projected else head.projections(views))[views.valid]
                for name, head in heads.items()
            }
            for views in batches
        ]
        for name, head in heads.items():
            head.start(torch.cat([of[name] for of in raw]), self.zeros)

    def penalty(self, m_u: Tensor, m_d: Tensor, valid: Tensor) -> Tensor:
        """(s, t) -> (s,): l1_u sum |m_u| + l1_d sum |m_d| over response tokens, of the sides that have a head.

        A common mask pays the mean of the two coefficients once, as in the authors' code.
        """
        share = {"u": self.l1_u, "d": self.l1_d}
        if "common" in self.heads:
            share = {"u": (self.l1_u + self.l1_d) / 2}
        norms = {"u": m_u.abs().where(valid, 0.0).sum(-1), "d": m_d.abs().where(valid, 0.0).sum(-1)}
        sides = [side for side in share if side in self.heads or "common" in self.heads]
        return torch.stack([share[side] * norms[side] for side in sides]).sum(0)


HEADS: dict[str, Callable[..., MaskHead]] = {
    "layers": lambda layers, width, **_: LayerHead(layers, width),
    "last": lambda width, **_: LastHead(width),
    "feed_forward_layers": lambda layers, width, **_: LayerHead(layers, width, inner=200),
    "feed_forward_last": lambda width, **_: LastHead(width, inner=200),
    "binary_layers": lambda layers, width, **_: LayerHead(layers, width, binary=True),
    "binary_last": lambda width, **_: LastHead(width, binary=True),
    "activations": lambda kinds, normalisation, **_: ActivationHead(kinds, normalisation),
    "given": lambda **_: GivenHead(),
    "selected": lambda k_chosen, k_rejected, **_: SelectedHead(k_chosen, k_rejected),
    "excess": lambda k_chosen, k_rejected, **_: ExcessHead(k_chosen, k_rejected),
    "random": lambda **_: RandomHead(),
    "uniform": lambda **_: UniformHead(),
}
"""By the name a config gives them; a run depends on the code of its own row alone."""


def build_masks(
    layers: int,
    width: int,
    *,
    mask: str = "layers",
    share: str = "common",
    kinds: Sequence[str] = ("mlp", "attention", "residual"),
    normalisation: Literal["minmax", "zscore"] = "minmax",
    l1_u: float = 0.0,
    l1_d: float = 0.0,
    initial_zeros: float = 0.25,
    k_chosen: float = 0.3,
    k_rejected: float = 0.3,
) -> Masks:
    """Masks for a reference of `layers` layers of `width`. Raises ValueError naming the allowed masks and shares."""
    if mask not in HEADS:
        raise ValueError(f"mask '{mask}' is unknown; allowed: {', '.join(HEADS)}")
    sides = {"common": ("common",), "independent": ("u", "d"), "reward_only": ("u",), "kl_only": ("d",)}
    if share not in sides:
        raise ValueError(f"mask share '{share}' is unknown; allowed: {', '.join(sides)}")
    given = {"layers": layers, "width": width, "kinds": kinds, "normalisation": normalisation}
    given |= {"k_chosen": k_chosen, "k_rejected": k_rejected}
    made = {side: HEADS[mask](**given) for side in sides[share]}
    return Masks(made, l1_u=l1_u, l1_d=l1_d, zeros=initial_zeros)


def highest(scores: Tensor, valid: Tensor, share: float) -> Tensor:
    """(s, t): 1 on the floor(share * N) highest scores of the N valid tokens of each row, and at least one, else 0."""
    count = (share * valid.sum(-1) + 1e-6).floor().clamp_min(1)  # 0.29 * 100 is a little less than 29
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(-1)
    return ((rank < count[:, None]) & valid).to(torch.promote_types(scores.dtype, torch.float32))


def _brought(views: Views) -> Tensor:
    if views.values is None:
        raise UserError(
            "the pairs bring no numbers for their tokens (chosen_values, rejected_values), which this mask reads"
        )
    return views.values


def _projection(width: int, inner: int | None) -> nn.Module:
    if inner is None:
        return nn.Linear(width, 1)
    return nn.Sequential(nn.Linear(width, inner), nn.Linear(inner, 1))


def _linears(projection: nn.Module) -> list[nn.Linear]:
    return [module for module in projection.modules() if isinstance(module, nn.Linear)]


def _start(projections: Iterable[nn.Module], raw: Tensor, zeros: float) -> Tensor:
    """Standardise and shift projections with outputs `raw` (n, p) as LearnedHead.start says; what they give then."""
    scale, mean = _scale_of(raw.std(0, correction=0)), raw.mean(0)
    standard = (raw - mean) / scale
    shift = -_between(standard.amax(-1), zeros)
    for index, projection in enumerate(projections):
        linear = _linears(projection)[-1]
        linear.weight.div_(scale[index])
        linear.bias.copy_((linear.bias - mean[index]) / scale[index] + shift)
    return standard + shift


def _between(values: Tensor, share: float) -> Tensor:
    """A quantile of (n,) values; none of the values below the largest, as rounding would decide that one's weight."""
    place = share * (len(values) - 1)
    if place == int(place) < len(values) - 1:
        return values.sort().values[int(place) :][:2].mean()
    return torch.quantile(values, share)


def _scale_of(spread: Tensor) -> Tensor:
    """What to divide by: 1 where there is nothing to tell apart (one token, or all alike), as 1 / 0 is no weight."""
    return torch.where(spread > 1e-4, spread, 1.0)


def _straight_through(weight: Tensor) -> Tensor:
    """1 where weight > 0 else 0, with the gradient of `weight`."""
    return weight + ((weight > 0).to(weight.dtype) - weight).detach()


def _zscore(values: Tensor, valid: Tensor) -> Tensor:
    """(s, t): (x - mean) / deviation over the valid tokens of each row (unbiased deviation); 0 where it is 0."""
    count = valid.sum(-1, keepdim=True)
    values = values.to(torch.promote_types(values.dtype, torch.float32)).where(valid, 0.0)
    centred = (values - values.sum(-1, keepdim=True) / count).where(valid, 0.0)
    deviation = (centred.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    low, high = _extremes(values, valid)  # not the deviation: a mean of equal numbers need not equal them
    return torch.where(high > low, centred / deviation, 0.0).where(valid, 0.0)


def _minmax(values: Tensor, valid: Tensor) -> Tensor:
    """(s, t): rescaled to [0, 1] over the valid tokens of each row; 1 where all are equal."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    low, high = _extremes(values, valid)
    return torch.where(high > low, (values - low) / (high - low), 1.0).where(valid, 0.0)


def _extremes(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest valid value of each row, (s, 1)."""
    return (
        values.where(valid, torch.inf).amin(-1, keepdim=True),
        values.where(valid, -torch.inf).amax(-1, keepdim=True),
    )
