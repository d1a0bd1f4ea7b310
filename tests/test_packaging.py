"""Claims about pyproject.toml, the pins in envs/ and the promises of the packaging."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = {"train": ["qlora"], "eval": ["eval", "qlora"]}
DRIVER = {"snakemake", "pygments", "rich"}  # run outside the conda environments
CUDA = ("cuda-", "nvidia-", "triton")  # belong to the build of torch


def pinned(lines):
    """`name==version` lines as a list of (canonical name, version)."""
    pairs = (line.split("==") for line in lines)
    return [(canonicalize_name(name), version) for name, version in pairs]


def constraint_lines():
    lines = (ROOT / "envs/constraints.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


PINS = dict(pinned(constraint_lines()))


def conda_pins(name):
    dependencies = yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())["dependencies"]
    (pip,) = (entry["pip"] for entry in dependencies if isinstance(entry, dict))
    return pinned(pip)


def names(requirements):
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def test_extras_are_those_that_users_are_told_of():
    assert set(EXTRAS) == {"qlora", "eval", "tracking", "slurm", "bench", "docs", "dev"}


def test_each_constraint_is_one_exact_public_version_and_stands_once():
    assert len(PINS) == len(constraint_lines())
    assert not any("+" in version or "*" in version for version in PINS.values())


@pytest.mark.parametrize("group", ["base", *EXTRAS])
def test_every_direct_dependency_has_a_pin_within_its_bounds(group):
    for text in PROJECT["dependencies"] if group == "base" else EXTRAS[group]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), text


@pytest.mark.parametrize("name", CONDA)
def test_a_conda_file_pins_the_versions_of_the_constraints(name):
    pins = conda_pins(name)
    assert pins == [(package, PINS[package]) for package, _ in pins]


@pytest.mark.parametrize("name", CONDA)
def test_a_conda_file_installs_the_base_and_the_extras_of_its_stages(name):
    extras = [requirement for extra in CONDA[name] for requirement in EXTRAS[extra]]
    wanted = names(PROJECT["dependencies"]) - DRIVER | names(extras)
    assert {package for package, _ in conda_pins(name)} == wanted


def test_what_the_dependencies_need_is_pinned_too():
    """Walks the metadata of what is installed, down from the base and the tools of the tests."""
    todo = [Requirement(text) for text in PROJECT["dependencies"] + EXTRAS["dev"]]
    seen = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"{name} has no pin in envs/constraints.txt"
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in importlib.metadata.requires(name) or []:
                needed = Requirement(text)
                applies = needed.marker is None or needed.marker.evaluate({"extra": extra})
                if applies and not needed.name.startswith(CUDA):
                    todo.append(needed)
    assert len(seen) > 50
