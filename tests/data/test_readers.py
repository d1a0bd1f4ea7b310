"""Documents of files, the hub and packages: openings, corpus and labelled ones from different documents."""

import csv
import importlib.metadata
import json

import pytest

from sparsepo.config import TaskConfig
from sparsepo.config.data import PackageTexts, TextData
from sparsepo.data import readers as sources_of_text
from sparsepo.data.sources import first_words, make_data
from sparsepo.runtime.errors import UserError

SPLITS = ("train", "validation", "test")


def sizes(train=6, validation=3, test=2):
    return {"train": train, "validation": validation, "test": test}


def texts_of(made, split):
    return [prompt.prompt for prompt in made.prompts[split]]


def disjoint(made):
    everything = [prompt for split in SPLITS for prompt in texts_of(made, split)]
    return len(set(everything)) == len(everything)


# --- prompts and corpus


def documents(tmp_path, count=40, **more):
    """Each document's words are its own, so that an opening tells where it comes from."""
    path = tmp_path / "texts.jsonl"
    rows = [{"text": " ".join(f"w{n}x{at}" for at in range(12)), "label": 1} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, [row["text"] for row in rows]


def from_texts(path, train=6, prompt_tokens=(3, 5), **given):
    section = TextData(source="texts", path=path, prompts=sizes(train), prompt_tokens=prompt_tokens, **given)
    return make_data(section.model_dump(mode="json"), None, first_words)


def test_the_keys_are_those_of_a_config(tmp_path):
    path, _ = documents(tmp_path)
    section = {"source": "texts", "path": str(path), "prompts": sizes(6), "prompt_tokens": [3, 5]}
    task = TaskConfig.model_validate(
        {
            "model": {"source": "scratch", "config": {"model_type": "gpt2"}},
            "data": section,
            "sft": {},
            "preferences": {"source": "generated", "scorer": {"kind": "vader"}},
            "methods": {"dpo": {"beta": "1"}},
            "training": {"batch_size": 2},
            "evaluation": {"scorer": {"kind": "vader"}},
        }
    ).model_dump(mode="json")
    assert make_data(task["data"], None, first_words) == from_texts(path)


def test_prompts_are_openings_of_documents_that_are_not_in_the_corpus(tmp_path):
    path, texts = documents(tmp_path)
    made = from_texts(path)
    openings = [prompt for split in SPLITS for prompt in texts_of(made, split)]
    corpus = {text.text for text in made.corpus}
    assert len(openings) == 11 and disjoint(made) and len(corpus) == len(made.corpus) == 29
    for opening in openings:
        (origin,) = [text for text in texts if text.startswith(opening + " ")]
        assert origin not in corpus and 3 <= len(opening.split()) <= 5
    assert corpus < set(texts) and {text.prompt for text in made.corpus} == {""}
    assert len({len(opening.split()) for opening in openings}) == 3


def test_text_splits_are_one_to_a_seed_and_stay_when_train_grows(tmp_path):
    path, _ = documents(tmp_path)
    made = from_texts(path)
    assert made == from_texts(path) and made.prompts != from_texts(path, seed=1).prompts
    larger = from_texts(path, train=12)
    for split in ("validation", "test"):
        assert made.prompts[split] == larger.prompts[split]
    assert made.prompts["train"] == larger.prompts["train"][:6] and larger.corpus == made.corpus[6:]


def test_without_a_number_half_of_the_documents_give_training_prompts(tmp_path):
    path, _ = documents(tmp_path)
    made = from_texts(path, train=None)
    assert len(made.prompts["train"]) == 20 and len(made.corpus) == 15


def test_the_corpus_is_cut_at_the_number_asked_for(tmp_path):
    path, _ = documents(tmp_path)
    assert from_texts(path, texts=4).corpus == from_texts(path).corpus[:4]


def test_openings_that_repeat_or_are_empty_cost_no_prompt(tmp_path):
    """Further documents fill the splits; a document given twice is one, else a prompt's could stand in the corpus."""
    path = tmp_path / "texts.jsonl"
    same = [f"the same three words {n}" for n in range(10)]
    own = [f"document {n} is of its own" for n in range(20)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*same, *own, *own, "", "  "]))
    made = from_texts(path, prompt_tokens=(3, 3))
    assert [len(made.prompts[split]) for split in SPLITS] == [6, 3, 2] and disjoint(made)
    corpus = [text.text for text in made.corpus]
    assert len(set(corpus)) == len(corpus)
    for prompt in (prompt for split in SPLITS for prompt in texts_of(made, split) if "same" not in prompt):
        assert not any(text.startswith(prompt + " ") for text in corpus)


def test_too_few_documents_are_refused(tmp_path):
    path, _ = documents(tmp_path, count=10)
    with pytest.raises(UserError, match="has 10 distinct prompts, but data.prompts asks for 11"):
        from_texts(path)
    path, _ = documents(tmp_path, count=11)
    with pytest.raises(UserError, match="has 11 documents, all used up by the prompts; none is left for SFT"):
        from_texts(path)
    path, _ = documents(tmp_path, count=4)
    with pytest.raises(UserError, match="has 4 distinct prompts, but data.prompts asks for at least 6"):
        from_texts(path, train=None)


def test_a_document_that_is_no_string_is_told_with_its_line(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "fine"}\n{"text": 3}\n')
    with pytest.raises(UserError, match=r"texts\.jsonl:2: field 'text' must be a valid string, not 3"):
        from_texts(path)


# --- labelled documents


def labelled_file(tmp_path, rows):
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def reviews(count=40):
    """The class of a document can be told from its text."""
    return [{"text": f"review {n} is {'good' if n % 2 else 'dull'} as such", "label": n % 2} for n in range(count)]


def test_labelled_documents_are_in_neither_prompts_nor_corpus_and_keep_their_class(tmp_path):
    made = from_texts(labelled_file(tmp_path, reviews()), labelled=15, prompt_tokens=(3, 3))
    apart = {document.text for document in made.labelled}
    assert len(made.labelled) == len(apart) == 15 and len(made.corpus) == 40 - 15 - 11
    assert not apart & {text.text for text in made.corpus}
    assert not any(
        text.startswith(prompt + " ") for split in SPLITS for prompt in texts_of(made, split) for text in apart
    )
    assert all(document.label == ("good" in document.text) for document in made.labelled)
    assert {document.label for document in made.labelled} == {0, 1}


def test_labelled_documents_stay_when_more_prompts_are_asked_for(tmp_path):
    path = labelled_file(tmp_path, reviews())
    small, large, whole = (from_texts(path, train=train, labelled=10, prompt_tokens=(3, 3)) for train in (6, 14, None))
    assert small.labelled == large.labelled == whole.labelled
    assert small.prompts["test"] == large.prompts["test"]


def test_prompts_stay_when_labelled_documents_are_asked_for(tmp_path):
    path = labelled_file(tmp_path, reviews())
    with_them, without = (from_texts(path, labelled=labelled, prompt_tokens=(3, 3)) for labelled in (10, 0))
    assert with_them.prompts == without.prompts
    assert without.labelled == [] and without.corpus[:-10] == with_them.corpus


@pytest.mark.parametrize("label", [2, -1, True, 0.5, "1", None])
def test_a_class_other_than_one_and_zero_is_refused_with_its_line(tmp_path, label):
    path = labelled_file(tmp_path, [*reviews(20), {"text": "x", "label": label}])
    with pytest.raises(UserError, match=r"labelled\.jsonl:21: .*must be (greater than|less than|a valid integer)"):
        from_texts(path, labelled=5)
    assert from_texts(path).labelled == []  # nobody asks for a class


def test_more_labelled_documents_than_there_are_are_refused(tmp_path):
    path = labelled_file(tmp_path, reviews(20))
    with pytest.raises(UserError, match="has 20, but data.labelled asks for 20 of them and leaves none"):
        from_texts(path, labelled=20)
    with pytest.raises(UserError, match="has 5 distinct prompts, but data.prompts asks for 11"):
        from_texts(path, labelled=15, prompt_tokens=(3, 3))


def test_documents_of_the_hub_have_the_columns_that_the_config_names(tmp_path, monkeypatch):
    rows = [{"review": row["text"], "positive": row["label"], "text": "no"} for row in reviews()]
    monkeypatch.setattr(
        sources_of_text, "hub_rows", lambda hub: ((f"{hub['id']} row {n}", row) for n, row in enumerate(rows))
    )
    columns = {"text": "review", "label": "positive"}
    asked = {"source": "texts", "hub": {"id": "some/reviews"}, "prompts": sizes(), "prompt_tokens": (3, 3)}
    asked |= {"labelled": 10, "columns": columns}
    made = make_data(TextData(**asked).model_dump(mode="json"), None, first_words)
    assert made == from_texts(labelled_file(tmp_path, reviews()), labelled=10, prompt_tokens=(3, 3))
    columns["label"] = "stars"
    with pytest.raises(UserError, match="some/reviews row 0: no column 'stars'; its columns: review, positive, text"):
        make_data(TextData(**asked).model_dump(mode="json"), None, first_words)


class Installed:
    """A distribution of one CSV file, as importlib.metadata shows it."""

    def __init__(self, path):
        self.path, self.name, self.suffix = path, path.name, path.suffix

    def match(self, pattern):
        return self.path.match(pattern)

    def locate(self):
        return self.path


def test_documents_of_an_installed_package_are_those_rows_that_match(tmp_path, monkeypatch):
    path = tmp_path / "reviews.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label", "source"])
        writer.writeheader()
        for row in reviews():
            writer.writerows([row | {"source": "imdb"}, {"text": f"other {row['text']}", "label": 1, "source": "rt"}])
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [Installed(path)])
    package = PackageTexts(name="some-reviews", where={"source": "imdb"})
    section = TextData(source="texts", package=package, prompts=sizes(), prompt_tokens=(3, 3), labelled=10)
    made = make_data(section.model_dump(mode="json"), None, first_words)
    assert made == from_texts(labelled_file(tmp_path, reviews()), labelled=10, prompt_tokens=(3, 3))
