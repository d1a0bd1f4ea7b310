"""envs/Dockerfile, and jobs in its image; the program `apptainer` of these tests runs the command without an image."""

import os
import re
import tomllib

import pytest

from sparsepo.workflow.code_version import ROOT

DOCKERFILE = (ROOT / "envs" / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = """#!/bin/bash
if [ "$1" = --version ]; then echo "apptainer version 1.3.4"; exit; fi
echo "$@ $SPARSEPO_JOB" >> apptainer.log
while [ "$1" != -c ]; do shift; done
exec bash -c "$2"
"""


@pytest.fixture
def apptainer(tmp_path, monkeypatch):
    program = tmp_path / "programs" / "apptainer"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_the_dockerfile_copies_what_is_there_and_all_that_a_run_needs():
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M) for name in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    read = set(re.findall(r'include: "(\w+)/', (ROOT / "Snakefile").read_text())) | {"workflow_scripts"}
    assert read | {"src", "envs", "profiles", "Snakefile", "config.yaml", "pyproject.toml"} <= copied


def test_the_dockerfile_installs_the_pins_and_extras_that_exist_on_the_python_of_the_conda_files():
    (extras,) = re.findall(r"pip install .* -c envs/constraints.txt -e '\.\[(.+)\]'", DOCKERFILE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"qlora", "eval"} <= set(extras.split(",")) <= set(project["optional-dependencies"])
    (version,) = re.findall(r"^FROM python:(.+)-slim$", DOCKERFILE, re.M)
    assert f"python ={version}\n" in (ROOT / "envs" / "eval.yaml").read_text()


def test_without_an_image_a_plan_says_how_to_make_it(unfinished, snakemake):
    refused = snakemake(unfinished, "-n", "--sdm", "apptainer")
    assert refused.returncode != 0 and "Traceback" not in refused.stdout
    assert "envs/sparsepo.sif: no such file" in refused.stdout and "envs/Dockerfile" in refused.stdout


def test_jobs_run_in_the_image_with_its_python(unfinished, snakemake, apptainer):
    image = unfinished / "envs" / "sparsepo.sif"
    image.touch()
    plan = snakemake(unfinished, "-n", "--sdm", "apptainer")
    assert plan.returncode == 0 and "train_policy" in plan.stdout, plan.stdout
    done = snakemake(unfinished, "data", "--cores", "1", "--sdm", "apptainer")
    assert done.returncode == 0, done.stdout
    (command,) = (unfinished / "apptainer.log").read_text().splitlines()
    assert str(image) in command and "prepare_data.py" in command
    assert " PYTHONPATH=" in command and " PATH=" not in command  # that of the Python outside the image
    assert (unfinished / "results/small/prompts/train.jsonl").exists()
