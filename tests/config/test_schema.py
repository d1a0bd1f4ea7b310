"""The JSON schema, by which an editor completes and explains a config: whole, described, and what the code accepts."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from sparsepo.config.grids import Methods
from sparsepo.config.loading import config_schema
from sparsepo.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "schemas/config.schema.json"
SCHEMA = json.loads(PATH.read_text())
SHIPPED = [
    ROOT / "config.yaml",
    *sorted(set((ROOT / "configs").rglob("*.yaml")) - set((ROOT / "configs/accelerate").iterdir())),
]
CONFIGS = pytest.mark.parametrize("path", SHIPPED, ids=[str(path.relative_to(ROOT)) for path in SHIPPED])


class Editor(yaml.SafeLoader):
    """YAML 1.2, as editors read it: 1e-5 is a number there."""


Editor.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def test_the_schema_is_that_of_the_models():
    command = "python -m sparsepo.config.loading --schema > schemas/config.schema.json"
    assert PATH.read_text() == json.dumps(config_schema(), indent=2) + "\n", f"the schema has drifted; run: {command}"


def test_every_key_has_a_description():
    def undescribed(node, place=""):
        for key, value in node.get("properties", {}).items():
            if not value.get("description"):
                yield f"{place}.{key}"
            yield from undescribed(value, f"{place}.{key}")

    sections = SCHEMA["$defs"] | {"Config": SCHEMA}
    assert [key for name, section in sections.items() for key in undescribed(section, name)] == []
    assert sum(len(section.get("properties", {})) for section in sections.values()) > 300


@CONFIGS
def test_a_shipped_config_names_the_schema_in_its_first_line(path):
    line = path.read_text().split("\n", 1)[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", line)
    assert named and (path.parent / named[1]).resolve() == PATH


@CONFIGS
def test_an_editor_finds_no_error_in_a_shipped_config(path):
    jsonschema.Draft202012Validator(SCHEMA).validate(yaml.load(path.read_text(), Editor))


# --- methods


def allows(method, grid):
    """Whether the schema allows the grid of a method."""
    schema = {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{method}"}
    return jsonschema.Draft202012Validator(schema).is_valid(grid)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_exactly_its_parameters_with_their_defaults(method):
    keys = SCHEMA["$defs"][method]["properties"]
    defaults = {name: value for name, value in METHODS[method].parameters.items() if value is not None}
    assert set(keys) == set(METHODS[method].parameters)
    assert {name: key["default"] for name, key in keys.items() if "default" in key} == json.loads(json.dumps(defaults))


GOOD = [
    ("dpo", {"beta": 0.1}),
    ("dpo", {"beta": "0.10"}),
    ("dpo", {"beta": ["0.1", 1e-5, "2e-05"], "mask": ["none", "layers"]}),
    ("mapo", {"beta": 1, "activation_sites": ["mlp", ["attention", "residual"], "mlp+attention"]}),
    ("sepo", {"beta": 1, "oracle": ["main", "half_2"], "k_chosen": 1}),
    ("inpo", {"beta": 1, "iterations": "3"}),
    ("rho", {"k_chosen": 0.3}),
]
BAD = [
    ("dpo", {}),
    ("dpo", {"beta": []}),
    ("dpo", {"beta": 0}),
    ("dpo", {"beta": True}),
    ("dpo", {"beta": "many"}),
    ("dpo", {"beta": "1_0"}),
    ("dpo", {"beta": 1, "alpha": 1}),
    ("dpo", {"beta": 1, "mask": "layer"}),
    ("mapo", {"beta": 1, "mask": "layers"}),
    ("mapo", {"beta": 1, "activation_sites": "norm"}),
    ("inpo", {"beta": 1, "iterations": 2.5}),
    ("fdpg_feature", {"divergence": "kl"}),
]


@pytest.mark.parametrize(("method", "grid"), GOOD)
def test_a_grid_that_loads_is_allowed_by_the_schema(method, grid):
    TypeAdapter(Methods).validate_python({method: grid})
    assert allows(method, grid)


@pytest.mark.parametrize(("method", "grid"), BAD)
def test_a_grid_that_the_schema_refuses_does_not_load(method, grid):
    with pytest.raises(ValidationError):
        TypeAdapter(Methods).validate_python({method: grid})
    assert not allows(method, grid)
