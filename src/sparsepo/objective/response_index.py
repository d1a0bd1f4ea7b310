"""Where the response tokens of a batch are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ResponseIndex:
    """Positions of the n response tokens of a batch, in any layout. The label shift is here and nowhere else.

    hidden:  (n,) row of the flattened hidden states that predicts each response token, that of the token before it
    token:   (n,) position of the token itself in the flattened ids
    cell:    (n,) its cell in the flattened grid (s, t) of s responses, t tokens in the longest
    valid:   (s, t) True where a cell holds a token
    """

    hidden: Tensor
    token: Tensor
    cell: Tensor
    valid: Tensor

    @classmethod
    def from_spans(
        cls, before: Sequence[int], start: Sequence[int], length: Sequence[int], grid_row: Sequence[int]
    ) -> "ResponseIndex":
        """Of responses that are contiguous in the flattened ids, in the order given.

        before: position of the token whose state predicts the first one of a response; start: position of that first
        token; length: number of tokens; grid_row: row of the response in the grid.
        """
        length = torch.tensor(length)
        longest = int(length.max())
        response = torch.repeat_interleave(torch.arange(len(length)), length)
        order = torch.arange(len(response)) - (length.cumsum(0) - length)[response]
        token = torch.tensor(start)[response] + order
        hidden = torch.where(order == 0, torch.tensor(before)[response], token - 1)
        grid_row = torch.tensor(grid_row)
        valid = torch.empty(len(length), longest, dtype=torch.bool)
        valid[grid_row] = torch.arange(longest) < length[:, None]
        return cls(hidden, token, grid_row[response] * longest + order, valid)

    def select_hidden(self, hidden: Tensor) -> Tensor:
        """(rows, T, d) -> (n, d), or (rows, T) -> (n,): values at the positions that predict response tokens."""
        return hidden.flatten(0, 1).index_select(0, self.hidden)

    def select_labels(self, input_ids: Tensor) -> Tensor:
        """(rows, T) ids -> (n,) response tokens."""
        return input_ids.flatten().index_select(0, self.token)

    def to_grid(self, values: Tensor) -> Tensor:
        """(n, ...) -> (s, t, ...), zero where `valid` is False; differentiable."""
        s, t = self.valid.shape
        empty = values.new_zeros((s * t, *values.shape[1:]))
        return empty.index_copy(0, self.cell, values).unflatten(0, (s, t))

    def from_grid(self, grid: Tensor) -> Tensor:
        """(s, t, ...) -> (n, ...): the inverse of `to_grid`."""
        return grid.flatten(0, 1).index_select(0, self.cell)

    def select(self, rows: slice, responses: Tensor) -> "ResponseIndex":
        """Some tokens and the (k,) responses that they make up, as those of a smaller batch."""
        new_row = torch.full_like(self.valid[:, 0], -1, dtype=torch.long)
        new_row[responses] = torch.arange(len(responses), device=new_row.device)
        longest = self.valid.shape[1]
        cell = new_row[self.cell[rows] // longest] * longest + self.cell[rows] % longest
        return ResponseIndex(self.hidden[rows], self.token[rows], cell, self.valid[responses])
