"""One training step, three ways: ours, the authors' math as they compute it, and TRL's DPO.

Each maker takes a policy and a reference and gives a function: pairs -> mean loss, whose backward pass fills `.grad`.
No optimiser: it costs everyone the same.
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from workloads import word_tokenizer

from sparsepo.data.collation import collate_pairs
from sparsepo.data.encoding import TokenPair
from sparsepo.training.method_masks import build_method_masks
from sparsepo.training.pair_objective import PairObjective

BETA = 0.1
Step = Callable[[Sequence[TokenPair]], Tensor]


def ours(policy: Any, reference: Any, gradients: str) -> Step:
    """SparsePO with independent masks and the KL that its loss needs; `gradients` is `forward` or `recompute`."""
    masks = build_method_masks("sparsepo_independent", reference, {})
    hyper = {"beta": BETA, "form": "released"}
    objective = PairObjective(policy, reference, "sparsepo_independent", hyper, masks, kl=(), gradients=gradients)
    return lambda pairs: objective(collate_pairs(pairs, 0, layout="shared")).total / len(pairs)


# --- the authors' math


class PublishedMask(nn.Module):
    """m_t = ReLU(sum_l c_l ReLU(w_l . LayerNorm(h_l) + b_l)) at every position, one LayerNorm for all layers."""

    def __init__(self, layers: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = nn.ModuleList(nn.Linear(width, 1) for _ in range(layers))
        self.merge = nn.Linear(layers, 1, bias=False)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        per_layer = [F.relu(linear(self.norm(state))) for linear, state in zip(self.layer, states, strict=True)]
        return F.relu(self.merge(torch.cat(per_layer, -1)))[..., 0]


def published(policy: Any, reference: Any) -> Step:
    """SparsePO as released: padded sequences, and the whole vocabulary of both models at every position."""
    shape = policy.config.num_hidden_layers, policy.config.hidden_size
    m_u, m_d = (PublishedMask(*shape).to(policy.dtype) for _ in range(2))
    return lambda pairs: published_loss(policy, reference, m_u, m_d, pairs).mean()


def published_loss(policy: Any, reference: Any, m_u: nn.Module, m_d: nn.Module, pairs: Sequence[TokenPair]) -> Tensor:
    """(b,) -log sigmoid(beta (u_c - u_r)), u = sum_t m_u log pi/ref + m_d KL(ref || pi); float32 softmaxes."""
    sequences = [pair.prompt + pair.chosen for pair in pairs] + [pair.prompt + pair.rejected for pair in pairs]
    prompts = torch.tensor([len(pair.prompt) for pair in pairs] * 2)[:, None]
    lengths = torch.tensor([len(sequence) for sequence in sequences])[:, None]
    ids = nn.utils.rnn.pad_sequence([torch.tensor(sequence) for sequence in sequences], batch_first=True)
    place = torch.arange(ids.shape[1])
    inputs = {"input_ids": ids, "attention_mask": (place < lengths).long(), "use_cache": False}

    logits = policy(**inputs).logits
    with torch.no_grad():
        seen = reference(**inputs, output_hidden_states=True)
    more = torch.promote_types(logits.dtype, torch.float32)
    log_p = logits[:, :-1].to(more).log_softmax(-1)
    log_q = seen.logits[:, :-1].to(more).log_softmax(-1)
    kl = (log_q.exp() * (log_q - log_p)).sum(-1)
    label = ids[:, 1:, None]
    ratio = (log_p.gather(-1, label) - log_q.gather(-1, label))[..., 0]
    response = ((place >= prompts) & (place < lengths))[:, 1:]
    weight_u, weight_d = (mask(seen.hidden_states[1:])[:, :-1] for mask in (m_u, m_d))
    chosen, rejected = ((weight_u * ratio + weight_d * kl) * response).sum(-1).chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected))


# --- TRL


def trl(policy: Any, reference: Any) -> Step:
    """TRL's own DPOTrainer: its collator, its loss and its chunked output head, the reference run in each step.

    `padding_free` is switched off in TRL 1.16 for DPO, and Liger's kernels need a GPU.
    """
    checkpointing = policy.is_activation_checkpointing
    trainer = dpo_trainer(policy, reference, use_cpu=True, bf16=False, activation_checkpointing=checkpointing)

    def step(pairs: Sequence[TokenPair]) -> Tensor:
        batch = trainer.data_collator([as_trl(pair) for pair in pairs])
        with response_positions_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of its own use of transformers
            return trainer.compute_loss(trainer.model, batch)

    return step


def response_positions_only() -> AbstractContextManager:
    """On a GPU TRL's head looks at response positions only; elsewhere at all.

    The switch is `_use_triton`, which the module of the head asks. It is told yes, the fair opponent, while the kernels
    below, which ask for themselves, still take their plain torch form.
    """
    from trl.trainer import utils

    return mock.patch.object(utils, "_use_triton", lambda device: True)


def as_trl(pair: TokenPair) -> dict[str, list[int]]:
    return {f"{name}_ids": ids for name, ids in vars(pair).items()}


def dpo_trainer(
    policy: Any,
    reference: Any,
    *,
    pairs: Sequence[TokenPair] = (TokenPair([1], [2], [3]),),
    peft_config: Any = None,
    **settings: Any,
) -> Any:
    """A DPOTrainer of pairs that are token ids already, which it offers no other way to give."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class OfIds(DPOTrainer):
        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset

    with tempfile.TemporaryDirectory() as folder:
        return OfIds(
            policy,
            reference,
            DPOConfig(folder, **{"beta": BETA, "max_length": None, "report_to": "none"} | settings),
            train_dataset=Dataset.from_list([as_trl(pair) for pair in pairs]),
            processing_class=word_tokenizer(1),
            peft_config=peft_config,
        )
