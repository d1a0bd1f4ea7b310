"""Validation and test data of their own, and prompts alone: what no split shares, and what is left out of train."""

import json

import pytest
from pydantic import ValidationError

from sparsepo.config.data import PreferenceData, PromptData, TextData
from sparsepo.config.preferences import FilePreferences
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.records import Prompt
from sparsepo.data.sources import first_words, make_data
from sparsepo.runtime.errors import UserError

SIZES = {"train": None, "validation": 2, "test": 3}


def write(tmp_path, name, rows):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(made, split):
    return {prompt.prompt for prompt in made.prompts[split]}


def assert_disjoint(made):
    splits = [texts(made, split) for split in made.prompts]
    assert len(set.union(*splits)) == sum(map(len, splits)) == sum(map(len, made.prompts.values()))


# --- prompts alone


def prompts_of(path, builder=None, sizes=SIZES, **given):
    data = PromptData(source="prompts", path=path, prompts=sizes, **given).model_dump(mode="json")
    return make_data(data, None, first_words, builder)


def test_prompts_alone_are_shuffled_into_splits_and_give_no_corpus(tmp_path):
    path = write(
        tmp_path, "prompts", [{"prompt": f"p{n}", "reference": f"r{n}"} for n in range(10)] + [{"prompt": "p3"}]
    )
    made = prompts_of(path)
    assert [len(made.prompts[split]) for split in ("train", "validation", "test")] == [5, 2, 3]
    assert_disjoint(made)
    assert made.corpus == made.labelled == [] and made.num_shared is None
    assert all(prompt.reference == f"r{prompt.prompt[1:]}" for prompt in made.prompts["train"])
    assert made == prompts_of(path) and made.prompts != prompts_of(path, seed=1).prompts


def test_a_prompt_may_be_a_chat_of_another_column(tmp_path):
    path = write(tmp_path, "chats", [{"chat": {"from": "human", "value": f"q{n}"}} for n in range(6)])
    builder = PromptBuilder(renderer=FakeRenderer())
    made = prompts_of(path, builder, columns={"prompt": "chat"})
    (prompt,) = made.prompts["train"]
    number = prompt.prompt[2]
    assert prompt == Prompt(f"<q{number}>", messages=[{"role": "user", "content": f"q{number}"}], rendered=True)


class FakeRenderer:
    """A chat template that puts each content in angle brackets."""

    rendered = True

    def render_prompt(self, messages, place, tools=None):
        return "".join(f"<{message['content']}>" for message in messages)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": " "}, "field 'prompt' is empty"),
        ({"prompt": 3}, "field 'prompt' must be a text, a message or a list"),
    ],
)
def test_a_row_that_is_no_prompt_is_told_with_its_line(tmp_path, row, says):
    with pytest.raises(UserError, match=rf"prompts\.jsonl:2: {says}"):
        prompts_of(write(tmp_path, "prompts", [{"prompt": "p"}, row]))


# --- data of their own


def test_splits_with_data_of_their_own_come_from_there_and_leave_train_without_common_prompts(tmp_path):
    train = write(tmp_path, "train", [{"prompt": f"p{n}"} for n in range(8)])
    validation = write(tmp_path, "validation", [{"question": text} for text in ("v0", "p0", "t0")])
    test = write(tmp_path, "test", [{"prompt": text} for text in ("t0", "t1", "p1", "t1")])
    own = {"validation": {"path": validation, "columns": {"prompt": "question"}}, "test": {"path": test}}
    made = prompts_of(train, **own)
    assert texts(made, "test") == {"t0", "t1", "p1"} and texts(made, "validation") == {"v0", "p0"}
    assert texts(made, "train") == {f"p{n}" for n in range(2, 8)} and made.num_shared == 2
    only_test = prompts_of(train, test=own["test"])
    assert len(only_test.prompts["train"]) == 7 - 2 and only_test.num_shared == 1
    assert_disjoint(only_test)


def test_too_few_prompts_of_their_own_are_refused(tmp_path):
    train = write(tmp_path, "train", [{"prompt": f"p{n}"} for n in range(8)])
    own = {"test": {"path": write(tmp_path, "test", [{"prompt": f"t{n}"} for n in range(3)])}}
    own["validation"] = {"path": write(tmp_path, "validation", [{"prompt": f"t{n}"} for n in range(4)])}
    says = r"validation\.jsonl has 1 distinct prompts that are not in test, but data.prompts.validation asks for 2"
    with pytest.raises(UserError, match=says):
        prompts_of(train, **own)
    says = r"train\.jsonl has 5 distinct prompts, but data.prompts asks for 9 \(train 7, validation 2\)"
    with pytest.raises(UserError, match=says):
        prompts_of(
            write(tmp_path, "train", [{"prompt": f"p{n}"} for n in range(5)]),
            sizes=SIZES | {"train": 7},
            test=own["test"],
        )


def test_documents_of_test_are_neither_prompts_of_train_nor_in_the_corpus(tmp_path):
    documents = [f"document {n} has words of its own" for n in range(20)]
    train = write(tmp_path, "train", [{"text": text} for text in documents])
    test = write(tmp_path, "test", [{"text": text} for text in [*documents[:2], "another one of few words"]])
    section = TextData(source="texts", path=train, test={"path": test}, prompts=SIZES, prompt_tokens=(2, 2))
    made = make_data(section.model_dump(mode="json"), None, first_words)
    assert texts(made, "test") == {"document 0", "document 1", "another one"} and made.num_shared == 2
    assert_disjoint(made)
    corpus = {text.text for text in made.corpus}
    assert corpus and not corpus & set(documents[:2])
    assert not any(
        text.startswith(f"{prompt} ") for text in corpus for split in made.prompts for prompt in texts(made, split)
    )


def test_pairs_of_test_leave_train_and_its_corpus(tmp_path):
    def pairs(*names):
        return [{"prompt": name, "chosen": f" good {name}", "rejected": " bad"} for name in names]

    train = write(tmp_path, "train", pairs(*(f"p{n}" for n in range(8))))
    test = write(tmp_path, "test", pairs("t0", "t1", "p1"))
    data = PreferenceData(source="preferences", prompts=SIZES, labelled=2)
    preferences = FilePreferences(source="pairs", path=train, test={"path": test})
    made = make_data(data.model_dump(mode="json"), preferences.model_dump(mode="json"), None)
    assert texts(made, "test") == {"t0", "t1", "p1"} and made.num_shared == 1
    assert_disjoint(made)
    assert {text.prompt for text in made.corpus} == texts(made, "train") and len(made.corpus) == 8 - 1 - 2 - 2
    assert not any("p1" in document.text for document in made.labelled)


def test_what_no_source_could_read_of_splits_is_refused(tmp_path):
    path = write(tmp_path, "train", [{"prompt": "p"}])
    with pytest.raises(ValidationError, match="give one of 'path' .a file. or 'hub'"):
        PromptData(source="prompts", path=path, prompts=SIZES, test={})
    with pytest.raises(ValidationError, match="give one of 'path'"):
        FilePreferences(source="rated_posts", path=path, test={"hub": {"id": "a/b"}})
