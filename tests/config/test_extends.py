"""`extends`: a config that lies on top of another file."""

import json
from pathlib import Path

import pytest
import yaml

from sparsepo.config.loading import load_config, load_with_owners
from sparsepo.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BASE = yaml.safe_load((ROOT / "config.yaml").read_text())
(TASK,) = BASE["tasks"]


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return path

    write("base.yaml", BASE)
    return write


def test_an_extending_config_is_the_same_as_one_that_is_written_out(write):
    path = write("below/small.yaml", f"extends: ../base.yaml\nname: small\ntasks: {{{TASK}: {{seeds: [5, 6]}}}}\n")
    whole = json.loads(json.dumps(BASE)) | {"name": "small"}
    whole["tasks"][TASK]["seeds"] = [5, 6]
    found, owners = load_with_owners(path)
    assert found.model_dump() == load_config(write("whole.yaml", whole)).model_dump()
    assert owners == {TASK: "small"}


def test_maps_are_merged_through_several_files_and_lists_are_replaced(write):
    write("middle.yaml", f"extends: base.yaml\ntasks: {{{TASK}: {{seeds: [1, 2, 3], training: {{batch_size: 7}}}}}}\n")
    path = write("top.yaml", f"extends: middle.yaml\ntasks: {{{TASK}: {{seeds: [9]}}}}\n")
    task = load_config(path).tasks[TASK]
    assert (task.seeds, task.training.batch_size) == ([9], 7)
    assert task.methods == load_config(ROOT / "config.yaml").tasks[TASK].methods
    assert load_config(path, {f"tasks__{TASK}__seeds": [4]}).tasks[TASK].seeds == [4]


@pytest.mark.parametrize("wrong", ["base", "top"])
def test_a_mistake_is_told_with_the_file_and_line_that_it_stands_in(write, tmp_path, wrong):
    bad = f"tasks:\n  {TASK}:\n    training:\n      batch_size: many\n"
    write("middle.yaml", "extends: base.yaml\n" + (bad if wrong == "base" else ""))
    path = write("top.yaml", "extends: middle.yaml\n" + (bad if wrong == "top" else ""))
    file = {"base": "middle.yaml", "top": "top.yaml"}[wrong]
    with pytest.raises(UserError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{tmp_path / file}:5: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "extends: no.yaml\n",
            "x.yaml:1: extends: no such file: {0}/no.yaml (relative to the folder of x.yaml)",
        ),
        ("name: x\nextends: x.yaml\n", "x.yaml:2: extends: {0}/x.yaml -> {0}/x.yaml is a circle"),
        ("extends: y.yaml\n", "y.yaml:1: extends: {0}/x.yaml -> {0}/y.yaml -> {0}/x.yaml is a circle"),
        ("extends: [base.yaml]\n", "x.yaml:1: extends: one file is expected, as in extends: ../base.yaml"),
        ("extends:\n", "x.yaml:1: extends: one file is expected, as in extends: ../base.yaml"),
    ],
)
def test_a_base_that_cannot_be_read_is_one_line(write, tmp_path, text, message):
    write("y.yaml", "extends: x.yaml\n")
    with pytest.raises(UserError) as error:
        load_config(write("x.yaml", text))
    assert str(error.value) == f"{tmp_path}/{message.format(tmp_path)}"


def test_extends_is_refused_on_the_command_line():
    with pytest.raises(UserError, match="only a file extends another"):
        load_config(ROOT / "config.yaml", {"extends": "base.yaml"})
