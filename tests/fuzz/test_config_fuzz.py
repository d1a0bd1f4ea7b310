"""2,000 mutants of the shipped configs, and aliases that grow: what loads is what the file says, the rest is told."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from sparsepo.config.loading import load_config
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.stages import Stages

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [ROOT / "config.yaml", *sorted((ROOT / "configs").rglob("*.yaml"))]
SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "schemas/config.schema.json").read_text()))
MESSAGE = re.compile(r"own\.yaml(:\d+)?: \S.*")
YES, NO = {"true", "on", "yes", "t", "y", "1"}, {"false", "off", "no", "f", "n", "0"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with the files that the shipped configs name."""
    for path in SHIPPED:
        for name in re.findall(r"path: ([\w./-]+)", path.read_text()):
            if not (ROOT / name).exists():
                (tmp_path / name).touch()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own.yaml"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_mutant_of_a_shipped_config_is_misread(fuzz, here):
    originals = [path.read_bytes() for path in SHIPPED]
    trees = [yaml.safe_load(data) for data in originals]

    def attempt(rng):
        at = rng.randrange(len(SHIPPED))
        if rng.random() < 0.5:
            here.write_text(as_yaml(fuzz.changed(rng, trees[at])), encoding="utf-8", errors="surrogatepass")
        else:
            here.write_bytes(fuzz.broken(rng, originals[at]))
        return fuzz.check(lambda: load_config("own.yaml"), holds, told)

    fuzz.survive("config", attempt)


def as_yaml(tree):
    """JSON is YAML but for infinities and NaN."""
    return re.sub(
        r"(?<=[ \[])(-?)Infinity|NaN",
        lambda found: f"{found[1] or ''}.inf" if "I" in found[0] else ".nan",
        json.dumps(tree),
    )


def told(messages):
    lines = messages.split("\n")
    assert len(lines) <= 21, len(lines)
    for line in lines:
        assert MESSAGE.fullmatch(line) and line.isprintable() and len(line) < 900, line


def holds(config):
    raw, dump = yaml.safe_load(Path("own.yaml").read_text("utf-8-sig")), config.model_dump(mode="json")
    json.dumps(dump, allow_nan=False).encode()
    SCHEMA.validate(dump)
    if all(task.get("scale") in (None, {}) for task in raw["tasks"].values()):
        assert says(raw, dump)
    Path("again.yaml").write_text(json.dumps(dump))
    assert load_config("again.yaml") == config
    stages = Stages(config)
    for task in stages.tasks:
        assert len(set(stages.runs(task))) == len(stages.runs(task))
        json.loads(stages.settings("train_sft", task)), json.loads(stages.settings("prepare_data", task))


def says(raw, made, key=""):
    """Whether a loaded value is the one that stands in the file."""
    if key == "methods":
        return all(grids_say(grids, made[name]) for name, grids in raw.items()) and len(raw) == len(made)
    if isinstance(raw, dict):
        return isinstance(made, dict) and all(name in made and says(raw[name], made[name], name) for name in raw)
    if isinstance(raw, list):
        return len(raw) == len(made) and all(map(says, raw, made))
    if raw is None or isinstance(raw, bool):
        return made is raw
    if isinstance(made, bool):
        return str(raw).lower() in (YES if made else NO)
    if isinstance(made, int | float):
        return made == float(raw) or (type(made) is type(raw) and made == raw)  # 10**30 is no float
    return made in (raw, str(Path(raw)))


def grids_say(grids, made):
    """One grid, or a list of them."""
    given, read = (grid if isinstance(grid, list) else [grid] for grid in (grids, made))
    return len(given) == len(read) and all(map(grid_says, given, read))


def grid_says(grid, made):
    listed = {name: values if isinstance(values, list) else [values] for name, values in grid.items()}
    texts = {
        name: ["+".join(v) if isinstance(v, list) else str(v).strip() for v in values]
        for name, values in listed.items()
    }
    return texts == made


def test_aliases_of_aliases_are_refused_before_they_are_written_out(fuzz, here):
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)
    )
    for text in (bomb, merges):
        here.write_text(text)
        assert not fuzz.check(lambda: load_config("own.yaml"), holds, told)
        with pytest.raises(UserError, match="more than 100,000 values, its aliases written out"):
            load_config("own.yaml")


@pytest.mark.parametrize(
    "value",
    [
        "!!timestamp x",
        "!!bool x",
        "!!int ''",
        "!!float ''",
        "0001-01-01t00:00:00+23:59",
        "2001-99-99",
        "!!binary x",
        "0x" + "f" * 9999,
    ],
)
def test_a_value_that_does_not_fit_its_tag_or_any_memory_gets_a_sentence(fuzz, here, value):
    text = (ROOT / "config.yaml").read_text()
    here.write_text(text.replace("texts: 2500", f"texts: {value}"))
    assert not fuzz.check(lambda: load_config("own.yaml"), holds, told)


GRID = "[" + ", ".join(f'"0.{n:03}"' for n in range(1, 400)) + "]"
MISTAKES = {
    "a number that is a truth": ("texts: 2500", "texts: true", "must be a number, not true or false"),
    "more than anything has": ("texts: 2500", "texts: 3000000000", "must be less than or equal to 2147483647"),
    "a seed that numpy does not take": ("seeds: [0]", "seeds: [4294967296]", "must be less than 4294967296"),
    "a grid without end": ('penalty: "5"', f"penalty: {GRID}", "the grid has 159201 points, more than 100000"),
    "seeds without end": ("seeds: [0]", f"seeds: {list(range(5000))}", "together give 110000 runs, more than 100000"),
    "digits of another script": ('simpo: {beta: ["1", ', 'simpo: {beta: ["\u0661", ', "must be a plain number"),
    "an underscore in a number": ('simpo: {beta: ["1", ', 'simpo: {beta: ["1_0", ', "must be a plain number"),
    "a list in a list": ('simpo: {beta: ["1", ', 'simpo: {beta: [["1"], ', "must be a plain number"),
    "a date in a model": ("n_head: 4", "n_head: 2001-01-01", r"tasks\.planted\.model\.config\.n_head: "),
    "an infinite number in a model": ("n_head: 4", "n_head: .inf", "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_value_that_only_python_would_take_is_refused(here, name):
    old, new, saying = MISTAKES[name]
    text = (ROOT / "config.yaml").read_text()
    assert old in text
    text = text.replace('dpop: {beta: ["0.1", "0.5"]', f"dpop: {{beta: {GRID}") if "grid" in name else text
    here.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=saying):
        load_config("own.yaml")


def test_a_size_that_overflows_and_a_path_too_long_get_a_sentence(here):
    task = {"scale": {"prompts": 1e300}, "data": {"texts": 10**9}}
    with pytest.raises(UserError, match=r"scale.prompts: must be less than or equal to 1000, not 1e\+300"):
        load_config(ROOT / "config.yaml", {"tasks": {"planted": task}})
    text = (ROOT / "configs/paper/imdb.yaml").read_text()
    model = "{source: hub, id: insub/gpt2-large-imdb-fine-tuned, pickled_weights: true}"
    here.write_text(text.replace(model, f"{{source: folder, path: {'a' * 5000}}}"))
    with pytest.raises(UserError, match="no such folder"):
        load_config("own.yaml")
    with pytest.raises(UserError, match="nested too deeply"):
        load_config(ROOT / "config.yaml", {"__".join(["a"] * 9999 + [name]): "x" for name in "bc"})


def test_of_very_many_mistakes_the_first_are_told(here):
    text = (ROOT / "config.yaml").read_text()
    here.write_text(text + "".join(f"x{n}: 1\n" for n in range(5000)))
    with pytest.raises(UserError) as caught:
        load_config("own.yaml")
    assert str(caught.value).count("\n") == 20 and str(caught.value).endswith("own.yaml: and 4980 more")
