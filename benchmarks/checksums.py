"""What a checksum costs against what it guards: `python benchmarks/checksums.py`, or a row of `make bench`.

A model of 51 million weights (a GPT-2 of 8 layers) is written and read again, with the checksum of each file, against
one step of training it on 8 texts of 128 tokens. CPU time of one thread; the time of the disk is not in it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from harness import Finding, interleaved, median_ratio, table
from transformers import GPT2Config, GPT2LMHeadModel

from sparsepo.runtime.atomic_folder import atomic_folder
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.files import _HASHES, check_folder

ROUNDS = 3
GOAL = 0.1


def nothing() -> None:
    pass


def report() -> list[Finding]:
    torch.set_num_threads(1)
    model = GPT2LMHeadModel(GPT2Config(n_layer=8, n_embd=512, n_head=8, n_positions=128))
    ids = torch.randint(0, 50_257, (8, 128))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"

        def write(_: None) -> Callable[[], None]:
            with atomic_folder(folder) as temporary:
                model.save_pretrained(temporary)
            return _HASHES.clear

        def write_plainly(_: None) -> Callable[[], None]:
            model.save_pretrained(folder.with_name("plain"))
            return nothing

        def check(_: None) -> Callable[[], None]:
            check_folder(folder)
            return _HASHES.clear

        def step(_: None) -> Callable[[], None]:
            model(ids, labels=ids).loss.backward()
            return model.zero_grad

        write(None)()
        runs = {"write": write, "plain": write_plainly, "check": check, "step": step}
        seconds = interleaved(runs, [dict.fromkeys(runs)] * ROUNDS)
    added = [own - plain for own, plain in zip(seconds["write"], seconds["plain"], strict=True)]
    read, written = (median_ratio(own, seconds["step"]) for own in (seconds["check"], added))
    return [
        Finding("checksum-read", "checking a model / one step of training it", read, GOAL, "1 thread"),
        Finding("checksum-write", "what checksums add to writing it / the same step", written, GOAL, "1 thread"),
    ]


def main() -> None:
    print(table(report()))


if __name__ == "__main__":
    run_main(main)
