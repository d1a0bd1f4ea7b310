"""Two processes never train in one folder, and a dead one is in nobody's way."""

import os
import subprocess
import sys

import pytest

from sparsepo.runtime.errors import UserError
from sparsepo.training.checkpoints import lock_folder

HOLDS = """
import sys, time
from pathlib import Path
from sparsepo.training.checkpoints import lock_folder
lock_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_folder_is_held_by_one_process_until_it_dies(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(
                UserError, match=f"^{tmp_path}: process {other.pid} on .* is training there; wait until"
            ):
                lock_folder(tmp_path, timeout=0.0)
        finally:
            other.kill()
    lock_folder(tmp_path)
    lock_folder(tmp_path, timeout=0.0)  # one's own


def test_a_trainer_holds_its_folder_while_it_trains(toy, tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr("sparsepo.training.base_trainer.lock_folder", held.append)
    toy.trainer(tmp_path).train()
    assert held == [tmp_path]
