"""Rows of files, of the hub and of packages: with their places, and one sentence for what cannot be read."""

import importlib

import datasets
import pytest

from sparsepo.data.readers import file_rows, function_rows, hub_rows, package_file, package_rows
from sparsepo.runtime.errors import UserError


def test_a_line_of_a_file_has_its_number_and_empty_lines_count(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert list(file_rows(str(path))) == [(f"{path}:1", {"a": 1}), (f"{path}:3", {"a": 2})]


# --- a function of the user


FUNCTIONS = """
import pandas as pd
ROWS = [{"a": 1, "b": "好"}, {"a": 2, "b": None}]
def generator():
    yield from ROWS
def rows(): return ROWS
def frame(): return pd.DataFrame(ROWS, dtype=object)
def none(): pass
def columns(): return {"a": [1, 2]}
def texts(): return ["a"]
"""


@pytest.mark.parametrize("name", ["generator", "rows", "frame"])
def test_a_function_may_yield_rows_or_return_them_or_a_data_frame(tmp_path, name):
    path = tmp_path / "rows_of_test.py"
    path.write_text(FUNCTIONS)
    rows = list(function_rows(f"{path}:{name}"))
    assert rows == [(f"{path}:{name} row 1", {"a": 1, "b": "好"}), (f"{path}:{name} row 2", {"a": 2, "b": None})]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "returned None; it must yield rows"),
        ("columns", "returned one dict"),
        ("texts", "row 1: must be a map"),
    ],
)
def test_a_function_that_gives_no_rows_is_refused(tmp_path, name, message):
    path = tmp_path / "rows_of_test.py"
    path.write_text(FUNCTIONS)
    with pytest.raises(UserError, match=message):
        list(function_rows(f"{path}:{name}"))


# --- the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in the shape of the hub's copies in Parquet: a folder for each configuration, and in it the splits."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    for config, split, start in (("one", "train", 0), ("one", "validation", 10), ("two", "train", 20)):
        folder = tmp_path / "set" / config / split
        folder.mkdir(parents=True)
        datasets.Dataset.from_list([{"n": start + n, "info": {"post": "x"}} for n in range(3)]).to_parquet(
            folder / "0000.parquet"
        )
    return tmp_path / "set"


def test_rows_of_a_data_set_are_those_of_its_split_counted_from_one(hub):
    rows = list(hub_rows({"id": str(hub / "one"), "config": None, "split": "train+validation"}))
    assert [row["n"] for _, row in rows] == [0, 1, 2, 10, 11, 12]
    assert rows[3] == (f"{hub / 'one'} (train+validation) row 4", {"n": 10, "info": {"post": "x"}})


def test_a_data_set_that_is_a_script_is_read_from_its_copy_in_parquet(hub, monkeypatch):
    """The script is never run: it would fail the test."""
    (hub / "set.py").write_text("raise AssertionError('this was run')")
    load, asked = datasets.load_dataset, []

    def like_the_hub(name, *given, revision=None, **more):
        asked.append(revision)
        if revision is not None:
            (hub / "set.py").unlink()
        return load(name, *given, **more)

    monkeypatch.setattr(datasets, "load_dataset", like_the_hub)
    rows = list(hub_rows({"id": str(hub), "config": "one", "split": "train"}))
    assert [row["n"] for _, row in rows] == [0, 1, 2] and asked == [None, "refs/convert/parquet"]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"split": "nothing"}, r"hub data set '.*one' cannot be loaded \(.*nothing"),
        ({"config": "three"}, "cannot be loaded"),
        ({"id": "nobody/nothing-of-this-name"}, "hub data set 'nobody/nothing-of-this-name' cannot be loaded"),
    ],
)
def test_a_data_set_that_cannot_be_loaded_is_told_in_one_sentence(hub, monkeypatch, section, says):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=says) as caught:
        hub_rows({"id": str(hub / "one"), "config": None, "split": "train"} | section)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_another_error_of_the_library_is_told_as_well(monkeypatch):
    def broken(*given, **more):
        raise RuntimeError("no space\nand more")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(UserError, match=r"hub data set 'a/b' cannot be loaded \(no space\)"):
        hub_rows({"id": "a/b", "config": None, "split": "train"})


# --- packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed distribution `words`, by its metadata alone."""
    folder = tmp_path / "words-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: words\nVersion: 1.0\n")
    (folder / "RECORD").write_text("words/data/all.csv,,\nwords/__init__.py,,\n")
    (tmp_path / "words" / "data").mkdir(parents=True)
    (tmp_path / "words" / "__init__.py").write_text("raise AssertionError('this was imported')")
    (tmp_path / "words" / "data" / "all.csv").write_text('text,lang\nhello,en\nhallo,de\n"a\nb",en\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path / "words" / "data" / "all.csv"


def section(**given):
    return {"name": "words", "file": "*.csv", "where": {}} | given


def test_rows_of_a_package_are_those_with_the_values_asked_for(package):
    rows = list(package_rows(section(where={"lang": "en"})))
    assert rows == [(f"{package}:2", {"text": "hello", "lang": "en"}), (f"{package}:5", {"text": "a\nb", "lang": "en"})]
    assert len(list(package_rows(section()))) == 3


def test_a_column_a_file_or_a_package_that_is_not_there_is_told(package):
    with pytest.raises(UserError, match=r"all\.csv: no column 'language'; its columns: text, lang"):
        list(package_rows(section(where={"language": "en"})))
    with pytest.raises(UserError, match=r"'some\.csv' matches 0 files of package 'words', not one; it has all\.csv"):
        package_file("words", "some.csv")
    with pytest.raises(
        UserError, match="package 'no-such-thing' is not installed; pip install --no-deps no-such-thing"
    ):
        package_file("no-such-thing", "*.csv")
