"""A step on several processes: each takes its share of the data, and weights may be sharded over them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import save_fsdp_optimizer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from sparsepo.data.batches import Batch
from sparsepo.training.checkpoints import full_tensor, replace_parameter, set_weights, trained_weights


class DistributedTrainer(Trainer):
    """A Trainer for one process or several, see `sparsepo.runtime.launch`, as DDP, FSDP or DeepSpeed.

    All processes draw the same data in the same order, and `StepCollator` takes the share of each: the result does not
    depend on the number of processes.
    """

    def gather_weights(self) -> bool:
        """After training: give a model with sharded weights full ones. Returns whether this process is to save them.

        All processes have to call it.
        """
        is_first, state = self.is_world_process_zero(), self._deepspeed_state()
        names: dict[Tensor, list[str]] = {}
        for name, value in self.model.named_parameters(remove_duplicate=False):
            names.setdefault(value, []).append(name)
        for value, tied_names in names.items():
            if isinstance(value, DTensor):
                full = [full_tensor(value)]
            else:
                full = [state[name] for name in tied_names if name in state]
            if is_first and full:
                replace_parameter(self.model, tied_names, full[0])
        return is_first

    def _deepspeed_state(self) -> dict[str, Tensor]:
        """All weights of DeepSpeed's engine, on the process that saves them."""
        return {} if self.deepspeed is None else self.accelerator.get_state_dict(self.model_wrapped) or {}

    def get_train_dataloader(self):
        """Every process loads all data of a step, and its collator takes its share."""
        loader = super().get_train_dataloader()
        if self.args.world_size > 1:  # accelerate would give whole batches to processes in turn, some of them twice
            sampler = loader.batch_sampler
            sampler.num_processes, sampler.process_index, sampler.even_batches = 1, 0, False
        return loader

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One step: the gradient of the mean loss over all items of all processes, by micro-batches."""
        model.train()
        batches = self.prepare_step(model, inputs["micro_batches"])
        count = inputs["count"] / self.args.world_size  # gradients are averaged over processes
        losses = []
        for number, batch in enumerate(batches, start=1):
            with self._gradient_sync(model, is_last=number == len(batches)):
                with self.compute_loss_context_manager():
                    loss = batch.weight * self.compute_loss(model, batch) / count
                self.accelerator.backward(loss)
            losses.append(loss.detach())
            self.on_micro_batch(losses[-1], batch)
        return torch.stack(losses).sum()

    def _gradient_sync(self, model: Any, is_last: bool) -> AbstractContextManager:
        """Processes exchange gradients in the backward pass of the last micro-batch only."""
        self.accelerator.gradient_state._set_sync_gradients(is_last)  # DeepSpeed's engine reads this
        return nullcontext() if is_last else self.accelerator.no_sync(model)

    def prepare_step(self, model: Any, batches: Sequence[Batch]) -> Sequence[Batch]:
        """All micro-batches of a step, with what their losses need of the whole step; called before the first loss."""
        return batches

    def reshard(self) -> None:
        """After a forward pass without gradient: FSDP shards its weights again, as after a backward pass."""
        if isinstance(self.model, FSDPModule):
            self.model.reshard()

    def on_micro_batch(self, loss: Tensor, batch: Batch) -> None:
        """Called after each micro-batch."""

    def sum_over_processes(self, values: Sequence[Tensor | float]) -> list[float]:
        """The sum of each value."""
        kind = {"dtype": torch.float64, "device": self.args.device}
        return self.accelerator.reduce(torch.stack([torch.as_tensor(value, **kind) for value in values])).tolist()

    def save_model(self, output_dir=None, _internal_call=False):
        """The trained parameters only."""
        target, weights = Path(output_dir or self.folder), self._trained_weights()
        if self.is_world_process_zero():
            target.mkdir(parents=True, exist_ok=True)
            save_file(weights, target / "model.safetensors")

    def _trained_weights(self) -> dict[str, Tensor]:
        if self.deepspeed is None:
            return trained_weights(self.model)
        names, state = [n for n, value in self.model.named_parameters() if value.requires_grad], self._deepspeed_state()
        return {name: state[name] for name in names if name in state}

    def _save_optimizer_and_scheduler(self, output_dir):
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        plugin = self.accelerator.state.fsdp_plugin  # transformers would write the weights a second time
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.is_world_process_zero():
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        set_weights(self.model, load_file(Path(resume_from_checkpoint) / "model.safetensors"))


class BatchMaker(Protocol):
    """How items become batches.

    split: into the items of each micro-batch. collate: the batch of one micro-batch. count: how many losses there are,
    of which the mean is minimised.
    """

    def split(self, items: Sequence[Any]) -> list[Any]: ...

    def collate(self, items: Sequence[Any]) -> Batch: ...

    def count(self, items: Sequence[Any]) -> int: ...


class StepCollator:
    """Collates the items of a step into the share of process `rank` of `num_ranks`.

    micro_batches: those of this process; count: that of the whole step. Every process gets the same number of
    micro-batches, since all have to gather sharded weights together: one with fewer also computes another process's,
    with weight 0.
    """

    def __init__(self, maker: BatchMaker, rank: int = 0, num_ranks: int = 1):
        self.maker, self.rank, self.num_ranks = maker, rank, num_ranks

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        shares = [self.maker.split(items[rank :: self.num_ranks]) for rank in range(self.num_ranks)]
        own, spare = shares[self.rank], shares[0][-1]
        num_idle = max(map(len, shares)) - len(own)
        micro_batches = [self.maker.collate(part) for part in own]
        micro_batches += [replace(self.maker.collate(spare), weight=0) for _ in range(num_idle)]
        return {"micro_batches": micro_batches, "count": self.maker.count(items)}
