"""Several runs in one process that share a pass of the frozen reference: one run works at a time, each in a thread.

A run that needs the reference for another batch than the last one waits until all others need another batch too.
Then the run that is furthest behind computes it, and the others read what it kept. Who runs when changes no result:
each run has its own random state, and what it reads is what it would compute.

glibc keeps what is freed for each thread: with MALLOC_ARENA_MAX=1 in the environment all runs use one heap.
"""

import random
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Semaphore, Thread
from typing import Any, TextIO

import numpy as np
import torch
from accelerate.state import GradientState
from torch import Tensor
from transformers import TrainerCallback

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.batches import PairBatch
from sparsepo.models.adapters import clone_sharing_weights, load_policy_and_reference
from sparsepo.models.architecture import LayerCallback
from sparsepo.runtime.errors import UserError
from sparsepo.training.pair_objective import response_states


class SharedReference:
    """The frozen weights and the last outputs that all `runs` read."""

    def __init__(self) -> None:
        self.runs: list[SharingRun] = []
        self.base: Any | None = None
        self.key: tuple | None = None
        self.hidden: Tensor | None = None
        self.layers: list[tuple[int, int, Tensor]] = []

    def train(self, jobs: Mapping[Path, Callable[["SharingRun"], None]]) -> list[str]:
        """Call each job, whose output goes to the log that is its key. Returns the error of each, "" for none.

        A job that fails ends alone; its log has the error.
        """
        self.runs = [SharingRun(self, log, job) for log, job in jobs.items()]
        for run in self.runs:
            run.thread.start()
        self.runs[0].turn.release()
        for run in self.runs:
            run.thread.join()
        return [run.error for run in self.runs]

    def next_run(self) -> "SharingRun | None":
        """The run whose turn it is: one whose batch is kept, else the one that is furthest behind."""
        unfinished = [run for run in self.runs if not run.is_finished]
        return min(unfinished, key=lambda run: (run.key is None or run.key != self.key, run.step), default=None)


class SharingRun(TrainerCallback):
    """One of the runs of a SharedReference; between its turns it keeps its part of what is global in a process."""

    def __init__(self, shared: SharedReference, log: Path, job: Callable[["SharingRun"], None]) -> None:
        self.shared, self.log, self.job = shared, log, job
        self.key: tuple | None = None
        self.step, self.is_finished, self.error = -1, False, ""
        self.waited = 0.0
        self.turn = Semaphore(0)
        self.thread = Thread(target=self._run, args=(global_state(),), daemon=True)

    @property
    def number_of_runs(self) -> int:
        return len(self.shared.runs)

    def clock(self) -> float:
        """Seconds, without those in which other runs had their turn."""
        return time.perf_counter() - self.waited

    def on_step_begin(self, args, state, control, **_):
        self.step = state.global_step

    def load(
        self,
        start: Path,
        reference: Path,
        config: PreferenceConfig,
        loading: dict[str, Any],
        needs_reference: bool = True,
    ) -> tuple[Any, Any]:
        """As `load_policy_and_reference`; the frozen weights are loaded once for all runs."""
        shared = self.shared
        if config.adapter is not None and start == reference:
            if shared.base is None:
                shared.base, _ = load_policy_and_reference(start, reference, config, loading, needs_reference=False)
            return clone_sharing_weights(shared.base), clone_sharing_weights(shared.base)
        policy, loaded = load_policy_and_reference(start, reference, config, loading, shared.base is None)
        shared.base = shared.base or loaded
        return policy, clone_sharing_weights(shared.base)

    def join(self, trainer: Any) -> None:
        """Let a PreferenceTrainer take the states of its reference from here."""
        trainer.model.response_states = self.response_states
        trainer.clock = self.clock
        trainer.add_callback(self)

    def response_states(self, reference: Any, batch: PairBatch, on_layer: LayerCallback | None = None) -> Tensor:
        """As `pair_objective.response_states`, computed once for all runs that are at this batch."""
        ids = batch.inputs.input_ids.cpu()  # of other pairs with the same indices: those of validation, of a statistic
        self.key, shared = (batch.pair_indices, ids.shape, ids.numpy().tobytes()), self.shared
        if self.key != shared.key:
            self._wait()
        if self.key != shared.key:
            shared.key, shared.layers = None, []
            shared.hidden = response_states(reference, batch, lambda *layer: shared.layers.append(layer))
            shared.key = self.key
        for layer in shared.layers if on_layer else ():
            on_layer(*layer)
        return shared.hidden

    def _wait(self) -> None:
        """Give the turn to the next run, and wait for it."""
        chosen = self.shared.next_run()
        if chosen is self:
            return
        state, start = global_state(), time.perf_counter()
        chosen.turn.release()
        self.turn.acquire()
        set_global_state(*state)
        self.waited += time.perf_counter() - start

    def _run(self, state: tuple) -> None:
        start = time.perf_counter()
        self.turn.acquire()
        self.waited += time.perf_counter() - start
        with open(self.log, "w", encoding="utf-8", buffering=1) as log:
            set_global_state(log, log, *state[2:])
            try:
                self.job(self)
            except UserError as error:
                self.error = str(error)
                print(f"error: {error}", flush=True)
            except Exception as error:
                self.error = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            finally:
                set_global_state(*state)
        self.is_finished, self.job = True, None
        chosen = self.shared.next_run()
        if chosen is not None:
            chosen.turn.release()


def global_state() -> tuple:
    """What a training reads and changes of its process: streams, random states, whether gradients are complete."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    generators = torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()
    return sys.stdout, sys.stderr, *generators, GradientState().sync_gradients


def set_global_state(
    stdout: TextIO, stderr: TextIO, cpu: Tensor, cuda: Any, numpy_state: Any, python_state: Any, sync_gradients: bool
) -> None:
    """Set what `global_state` returned."""
    sys.stdout, sys.stderr = stdout, stderr
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy_state)
    random.setstate(python_state)
    GradientState()._set_sync_gradients(sync_gradients)
