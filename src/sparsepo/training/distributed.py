"""A step on several processes: each takes its share of the data, and weights may be sharded over them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
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

from sparsepo.training.checkpoints import replace_weight, set_weights, trained_weights, whole


class SharedTrainer(Trainer):
    """A Trainer that may run on one process or on several, see `sparsepo.runtime.launch`, as DDP, FSDP or DeepSpeed.

    All processes draw the same data in the same order, and `Shares`, the collator, takes the share of each: what a step
    learns from does not depend on how many there are.
    """

    def gather(self) -> bool:
        """When training is over: give a model whose weights are sharded whole ones; whether this process is to save it.

        All processes have to call it at once.
        """
        mine, state = self.is_world_process_zero(), self._deepspeed_state()
        names: dict[Tensor, list[str]] = {}
        for name, value in self.model.named_parameters(remove_duplicate=False):
            names.setdefault(value, []).append(name)
        for value, tied in names.items():
            found = [whole(value)] if isinstance(value, DTensor) else [state[name] for name in tied if name in state]
            if mine and found:
                replace_weight(self.model, tied, found[0])
        return mine

    def _deepspeed_state(self) -> dict[str, Tensor]:
        """All weights that its engine has, on the process that saves them."""
        return {} if self.deepspeed is None else self.accelerator.get_state_dict(self.model_wrapped) or {}

    def get_train_dataloader(self):
        """Every process draws all data of a step, and its collator takes its share."""
        loader = super().get_train_dataloader()
        if self.args.world_size > 1:  # accelerate would deal whole batches out in turn, some of them twice
            dealer = loader.batch_sampler
            dealer.num_processes, dealer.process_index, dealer.even_batches = 1, 0, False
        return loader

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One step: the gradient of the mean loss over all that counts, on all processes, by micro-batches."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        self.prepare(model, inputs["micro"])
        count = inputs["count"] / self.args.world_size  # gradients are averaged over processes
        found = []
        for batch in inputs["micro"]:
            with self._exchanging(model, len(found) == len(inputs["micro"]) - 1):
                with self.compute_loss_context_manager():
                    loss = batch["weight"] * self.compute_loss(model, batch) / count
                self.accelerator.backward(loss)
            found.append(loss.detach())
            self.watch(found[-1], batch)
        return torch.stack(found).sum()

    def _exchanging(self, model: Any, last: bool) -> AbstractContextManager:
        """Processes exchange gradients in the backward pass of the last micro-batch alone."""
        self.accelerator.gradient_state._set_sync_gradients(last)  # DeepSpeed's engine asks this
        return nullcontext() if last else self.accelerator.no_sync(model)

    def prepare(self, model: Any, micro: Sequence[dict[str, Any]]) -> None:
        """Given all micro-batches of a step before the first of them: adds what their losses need of the whole step."""

    def rest(self) -> None:
        """After a pass without gradient: FSDP takes its weights back, as a backward pass would have it do."""
        if isinstance(self.model, FSDPModule):
            self.model.reshard()

    def watch(self, loss: Tensor, batch: dict[str, Any]) -> None:
        """Told of each micro-batch."""

    def total(self, values: Sequence[Tensor | float]) -> list[float]:
        """The sum of each over all processes."""
        kind = {"dtype": torch.float64, "device": self.args.device}
        return self.accelerator.reduce(torch.stack([torch.as_tensor(value, **kind) for value in values])).tolist()

    def save_model(self, output_dir=None, _internal_call=False):
        """The trained parameters alone."""
        target, weights = Path(output_dir or self.folder), self._trained()
        if self.is_world_process_zero():
            target.mkdir(parents=True, exist_ok=True)
            save_file(weights, target / "model.safetensors")

    def _trained(self) -> dict[str, Tensor]:
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


class Batches(Protocol):
    """How data become batches: `cut` into micro-batches, each collated, its `tokens` counted too.

    `count`: how many things there are in them whose mean loss is minimised.
    """

    def cut(self, items: Sequence[Any]) -> list[Any]: ...

    def collate(self, items: Sequence[Any]) -> dict[str, Any]: ...

    def count(self, items: Sequence[Any]) -> int: ...


class Shares:
    """Collates all data of a step into the share of process `rank` of `ranks`.

    `micro`: its micro-batches, each with a `weight`; `count`: that of the whole step, whatever the number of processes.
    Every process gets as many, since sharded weights are gathered by all at once: who has less to do computes another's
    with weight 0.
    """

    def __init__(self, batches: Batches, rank: int = 0, ranks: int = 1):
        self.batches, self.rank, self.ranks = batches, rank, ranks

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        parts = [self.batches.cut(items[rank :: self.ranks]) for rank in range(self.ranks)]
        own, spare = parts[self.rank], parts[0][-1]
        idle = [spare] * (max(map(len, parts)) - len(own))
        micro = [{**self.batches.collate(part), "weight": 1} for part in own]
        micro += [{**self.batches.collate(part), "weight": 0} for part in idle]
        return {"micro": micro, "count": self.batches.count(items)}
