"""A reader never meets a half-written file or model folder, at whatever moment its writer dies."""

import errno
import json
import os
import re
import subprocess
import sys

import pytest
from safetensors.numpy import save as tensors

from sparsepo.data import records
from sparsepo.runtime.atomic_folder import atomic_folder, check_model_folder
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.errors import UserError, add_path_to_disk_error
from sparsepo.training.checkpoints import is_complete, mark_complete

FILES = ("config.json", "generation_config.json", "masks.json", "masks.safetensors", "model.safetensors")


class Killed(BaseException):
    """What stands for a kill: nothing of the package catches it."""


def save(folder, content):
    with atomic_folder(folder) as place:
        (place / "adapter").mkdir()
        for name in (*FILES, "adapter/adapter.safetensors"):
            said = {"content": content}
            (place / name).write_bytes(tensors({}, said) if "safetensors" in name else json.dumps(said).encode())


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".sha256"]
    return {re.search(r'"content": ?"(\w+)"', path.read_bytes().decode(errors="replace"))[1] for path in files}


@pytest.mark.parametrize("moment", range(2 * len(FILES) + 1))
def test_a_model_folder_is_the_new_model_or_none_whenever_its_writer_dies(tmp_path, monkeypatch, moment):
    """Masks are there when the model is; a second attempt makes it whole, also over a former model."""
    save(tmp_path, "former")
    assert check_model_folder(tmp_path) is None and contents(tmp_path) == {"former"}
    moves, real = [], os.replace

    def dying(source, target):
        if len(moves) == moment:
            raise Killed
        moves.append(real(source, target))

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("sparsepo.runtime.atomic_folder.os.replace", dying)
        patch.setattr(
            "sparsepo.runtime.atomic_folder.shutil.rmtree", lambda *_, **__: None
        )  # a killed process cleans nothing up
        (tmp_path / "adapter/adapter.safetensors").unlink()
        (tmp_path / "adapter").rmdir()
        save(tmp_path, "new")
    assert check_model_folder(tmp_path) == f"{tmp_path}: not a model folder: it has no config.json"
    save(tmp_path, "new")
    assert check_model_folder(tmp_path) is None and contents(tmp_path) == {"new"}
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "adapter", ".checksums"}


def test_a_model_that_cannot_be_written_leaves_the_former_one(tmp_path):
    save(tmp_path, "former")
    with pytest.raises(OSError, match="No space left") as told, atomic_folder(tmp_path) as place:
        (place / "model.safetensors").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert told.value.filename == str(tmp_path)
    assert check_model_folder(tmp_path) is None and contents(tmp_path) == {"former"}


def test_other_files_of_a_model_folder_stay(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "run.json").write_text("{}")
    save(tmp_path, "new")
    assert (tmp_path / "checkpoint").is_dir() and (tmp_path / "run.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_file_is_the_former_one_until_the_new_one_is_whole(tmp_path, monkeypatch, name):
    path = tmp_path / "rows.jsonl"
    records.write_records(path, [{"row": 1}])

    def fails(*_):
        assert path.read_text() == '{"row": 1}\n'
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, name, fails)
    with pytest.raises(OSError, match="No space left"):
        records.write_records(path, [{"row": 2}, {"row": 3}])
    assert path.read_text() == '{"row": 1}\n' and not list(tmp_path.rglob("*.tmp*"))


def test_a_checkpoint_cut_anywhere_is_not_whole(tmp_path):
    content = {"model.safetensors": b"weights" * 9, "optimizer.pt": b"state" * 5, "trainer_state.json": b"{}"}
    for name, written in content.items():
        (tmp_path / name).write_bytes(written)
    mark_complete(tmp_path, "mine")
    mark = (tmp_path / "complete.json").read_bytes()
    for name, written in {**content, "complete.json": mark}.items():
        for length in range(len(written.rstrip())):
            (tmp_path / name).write_bytes(written[:length])
            assert not is_complete(tmp_path, "mine"), (name, length)
        (tmp_path / name).write_bytes(written)
    assert is_complete(tmp_path, "mine")


# --- how a command ends


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        Exception("I/O error: No space left on device (os error 28)"),  # as libraries in Rust say it
    ],
)
def test_a_full_disk_is_one_sentence_that_names_the_file(tmp_path, capsys, error):
    def main():
        with add_path_to_disk_error(tmp_path / "rows.jsonl"):
            raise error

    with pytest.raises(SystemExit) as left:
        run_main(main)
    assert left.value.code == 1
    expected = (
        f"error: no space left on the disk ({tmp_path}/rows.jsonl); make room and run again, what is complete is kept\n"
    )
    assert capsys.readouterr().err == expected


SENDS = """
import os, subprocess, sys
environment = os.environ | {"SPARSEPO_SNAKEMAKE": str(os.getpid())}
with open("/dev/full", "w") as full:
    sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]], stdout=full, stderr=full, env=environment).returncode)
"""


def test_a_sentence_that_its_log_has_no_room_for_is_said_by_snakemake_itself():
    """/dev/full is a disk without room."""
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full, a device of Linux, is missing")
    job = (
        "from sparsepo.runtime.entry_point import run_main\nfrom sparsepo.runtime.errors import UserError\n"
        "def main(): raise UserError('too bad')\nrun_main(main)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", SENDS, job], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr, done.stdout) == (1, "error: too bad\n", "")


def test_a_job_ends_with_the_snakemake_that_started_it():
    waits = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', sys.argv[1]])\ntime.sleep(600)"
    job = (
        "import os, time\nos.environ['SPARSEPO_SNAKEMAKE'] = str(os.getppid())\n"
        "from sparsepo.runtime.entry_point import run_main\n"
        "def main(): print('working', flush=True); time.sleep(600)\nrun_main(main)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    snakemake = subprocess.Popen(
        [sys.executable, "-c", waits, job],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    with snakemake.stdout as said:
        assert said.readline() == "working\n"
        snakemake.kill()
        assert said.read() == f"snakemake (process {snakemake.pid}) has ended, and this job with it\n"  # and no more
    snakemake.wait()


def test_a_mistake_of_the_code_itself_keeps_its_stack_trace():
    def main():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_main(main)
    with pytest.raises(SystemExit):
        run_main(lambda: (_ for _ in ()).throw(UserError("a sentence")))
