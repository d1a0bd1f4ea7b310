"""Dialogues of HH and chats as messages: cut by hand, malformed ones refused with their place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsepo.data.chat import ChatRenderer, set_chat_template
from sparsepo.data.hh_dialogues import count_human_turns, split_dialogue, transcript_pairs
from sparsepo.data.pairing import PairBuilder
from sparsepo.data.preference_formats import row_pairs
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.records import Preference, Prompt
from sparsepo.models.loading import train_tokenizer
from sparsepo.runtime.errors import UserError

HH = set_chat_template(train_tokenizer(["Hi"], "word", 10), "hh")
ONE = "\n\nHuman: Hi\n\nAssistant:"
TWO = f"{ONE} Hello\n\nHuman: Why?\n\nAssistant:"


def pairs(make, *rows):
    made = PairBuilder()
    rows = ((f"row {at}", row) for at, row in enumerate(rows, start=1))
    return list(make(rows, made, PromptBuilder(ChatRenderer(HH)))), made


def row(chosen, rejected):
    return {"chosen": chosen, "rejected": rejected}


def test_the_response_is_the_last_turn_of_the_assistant_with_its_space():
    assert split_dialogue(f"{ONE} Hello\n\nthere", "here") == (ONE, " Hello\n\nthere")
    assert split_dialogue(f"{TWO} Because.", "here") == (TWO, " Because.")


ROLES = ("user", "assistant")
WORDS = st.text("abc \n:", max_size=8)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_prompt_and_response_are_the_dialogue_and_the_cut_is_before_the_last_answer(exchange):
    dialogue = "".join(f"\n\nHuman:{asked}\n\nAssistant:{answered}" for asked, answered in exchange)
    prompt, response = split_dialogue(dialogue, "here")
    assert prompt + response == dialogue and response == exchange[-1][1]
    turns = [{"role": role, "content": text} for pair in exchange for role, text in zip(ROLES, pair, strict=True)]
    assert count_human_turns(Prompt(prompt)) == count_human_turns(Prompt("", messages=turns)) == len(exchange)


@pytest.mark.parametrize(
    ("dialogue", "says"),
    [
        ("Hi\n\nAssistant: Hello", r"here must start with a turn '\\n\\nHuman:', not with 'Hi"),
        ("Human: Hi\n\nAssistant: Hello", "must start with a turn"),
        ("\n\nAssistant: Hello", "must start with a turn"),
        ("", "must start with a turn"),
        ("\n\nHuman: Hi", r"here must end with a turn '\\n\\nAssistant:'"),
        (f"{ONE} Hello\n\nHuman: Why?", "must end with a turn"),
    ],
)
def test_a_malformed_dialogue_is_refused_with_its_place(dialogue, says):
    with pytest.raises(UserError, match=says):
        split_dialogue(dialogue, "here")


@pytest.mark.parametrize("field", ["chosen", "rejected"])
def test_the_row_and_the_field_of_a_malformed_dialogue_are_told(field):
    bad = row(f"{ONE} a", f"{ONE} b") | {field: "\n\nHuman: Hi"}
    with pytest.raises(UserError, match=f"row 2: field '{field}' must end with a turn"):
        pairs(transcript_pairs, row(f"{ONE} a", f"{ONE} b"), bad)


def test_a_row_gives_its_prompt_and_both_last_turns():
    found, made = pairs(transcript_pairs, row(f"{TWO} yes", f"{TWO} no"), row(f"{ONE} a", f"{ONE}"))
    assert found == [
        ("row 1", "", Preference(TWO, " yes", " no")),
        ("row 2", "", Preference(ONE, " a", "")),
    ]
    assert made.dropped == {}


def test_dialogues_that_differ_before_the_last_turn_are_dropped_and_counted():
    """As 3 in 1,400 of HH do, where a model has written a turn of the human itself."""
    found, made = pairs(transcript_pairs, row(f"{ONE} Hello", f"{TWO} no"), row(f"{ONE} a", f"{ONE} b"))
    assert [place for place, _, _ in found] == ["row 2"]
    assert made.summary["dropped"] == [
        {"reason": "chosen and rejected differ before the last turn", "count": 1, "first": "row 1"}
    ]


# --- messages


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def rendered(messages):
    """The prompt and the chosen response of a row of chats."""
    (found,), _ = pairs(row_pairs, row(messages, messages))
    return found.pair.prompt, found.pair.chosen


def test_a_chat_is_rendered_as_a_transcript():
    messages = chat(("user", "Hi"), ("assistant", " Hello\n"), ("user", "Why?"), ("assistant", "Because."))
    assert rendered(messages) == (TWO, " Because.")


def test_a_system_text_begins_the_first_turn_of_the_human():
    messages = chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))
    assert rendered(messages) == ("\n\nHuman: Be brief.\n\nHi\n\nAssistant:", " Hello")


def test_a_text_that_looks_like_a_turn_stays_in_its_message():
    messages = chat(("user", "Hi"), ("assistant", "Say:\n\nAssistant: hello"))
    assert rendered(messages) == (ONE, " Say:\n\nAssistant: hello")


def test_chats_give_pairs_with_the_data_set_that_they_come_from():
    good, bad = (chat(("user", "Hi"), ("assistant", text)) for text in ("Hello", "What?"))
    other = chat(("user", "Ho"), ("assistant", "Hello"))
    found, made = pairs(row_pairs, row(good, bad) | {"dataset": "capybara"}, row(good, other), row(bad, good))
    assert found == [
        ("row 1", "capybara", Preference(ONE, " Hello", " What?", messages=good[:1])),
        ("row 3", "", Preference(ONE, " What?", " Hello", messages=good[:1])),
    ]
    assert made.dropped == {"chosen and rejected differ before the last turn": 1}


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        (["Hi"], r"row 1: field 'chosen'\[0\] must be a message \{.role.: "),
        ([{"content": "Hi"}], r"row 1: field 'chosen'\[0\] must be a message"),
        (chat(("user", "Hi"), ("tool", "x"), ("assistant", "y")), "a role 'tool'; allowed: system"),
        (chat(("user", "Hi"), ("system", "x"), ("assistant", "y")), "a role 'system'"),
        (chat(("assistant", "Hi"), ("user", "Ha"), ("assistant", "Ho")), "must begin with a message of the user"),
        (chat(("user", "Hi"), ("assistant", "Ho"), ("user", "Ha")), "must end with a turn of the user or of a tool"),
    ],
)
def test_what_is_no_chat_is_refused_with_its_place(messages, says):
    with pytest.raises(UserError, match=says):
        pairs(row_pairs, row(messages, messages))
