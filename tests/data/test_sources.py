"""Where text comes from: prompts disjoint between splits and from the corpus, one seed one result, more never moves."""

import json
from pathlib import Path

import pytest
from chat_models import CHATML, make_tokenizer

from sparsepo.config.data import PreferenceData, ProblemData
from sparsepo.config.loading import load_config
from sparsepo.config.preferences import FilePreferences
from sparsepo.data import sources
from sparsepo.data.chat import ChatRenderer
from sparsepo.data.mbpp_humaneval import Problem
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.records import Labelled, Prompt, Text
from sparsepo.data.sources import first_words, make_data, split_prompts, token_cutter
from sparsepo.models.loading import train_tokenizer
from sparsepo.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "validation", "test")


def sizes(train=6, validation=3, test=2):
    return {"train": train, "validation": validation, "test": test}


def texts_of(made, split):
    return [prompt.prompt for prompt in made.prompts[split]]


def disjoint(made):
    everything = [prompt for split in SPLITS for prompt in texts_of(made, split)]
    return len(set(everything)) == len(everything)


# --- splits


def test_splits_are_disjoint_and_as_large_as_asked():
    found = split_prompts([Prompt(f"prompt {n % 20}", id=str(n)) for n in range(60)], sizes(), "here")
    assert {split: len(found[split]) for split in found} == sizes()
    kept = [prompt for split in SPLITS for prompt in found[split]]
    assert len({prompt.prompt for prompt in kept}) == 11
    assert all(prompt.prompt == f"prompt {prompt.id}" for prompt in kept)  # the first of those with one text


def test_all_that_is_left_is_for_training_when_no_number_is_given():
    found = split_prompts([Prompt(f"prompt {n}") for n in range(20)], sizes(train=None), "here")
    assert len(found["train"]) == 15 and len(found["validation"]) == 3 and len(found["test"]) == 2


def test_a_larger_train_set_moves_nothing():
    prompts = [Prompt(f"prompt {n}") for n in range(40)]
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
    prompts = [Prompt(letter) for letter in "abcdefghijab"]
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


# --- openings


def test_an_opening_is_the_first_words_or_the_first_tokens_of_a_text():
    assert first_words(" one  two three ", 2) == "one two"
    cut = token_cutter(train_tokenizer(["one two three"], "word", 50))
    assert (cut("one two three", 2), cut("one", 2), cut("", 2)) == ("one two", "one", "")


# --- problems


def problems(count, split):
    return [Problem(f"{split}/{n}", "mbpp", f"{split} {n}?", f"answer {n}", "") for n in range(count)]


def from_problems(monkeypatch, tmp_path, train=6, seed=0):
    official = {"train": problems(20, "train"), "validation": problems(3, "validation"), "test": problems(9, "test")}
    monkeypatch.setattr(sources, "read_mbpp", lambda data: official)
    (tmp_path / "mbpp.jsonl").touch()
    data = ProblemData(source="problems", path=tmp_path / "mbpp.jsonl", prompts=sizes(train), seed=seed)
    return make_data(data.model_dump(mode="json"), None, None)


def test_problems_keep_their_own_splits_and_bring_their_solution(monkeypatch, tmp_path):
    made = from_problems(monkeypatch, tmp_path)
    assert {split: len(made.prompts[split]) for split in SPLITS} == sizes()
    for split in SPLITS:
        for prompt in made.prompts[split]:
            number = prompt.id.removeprefix(f"{split}/")
            assert prompt == Prompt(f"{split} {number}?", f"{split}/{number}", f"answer {number}")
    assert made.corpus == [Text(prompt.reference, prompt.prompt) for prompt in made.prompts["train"]]
    assert len(from_problems(monkeypatch, tmp_path, train=None).prompts["train"]) == 20


def test_problems_are_a_choice_of_the_seed_that_more_for_train_does_not_move(monkeypatch, tmp_path):
    made, larger, other = (
        from_problems(monkeypatch, tmp_path, **given).prompts for given in ({}, {"train": 12}, {"seed": 1})
    )
    assert made["train"] == larger["train"][:6] and made["test"] == larger["test"] != other["test"]
    assert made["test"] != [Prompt("test 0?", "test/0", "answer 0"), Prompt("test 1?", "test/1", "answer 1")]


def test_more_problems_than_a_split_has_are_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"mbpp\.jsonl has 20 train problems, but data.prompts.train asks for 21"):
        from_problems(monkeypatch, tmp_path, train=21)


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


def from_preferences(path, source="pairs", train=6, **given):
    data = PreferenceData(source="preferences", prompts=sizes(train), **given)
    preferences = FilePreferences(source=source, path=path)
    return make_data(data.model_dump(mode="json"), preferences.model_dump(mode="json"), None)


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
    assert texts_of(made, "test") != ["prompt 0", "prompt 1"]
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


def test_a_prompt_of_preferences_has_the_chosen_response_of_its_first_pair_as_reference(tmp_path):
    made = from_preferences(preference_rows(tmp_path))
    for split in SPLITS:
        for prompt in made.prompts[split]:
            assert prompt.reference == f" good {prompt.prompt.split()[1]} 0"


def test_labelled_pairs_are_of_further_prompts_and_stand_together(tmp_path):
    path = preference_rows(tmp_path)
    made = from_preferences(path, labelled=4)
    assert len(made.labelled) == 4 * 2 * 2
    used = {prompt.split()[1] for split in SPLITS for prompt in texts_of(made, split)}
    seen = []
    for good, bad in zip(made.labelled[::2], made.labelled[1::2], strict=True):
        prompt, number, pair = good.text.split(" good ")[0], *good.text.split()[-2:]
        assert good == Labelled(f"{prompt} good {number} {pair}", 1)
        assert bad == Labelled(f"{prompt} bad {number} {pair}", 0) and prompt == f"prompt {number}"
        seen.append(number)
    assert not used & set(seen) and len(set(seen)) == 4
    assert seen == [number for number in dict.fromkeys(seen) for _ in range(2)]
    assert from_preferences(path).prompts == made.prompts
    larger = from_preferences(path, train=10, labelled=4)
    assert larger.labelled == made.labelled and larger.prompts["test"] == made.prompts["test"]


def test_labelled_pairs_that_leave_too_few_prompts_are_refused(tmp_path):
    path = preference_rows(tmp_path)
    with pytest.raises(UserError, match="less the 15 of data.labelled, has 5 distinct prompts, but data.prompts asks"):
        from_preferences(path, labelled=15)
    with pytest.raises(UserError, match="has 20, but data.labelled asks for 20 of them"):
        from_preferences(path, labelled=20)


def test_the_shipped_example_of_chats_fills_the_splits_and_a_batch(monkeypatch):
    monkeypatch.chdir(ROOT)
    task = load_config("configs/smollm2.yaml").tasks["chat"]
    plain, tokenizer = task.model_dump(mode="json"), make_tokenizer("byte-level BPE", CHATML)
    made = make_data(plain["data"], plain["preferences"], first_words, PromptBuilder(ChatRenderer(tokenizer)))
    assert len(made.prompts["train"]) >= task.training.batch_size and disjoint(made)
    assert len(made.prompts["test"]) == task.data.prompts.test
