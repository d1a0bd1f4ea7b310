"""Trains what a test asks for, in the process that calls `run`, or in each process of a launch.

A launch is `python -m sparsepo.runtime.launch worker.py JOBS`.

FSDP is for GPUs: accelerate turns it into plain copies on a CPU without a word. `on_the_cpu` has it shard there too.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from transformers import TrainerCallback

from sparsepo.config.training import PreferenceConfig, SftConfig
from sparsepo.data.records import Preference, Text
from sparsepo.models.loading import load_model, load_tokenizer
from sparsepo.runtime.entry_point import run_main as as_command
from sparsepo.training.preference_trainer import PreferenceTrainer
from sparsepo.training.sft_trainer import SFTTrainer


class Harm(TrainerCallback):
    """At the end of step `at`, before it is logged or saved, something happens to the process `rank`."""

    def __init__(self, kind, at, rank):
        self.act, self.at, self.rank = getattr(self, kind), at, rank

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == self.at and args.process_index == self.rank:
            self.act(model)

    def poison(self, model):
        next(model.parameters()).data.fill_(float("nan"))

    def die(self, model):
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self, model):
        time.sleep(600)


def trainer_of(job, made):
    """The trainer of a job; `made` is the folder of the model and the texts that all jobs start from."""
    tokenizer, rows = load_tokenizer(made / "model"), json.loads((made / "pairs.json").read_text())
    pairs = [Preference(**row) for row in rows]
    given = {"folder": Path(job["folder"]) / "work", "seed": 3, "identity": "mine"}
    if job["method"] == "sft":
        texts = [Text(pair.chosen, pair.prompt) for pair in pairs]
        return SFTTrainer(load_model(made / "model"), tokenizer, texts, config=SftConfig(**job["config"]), **given)
    models = [load_model(made / "model") for _ in range(2)]
    given |= {"config": PreferenceConfig(**job["config"]), "method": job["method"], "hyper": job.get("hyper", {})}
    if job["config"].get("frontier_every"):
        given["measure"] = lambda policy: {
            "size": float(sum(p.detach().double().square().sum() for p in policy.parameters()))
        }
    return PreferenceTrainer(*models, tokenizer, pairs, validation=pairs[:5], **given)


def run(job, made):
    """Train and save; the logs stay in `folder`/work."""
    trainer = trainer_of(job, made)
    if "harm" in job:
        trainer.add_callback(Harm(*job["harm"]))
    trainer.train()
    trainer.save(Path(job["folder"]) / "out")


def on_the_cpu():
    """Have accelerate shard where it would not; only its two records of the kind of run are touched."""
    plain = AcceleratorState.__init__

    def init(self, *arguments, fsdp_plugin=None, **named):
        plain(self, *arguments, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def main():
    path = Path(sys.argv[1])
    on_the_cpu()
    for job in json.loads(path.read_text()):
        run(job, path.parent)


if __name__ == "__main__":
    as_command(main)
