"""Where text comes from: prompts disjoint between splits and from the corpus, one seed one result, more never moves."""

import json
from pathlib import Path

import pytest

from sparsepo.config import TaskConfig
from sparsepo.configfile import load_config
from sparsepo.data.records import Prompt, Text
from sparsepo.data.sources import make_data, split_prompts
from sparsepo.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "validation", "test")
SCRATCH = {"source": "scratch"}


def sizes(train=6, validation=3, test=2):
    return {"train": train, "validation": validation, "test": test}


def texts_of(made, split):
    return [prompt.prompt for prompt in made.prompts[split]]


def disjoint(made):
    everything = [prompt for split in SPLITS for prompt in texts_of(made, split)]
    return len(set(everything)) == len(everything)


# --- splits


def test_splits_are_disjoint_and_as_large_as_asked():
    found = split_prompts([f"prompt {n % 20}" for n in range(60)], sizes(), "here")
    assert {split: len(found[split]) for split in found} == sizes()
    assert len({prompt for split in SPLITS for prompt in found[split]}) == 11


def test_all_that_is_left_is_for_training_when_no_number_is_given():
    found = split_prompts([f"prompt {n}" for n in range(20)], sizes(train=None), "here")
    assert len(found["train"]) == 15 and len(found["validation"]) == 3 and len(found["test"]) == 2


def test_a_larger_train_set_moves_nothing():
    prompts = [f"prompt {n}" for n in range(40)]
    small, large = (split_prompts(prompts, sizes(train=train), "here") for train in (6, 20))
    assert small["test"] == large["test"] and small["validation"] == large["validation"]
    assert small["train"] == large["train"][:6]


@pytest.mark.parametrize(
    ("train", "says"),
    [
        (6, r"here has 10 distinct prompts, but data.prompts asks for 11 \(train 6, validation 3, test 2\)"),
        (None, None),
    ],
)
def test_a_source_that_cannot_fill_the_splits_is_refused(train, says):
    prompts = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "a", "b"]
    if says is None:
        assert len(split_prompts(prompts, sizes(train=None), "here")["train"]) == 5
        prompts, says = prompts[:5], "here has 5 distinct prompts, but data.prompts asks for at least 6 .*the rest"
    with pytest.raises(UserError, match=says):
        split_prompts(prompts, sizes(train=train), "here")


# --- the planted grammar


def planted(train=30, seed=0, texts=40):
    data = {"source": "planted", "texts": texts, "seed": seed, "prompts": sizes(train, 8, 9)}
    return make_data(data, None, None)


def test_planted_splits_are_disjoint_full_and_the_same_every_time():
    made = planted()
    assert [len(made.prompts[split]) for split in SPLITS] == [30, 8, 9] and len(made.corpus) == 40
    assert disjoint(made)
    assert made == planted() and made.prompts != planted(seed=1).prompts and made.corpus != planted(seed=1).corpus


def test_planted_test_prompts_stay_when_train_grows():
    small, large = planted(30), planted(50)
    for split in ("validation", "test"):
        assert small.prompts[split] == large.prompts[split]
    assert small.prompts["train"] == large.prompts["train"][:30]
    assert small.corpus == large.corpus == planted(texts=60).corpus[:40]


# --- documents


def documents(tmp_path, count=40, **more):
    """Each document's words are its own, so that an opening tells where it comes from."""
    path = tmp_path / "texts.jsonl"
    rows = [{"text": " ".join(f"w{n}x{at}" for at in range(12)), "label": 1} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, [row["text"] for row in rows]


def from_texts(path, train=6, seed=0, texts=None, opening=(3, 5), model=SCRATCH):
    # A config in full, so that the keys are those that the stage gets.
    prompts = sizes(train)
    data = {"source": "texts", "path": str(path), "texts": texts, "prompts": prompts, "seed": seed, "opening": opening}
    data |= {"hub": None}
    return make_data(data, None, model)


def test_the_keys_are_those_of_a_config(tmp_path):
    path, _ = documents(tmp_path)
    section = {"source": "texts", "path": str(path), "prompts": sizes(6), "opening": [3, 5]}
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
    assert make_data(task["data"], None, task["model"]) == from_texts(path)


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
    made = from_texts(path, opening=(3, 3))
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
    with pytest.raises(UserError, match=r"texts\.jsonl:2: field 'text' must be a string, not 3"):
        from_texts(path)


# --- preferences


def preference_rows(tmp_path, prompts=20, each=2):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"prompt {n}", "chosen": f" good {n} {m}", "rejected": f" bad {n} {m}"}
        for m in range(each)
        for n in range(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def from_preferences(path, source="pairs", train=6, seed=0):
    data = {"source": "preferences", "prompts": sizes(train), "seed": seed}
    return make_data(data, {"source": source, "path": str(path)}, None)


def test_prompts_of_a_preference_file_are_split_and_the_corpus_are_the_chosen_of_train(tmp_path):
    made = from_preferences(preference_rows(tmp_path))
    assert [len(made.prompts[split]) for split in SPLITS] == [6, 3, 2] and disjoint(made)
    numbers = [prompt.split()[1] for prompt in texts_of(made, "train")]
    wanted = {Text(f" good {n} {m}", f"prompt {n}") for n in numbers for m in range(2)}
    assert len(made.corpus) == 12 and set(made.corpus) == wanted


def test_prompts_of_a_preference_file_are_shuffled_by_the_seed(tmp_path):
    path = preference_rows(tmp_path)
    made = from_preferences(path)
    assert made == from_preferences(path) and made.prompts != from_preferences(path, seed=1).prompts
    assert made.prompts["test"] != [Prompt("prompt 0"), Prompt("prompt 1")]
    larger = from_preferences(path, train=12)
    assert all(made.prompts[split] == larger.prompts[split] for split in ("validation", "test"))


def test_prompts_without_a_usable_pair_are_in_no_split(tmp_path):
    path = preference_rows(tmp_path, prompts=5, each=1)
    with open(path, "a") as file:
        file.write('{"prompt": "hollow", "chosen": "", "rejected": "x"}\n')
    with pytest.raises(UserError, match="has 5 distinct prompts, but data.prompts asks for at least 6"):
        from_preferences(path, train=None)


def test_scored_responses_give_prompts_too(tmp_path):
    path = tmp_path / "scored.jsonl"
    rows = [{"prompt": f"p{n}", "text": text, "reward": len(text)} for n in range(8) for text in ("x", "yes")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = from_preferences(path, "scored", train=None)
    assert len(made.prompts["train"]) == 3 and {text.text for text in made.corpus} == {" yes"}


def test_the_shipped_example_of_scored_responses_fills_the_splits_and_a_batch(monkeypatch):
    monkeypatch.chdir(ROOT)
    task = load_config("configs/smollm2.yaml").tasks["reviews"]
    plain = task.model_dump(mode="json")
    made = make_data(plain["data"], plain["preferences"], plain["model"])
    assert len(made.prompts["train"]) >= task.training.batch_size and disjoint(made)
    assert len(made.prompts["test"]) == task.data.prompts.test
