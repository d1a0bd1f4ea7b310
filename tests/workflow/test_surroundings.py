"""What surrounds the workflow does not reach its jobs: variables of a launcher, signs in the path of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsepo.evaluation.sandbox import sandboxed_launches

ROOT = Path(__file__).parents[2]
PREFIX = ROOT / "rules/common.smk"
NAMES = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT SPARSEPO_LOG MKL_NUM_THREADS"
LAUNCHER = dict.fromkeys(NAMES.split(), "7")


def test_variables_of_a_launcher_and_brackets_in_the_path_do_not_reach_a_job(tmp_path):
    text = PREFIX.read_text(encoding="utf-8").replace('"\n    "', "")
    (line,) = re.findall(r'"(set -.*?; export) ', text)
    for name in ("check[out]", "checko"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "script.sh").write_text(f"echo {name}; env")
    command = f"{line} SCRIPTS={str(tmp_path)!r}/'check[out]'; sh $SCRIPTS/script.sh"
    job = subprocess.run(["bash", "-c", command], env=os.environ | LAUNCHER, capture_output=True, text=True, check=True)
    first, *variables = job.stdout.splitlines()
    assert first == "check[out]" and not [one for one in variables if one.split("=")[0] in LAUNCHER]


@pytest.fixture
def mounted(tmp_path):
    """(options of bubblewrap) -> what a start of the workflow in a folder says, in which these mounts are made."""
    bubblewrap = next((launch.wrapper[0] for launch in sandboxed_launches()), None)
    if bubblewrap is None or subprocess.run([bubblewrap, "--dev-bind", "/", "/", "true"]).returncode:
        pytest.skip("bubblewrap, which makes the mounts, is not installed or cannot be used here")
    (tmp_path / "results/planted").mkdir(parents=True)
    shutil.copy2(ROOT / "config.yaml", tmp_path)

    def start(*mounts):
        snakemake = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n"]
        command = [bubblewrap, "--dev-bind", "/", "/", *mounts, "--chdir", str(tmp_path), *snakemake]
        return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return start


@pytest.mark.parametrize("name", [".", "results", "results/planted"])
def test_a_folder_that_cannot_be_written_is_told_in_one_line_before_any_job(mounted, tmp_path, name):
    place = tmp_path / name
    done = mounted("--ro-bind", str(place), str(place))
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    assert done.stdout.splitlines()[-1] == f"{place} cannot be written: work in another folder (snakemake --directory)"


def test_a_full_disk_is_told_in_one_line_before_any_job(mounted, tmp_path):
    done = mounted("--size", "16384", "--tmpfs", str(tmp_path / "results"))
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"no space left on the disk of {tmp_path}/results: make room")
