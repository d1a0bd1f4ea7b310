"""Rows are the same from every kind of file, each with its place; what cannot be read is told in one sentence."""

import csv
import gzip
import json

import datasets
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from sparsepo.config.data import Rows, TextData
from sparsepo.data.readers import file_rows, parse_cells, section_rows
from sparsepo.runtime.errors import UserError

CHAT = [{"role": "user", "content": 'Say "hi",\nplease'}]
ROWS = [
    {"prompt": CHAT, "text": "[1] is a footnote", "score": 1.5, "responses": ["a", "b"]},
    {"prompt": CHAT, "text": "2", "score": -1.0, "responses": ["c", "d, e"]},
]


def lines(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def array(path):
    path.write_text(json.dumps(ROWS, indent=1))


def packed(write):
    def write_packed(path):
        plain = path.with_name("plain")
        write(plain)
        path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))

    return write_packed


def table(delimiter):
    def write_table(path):
        with open(path, "w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(ROWS[0])
            writer.writerows([json.dumps(row["prompt"]), row["text"], row["score"], row["responses"]] for row in ROWS)

    return write_table


def stream(path):
    datasets.Dataset.from_list(ROWS).save_to_disk(path.with_name("saved"))
    next(path.with_name("saved").glob("*.arrow")).rename(path)


def feather(path):
    frame = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, frame.schema) as writer:
        writer.write_table(frame)


KINDS = {
    "rows.jsonl": (lines, ":1", ":2"),
    "rows.txt": (lines, ":1", ":2"),
    "lines.json": (lines, ":1", ":2"),
    "rows.jsonl.gz": (packed(lines), ":1", ":2"),
    "rows.json": (array, " row 1", " row 2"),
    "rows.json.gz": (packed(array), " row 1", " row 2"),
    "rows.csv": (table(","), ":2", ":3"),
    "rows.csv.gz": (packed(table(",")), ":2", ":3"),
    "rows.tsv": (table("\t"), ":2", ":3"),
    "rows.parquet": (lambda path: pd.DataFrame(ROWS).to_parquet(path), " row 1", " row 2"),
    "rows.arrow": (stream, " row 1", " row 2"),
    "feather.arrow": (feather, " row 1", " row 2"),
    "pandas.csv": (lambda path: pd.DataFrame(ROWS).to_csv(path, index=False), ":2", ":3"),
    "folder": (lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path), " row 1", " row 2"),
}


@pytest.fixture(autouse=True)
def no_bars():
    datasets.disable_progress_bars()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows_with_their_places(tmp_path, name):
    write, *places = KINDS[name]
    write(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    rows = list(section_rows(Rows(path=tmp_path / name).model_dump(mode="json")))
    assert rows == [(f"{tmp_path / name}{place}", row) for place, row in zip(places, ROWS, strict=True)]
    assert sorted(tmp_path.rglob("*")) == before, "a cache was left beside the data"


def test_a_saved_data_set_with_splits_needs_one(tmp_path):
    parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    rows = section_rows(Rows(path=tmp_path / "saved", split="test").model_dump(mode="json"))
    assert list(rows) == [(f"{tmp_path / 'saved'} row 1", ROWS[0])]
    for given in ({}, {"split": "tset"}):
        with pytest.raises(ValidationError, match="give one of the splits of .*saved: train, test"):
            Rows(path=tmp_path / "saved", **given)
    with pytest.raises(ValidationError, match="has no splits; leave 'split' out"):
        Rows(path=tmp_path / "saved" / "train", split="test")
    with pytest.raises(ValidationError, match="is a folder that `datasets` did not save"):
        Rows(path=tmp_path)


def test_a_split_of_a_file_is_refused(tmp_path):
    lines(tmp_path / "rows.jsonl")
    with pytest.raises(ValidationError, match="only a folder of several splits needs it"):
        Rows(path=tmp_path / "rows.jsonl", split="train")


# --- columns


def test_columns_take_their_new_names_and_leave_the_others(tmp_path):
    (tmp_path / "rows.csv").write_text("question,text,gold\n1,b,c\n")
    columns = {"prompt": "question", "text": "gold"}
    section = Rows(path=tmp_path / "rows.csv", columns=columns).model_dump(mode="json")
    assert [row for _, row in section_rows(section)] == [{"text": "c", "prompt": "1"}]


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path):
    (tmp_path / "rows.csv").write_text("question,gold\na,b\n")
    section = Rows(path=tmp_path / "rows.csv", columns={"prompt": "qestion"}).model_dump(mode="json")
    with pytest.raises(UserError, match=r"rows\.csv:2: no column 'qestion'; its columns: question, gold"):
        list(section_rows(section))


def test_a_field_that_a_source_does_not_read_is_refused(tmp_path):
    lines(tmp_path / "rows.jsonl")
    given = {"source": "texts", "path": tmp_path / "rows.jsonl", "prompts": {"validation": 1, "test": 1}}
    with pytest.raises(ValidationError, match="unknown field; allowed: text, label; did you mean 'text'"):
        TextData(**given, columns={"texts": "review"})
    with pytest.raises(ValidationError, match="unknown field; allowed: text, label"):
        TextData(**given, test={"path": tmp_path / "rows.jsonl", "columns": {"prompt": "text"}})


# --- cells


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("text", "[1, 2]", "[1, 2]"),
        ("chosen", "5", "5"),
        ("chosen", ' [ {"content": "x", "role": "user"}]', [{"content": "x", "role": "user"}]),
        ("chosen", '{"from": "gpt", "value": "x"}', {"from": "gpt", "value": "x"}),
        ("chosen", "[{'role': 'user', 'content': 'it''s'}", "[{'role': 'user', 'content': 'it''s'}"),
        ("label", "1", 1),
        ("label", "True", True),
        ("score", "", None),
        ("scores", "[0.5, 1]", [0.5, 1]),
        ("responses", "['a', \"b\"]", ["a", "b"]),
        ("score", "high", "high"),
    ],
)
def test_a_cell_is_parsed_where_it_is_a_number_a_list_or_messages(name, text, value):
    assert parse_cells({name: text}) == {name: value}


def test_a_text_may_be_longer_than_the_limit_of_the_csv_module(tmp_path):
    (tmp_path / "rows.csv").write_text("text\n" + "x" * 200_000 + "\n")
    ((_, row),) = file_rows(str(tmp_path / "rows.csv"))
    assert len(row["text"]) == 200_000


# --- broken files


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.csv", b"a,b\n1\n", r"rows\.csv:2: fewer cells than the 2 columns of line 1"),
        ("rows.csv", b"a,b\n1,2\n1,2,3\n", r"rows\.csv:3: more cells than the 2 columns of line 1"),
        ("rows.csv", b"a,a\n1,2\n", r"rows\.csv:1: two columns have the same name: a, a"),
        ("rows.csv", b"a\n\xff\n", r"rows\.csv: not UTF-8 text"),
        ("rows.json", b'[{"a": 1},\n{"a": }]', r"rows\.json: not valid JSON \(.* in line 2\); a list of objects"),
        ("rows.jsonl.gz", b"not packed", r"rows\.jsonl\.gz: cannot be read \(it is no whole gzip file\)"),
        (
            "rows.jsonl.gz",
            gzip.compress(b"x" * 999, mtime=0)[:-9],
            r"rows\.jsonl\.gz: cannot be read \(it is no whole gzip",
        ),
        ("rows.parquet", b"PAR1", r"rows\.parquet: cannot be read \("),
        ("rows.arrow", b"nothing", r"rows\.arrow: cannot be read \("),
    ],
)
def test_a_broken_file_is_told_in_one_sentence(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        list(file_rows(str(tmp_path / name)))
    assert str(caught.value).isprintable()
