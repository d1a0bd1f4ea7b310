"""Per-token log-probs and KL of policy and reference from hidden states; and where response tokens stand in a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsepo.objective.fused_head import InForward, Recompute, rows_together
from sparsepo.objective.kernels import Bend, HeadInputs, OutputMap

KL = ("reverse", "forward")
CHUNK = 2**23
"""Logits of a model that exist at a time when they are recomputed on a CPU: 32 MB in float32."""


@dataclass(frozen=True)
class Head:
    """The last map of a causal LM: z = scale * (h W^T + bias), then cap * tanh(z / cap) where `softcap` is given.

    weight: (vocabulary, width); bias: (vocabulary,) or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def copy(self) -> "Head":
        """A frozen one that does not change when the model is trained."""
        bias = None if self.bias is None else self.bias.detach().clone()
        return replace(self, weight=self.weight.detach().clone(), bias=bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary), float32 or float64: exactly what `token_terms` computes with."""
        logits = F.linear(hidden, self.weight, self.bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


@dataclass(frozen=True)
class TokenTerms:
    """What every loss is a sentence about; each (n,), float32 (float64 for float64 input), nats.

    reverse_kl is KL(policy || reference), forward_kl is KL(reference || policy), both over the whole vocabulary; None
    where not asked for, as ref_logps is without a reference. total: the loss, where `token_terms` was given one.
    """

    logps: Tensor
    ref_logps: Tensor | None
    reverse_kl: Tensor | None
    forward_kl: Tensor | None
    total: Tensor | None = None


@dataclass(frozen=True)
class SummedLoss:
    """A loss that is a sum over groups of rows: its gradient can be computed group by group in the forward pass.

    of: (rows, terms of these rows, weights of these rows) -> scalar.
    groups: slices of rows, together all of them, each with whole pairs; the logits of one group live at a time.
    weights: (n,) tensors that the loss depends on and that want a gradient, the masks.
    """

    of: Callable[[slice, TokenTerms, Sequence[Tensor]], Tensor]
    groups: Sequence[slice]
    weights: Sequence[Tensor] = ()


@dataclass(frozen=True)
class ResponseIndex:
    """Where the response tokens of a batch live, whatever its layout: the only place of the label shift.

    index:  (n,) row of the flattened hidden states that predicts each response token
    target: (n,) where the token itself stands in the flattened ids
    slot:   (n,) its place in the flattened (s * r) grid, s responses, r = longest response
    valid:  (s, r) True where the grid holds a token
    """

    index: Tensor
    target: Tensor
    slot: Tensor
    valid: Tensor

    def take(self, hidden: Tensor) -> Tensor:
        """(rows, T, d) -> (n, d), or (rows, T) -> (n,): values at the positions that predict response tokens."""
        return hidden.flatten(0, 1).index_select(0, self.index)

    def labels(self, input_ids: Tensor) -> Tensor:
        """(rows, T) ids -> (n,) response tokens."""
        return input_ids.flatten().index_select(0, self.target)

    def grid(self, values: Tensor) -> Tensor:
        """(n, ...) -> (s, r, ...), zero where `valid` is False; differentiable."""
        s, r = self.valid.shape
        empty = values.new_zeros((s * r, *values.shape[1:]))
        return empty.index_copy(0, self.slot, values).unflatten(0, (s, r))

    def tokens(self, grid: Tensor) -> Tensor:
        """(s, r, ...) -> (n, ...): the inverse of `grid`."""
        return grid.flatten(0, 1).index_select(0, self.slot)

    def part(self, rows: slice, responses: Tensor) -> "ResponseIndex":
        """Some tokens and the (k,) responses that they make up, as rows of a smaller batch."""
        place = torch.full_like(self.valid[:, 0], -1, dtype=torch.long)
        place[responses] = torch.arange(len(responses), device=place.device)
        longest = self.valid.shape[1]
        slot = place[self.slot[rows] // longest] * longest + self.slot[rows] % longest
        return ResponseIndex(self.index[rows], self.target[rows], slot, self.valid[responses])


def rows_at(first: Sequence[int], start: Sequence[int], length: Sequence[int], place: Sequence[int]) -> ResponseIndex:
    """Rows of responses that stand contiguously in the flattened ids, in the order given.

    first: the position whose state predicts a response's first token; start: where that token stands; length: how many
    tokens it has; place: its row in the grid. The state at position t - 1 speaks about token t.
    """
    length = torch.tensor(length)
    longest = int(length.max())
    response = torch.repeat_interleave(torch.arange(len(length)), length)
    order = torch.arange(len(response)) - (length.cumsum(0) - length)[response]
    target = torch.tensor(start)[response] + order
    index = torch.where(order == 0, torch.tensor(first)[response], target - 1)
    place = torch.tensor(place)
    valid = torch.empty(len(length), longest, dtype=torch.bool)
    valid[place] = torch.arange(longest) < length[:, None]
    return ResponseIndex(index, target, place[response] * longest + order, valid)


def response_rows(response_mask: Tensor) -> ResponseIndex:
    """Rows of a (s, T) boolean mask of response tokens. The state at position t - 1 speaks about token t.

    Raises ValueError when a sequence has no response token, or begins with one (nothing predicts it).
    """
    if response_mask.dtype != torch.bool or response_mask.ndim != 2:
        raise ValueError(f"a (sequences, positions) boolean mask is expected, not {response_mask.dtype}")
    lengths = response_mask.sum(1)
    if (lengths == 0).any() or response_mask[:, 0].any():
        raise ValueError("each sequence needs a prompt token before its response and at least one response token")
    target = response_mask.flatten().nonzero()[:, 0]
    sequence = target // response_mask.shape[1]
    order = response_mask.cumsum(1).flatten().index_select(0, target) - 1
    longest = int(lengths.max())
    valid = torch.arange(longest, device=lengths.device) < lengths[:, None]
    return ResponseIndex(target - 1, target, sequence * longest + order, valid)


def token_terms(
    hidden: Tensor,
    ref_hidden: Tensor | None,
    head: Head,
    ref_head: Head | None,
    labels: Tensor,
    *,
    kl: Sequence[str] = KL,
    chunk: int | None = None,
    loss: SummedLoss | None = None,
) -> TokenTerms:
    r"""Terms of n response tokens.

        logps      = log softmax(z)[label]                 ref_logps = the same of the reference
        reverse_kl = sum_v p_v (log p_v - log q_v)         forward_kl = sum_v q_v (log q_v - log p_v)

    hidden: (n, d), ref_hidden: (n, d'): last hidden states that predict `labels` (n,). Gradients flow to `hidden`
    and `head`, never to the reference. ref_hidden and ref_head None: the policy alone. kl: the directions to compute,
    some of "reverse", "forward".

    Without `loss` at most `chunk` rows of logits of either model exist at a time (None: as many as make 8 million, on a
    GPU 134 million): the backward pass recomputes them, so memory grows with n * (d + d'), not with n * vocabulary.
    With `loss` its gradients are computed in this call, a group of rows at a time, and nothing is computed twice; the
    terms then carry no gradient, `total` does.

    Statistics are float32 over logits of the hidden states' dtype (float64 stays float64): a softmax in bfloat16 puts a
    KL of 1e-3 off by 920%. A token that both models ban (logit -inf) contributes nothing, and no 0 * inf.

    Raises ValueError on mismatched shapes or vocabularies, or a KL without a reference.
    """
    _check_shapes(hidden, ref_hidden, head, ref_head, labels, kl)
    policy = _side(hidden, head)
    reference = None if ref_hidden is None else _side(ref_hidden.detach(), ref_head)
    with torch.autocast(hidden.device.type, enabled=False):
        problem = HeadInputs(policy, reference, labels, tuple(kl))
        trained = (policy.hidden, policy.weight, policy.bias)
        if loss is None:
            size = _chunk(policy.weight) if chunk is None else chunk
            return TokenTerms(*Recompute.apply(problem, size, *trained))

        def score(rows: slice, *values: Tensor | Sequence[Tensor] | None) -> Tensor:
            return loss.of(rows, TokenTerms(*values[:-1]), values[-1])

        total, *terms = InForward.apply(problem, score, list(loss.groups), *trained, *loss.weights)
        return TokenTerms(*terms, total)


def _chunk(weight: Tensor) -> int:
    """Rows that are recomputed together."""
    return rows_together(weight) if weight.is_cuda else max(1, CHUNK // len(weight))


def _check_shapes(hidden, ref_hidden, head, ref_head, labels, kl) -> None:
    if (ref_hidden is None) != (ref_head is None) or (ref_hidden is None and kl):
        raise ValueError("a KL, and a reference's states or head, need all of the reference: ref_hidden and ref_head")
    if unknown := set(kl) - set(KL):
        raise ValueError(f"kl may name {', '.join(KL)}, not {', '.join(sorted(unknown))}")
    shapes = [tuple(tensor.shape) for tensor in (hidden, hidden if ref_hidden is None else ref_hidden, labels)]
    if [len(shape) for shape in shapes] != [2, 2, 1] or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"hidden (n, d), ref_hidden (n, d') and labels (n,) are expected, not {tuple(shapes)}")
    if ref_head is not None and head.weight.shape[0] != ref_head.weight.shape[0]:
        sizes = head.weight.shape[0], ref_head.weight.shape[0]
        raise ValueError(f"policy and reference have different vocabularies: {sizes[0]} and {sizes[1]} tokens")


def _side(hidden: Tensor, head: Head) -> OutputMap:
    """Under autocast its dtype, as a linear map of the model would take."""
    tensors = (hidden, head.weight, head.bias)
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        tensors = tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)
    return OutputMap(*tensors, Bend(head.scale, head.softcap))
