"""Every format of preference rows, by a row as its data set has it, gives the canonical row worked out by hand."""

import json

import pytest

from sparsepo.config.preferences import SOURCE_FIELDS
from sparsepo.data.messages import as_chat
from sparsepo.data.pairing import PairBuilder
from sparsepo.data.row_formats import (
    DIFFERENT_PROMPTS,
    EXAMPLE,
    OPTIONAL,
    ROW_FORMATS,
    SCORES,
    canonical_rows,
    recognise,
    unpaired_rows,
)
from sparsepo.runtime.errors import UserError

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Yo"), ("assistant", "No"))
)
SYSTEM = {"role": "system", "content": "Be kind"}
PAIR = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
CALL = {"name": "add", "arguments": {"a": 1}}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "Hi"}],
    "chosen": {"from": "gpt", "value": "Yo"},
    "rejected": {"from": "gpt", "value": "No"},
}
ALPACA = {"instruction": "Hi", "chosen": "Yo", "rejected": "No"}
SHP = {"history": "Hi", "human_ref_A": "No", "human_ref_B": "Yo", "labels": 0, "score_A": 2, "score_B": 9}
HELPSTEER3 = {"context": [USER], "response1": "Yo", "response2": "No", "overall_preference": -2}

ROWS = {
    "texts": (
        "prompt, chosen, rejected",
        [{"prompt": "Hi", "chosen": " Yo", "rejected": " No", "chosen_values": [0.5, 1], "id": 3}],
        [{"prompt": "Hi", "chosen": " Yo", "rejected": " No", "chosen_values": [0.5, 1]}],
    ),
    "messages": ("prompt, chosen, rejected", [PAIR], [PAIR]),
    "single messages": ("prompt, chosen, rejected", [{"prompt": USER, "chosen": GOOD, "rejected": BAD}], [PAIR]),
    "chats": (
        "chosen, rejected",
        [{"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}],
        [PAIR | {"prompt": [SYSTEM, USER]}],
    ),
    "UltraFeedback": (
        "prompt, chosen, rejected",
        [
            {
                "prompt": "Hi",
                "prompt_id": "x",
                "chosen": [USER, GOOD],
                "rejected": [USER, BAD],
                "messages": [USER, GOOD],
                "score_chosen": 8.5,
                "score_rejected": 3,
            }
        ],
        [PAIR | {"chosen_score": 8.5, "rejected_score": 3}],
    ),
    "text prompt with a system text": (
        "prompt, chosen, rejected",
        [{"system": "Be kind", "prompt": "Hi", "chosen": "Yo", "rejected": "No"}],
        [PAIR | {"prompt": [SYSTEM, USER]}],
    ),
    "ShareGPT": ("ShareGPT", [SHAREGPT | {"tools": json.dumps([CALL])}], [PAIR | {"tools": [CALL]}]),
    "messages of OpenAI": (
        "ShareGPT with messages",
        [{"messages": [SYSTEM, USER], "chosen": GOOD, "rejected": BAD, "tools": ""}],
        [PAIR | {"prompt": [SYSTEM, USER]}],
    ),
    "Alpaca": (
        "Alpaca",
        [ALPACA | {"input": "there", "history": [["A", "B"]], "system": "Be kind"}],
        [
            PAIR
            | {
                "prompt": [
                    SYSTEM,
                    {"role": "user", "content": "A"},
                    {"role": "assistant", "content": "B"},
                    {"role": "user", "content": "Hi\nthere"},
                ]
            }
        ],
    ),
    "Alpaca with outputs": (
        "Alpaca with two outputs",
        [{"instruction": "Hi", "input": "", "output": ["Yo", "No"]}],
        [PAIR],
    ),
    "Orca": ("Orca", [{"system": "", "question": "Hi", "chosen": "Yo", "rejected": "No"}], [PAIR]),
    "Orca of distilabel": (
        "Orca",
        [{"system": "Be kind", "input": "Hi", "chosen": "Yo", "rejected": "No"}],
        [PAIR | {"prompt": [SYSTEM, USER]}],
    ),
    "HH": (
        "HH transcripts",
        [{"chosen": "\n\nHuman: Hi\n\nAssistant: Yo", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}],
        [PAIR],
    ),
    "two texts": (
        "chosen, rejected",
        [{"chosen": "The film is good.", "rejected": "The film is gory."}],
        [{"prompt": "The film is", "chosen": " good.", "rejected": " gory."}],
    ),
    "SHP": ("SHP", [SHP], [PAIR | {"chosen_score": 9, "rejected_score": 2}]),
    "SHP, A is better": (
        "SHP",
        [{"history": "Hi", "human_ref_A": "Yo", "human_ref_B": "No", "labels": 1}],
        [PAIR],
    ),
    "HelpSteer": (
        "HelpSteer",
        [{"prompt": "Hi", "response": text, "helpfulness": score} for text, score in (("So", 2), ("Yo", 4), ("No", 0))],
        [PAIR | {"chosen_score": 4, "rejected_score": 0, "chosen_ended": True, "rejected_ended": True}],
    ),
    "HelpSteer3": ("HelpSteer3", [HELPSTEER3], [PAIR]),
    "HelpSteer3, the second is better": (
        "HelpSteer3",
        [{"context": [USER], "response1": "No", "response2": "Yo", "overall_preference": 1}],
        [PAIR],
    ),
    "responses and scores": (
        "responses with scores",
        [{"prompt": "Hi", "completions": ["No", "Yo", "Oh"], "rewards": [0, 1, 0.5]}],
        [
            {"prompt": "Hi", "chosen": " Yo", "rejected": " No", "chosen_score": 1, "rejected_score": 0}
            | {"chosen_ended": True, "rejected_ended": True}
        ],
    ),
    "scored responses": (
        "one response with a score",
        [
            {"prompt": [USER], "response": "Yo", "score": 1},
            {"prompt": [USER], "completion": "No", "reward": 0, "ended": False},
        ],
        [PAIR | {"chosen_score": 1, "rejected_score": 0, "chosen_ended": True, "rejected_ended": False}],
    ),
}


def read(*rows, builder=None):
    """The canonical rows; the place of a row is its number."""
    placed = ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    return [row for _, row in canonical_rows(placed, builder or PairBuilder())]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_recognised_and_gives_the_canonical_row(name, capsys):
    row_format, rows, canonical = ROWS[name]
    assert read(*rows) == canonical
    assert capsys.readouterr().err == f"row 1: read as '{row_format}'\n"


def test_every_format_has_a_row_here():
    assert {row_format for row_format, _, _ in ROWS.values()} == {each.name for each in ROW_FORMATS}


def test_columns_can_name_every_field_that_is_read():
    fields = {name for each in ROW_FORMATS for name in each.kind.__dataclass_fields__}
    assert set(SOURCE_FIELDS["pairs"]) == fields | {*OPTIONAL, "tools"}
    assert set(SCORES.values()) <= set(OPTIONAL)


# --- messages


def test_messages_are_kept_as_they_came():
    odd = {"role": "assistant", "content": "  Yo \n", "name": "x", "weight": 0, "thinking": "hm"}
    (row,) = read(
        {
            "prompt": [{"role": "developer", "content": [{"type": "text", "text": " a "}]}, USER],
            "chosen": odd,
            "rejected": BAD,
        }
    )
    assert row["chosen"] == [odd] and row["prompt"][0]["content"] == [{"type": "text", "text": " a "}]


def test_a_sharegpt_chat_with_tools_has_the_roles_of_openai():
    chat = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "h"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "g", "weight": 1},
    ]
    assert as_chat(chat, "here") == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "h"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "g", "weight": 1},
    ]


def test_common_turns_with_tools_are_of_the_prompt_and_different_ones_of_the_response():
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]}
    result, other = ({"role": "tool", "content": text} for text in "34")
    (row,) = read({"chosen": [USER, call, result, GOOD], "rejected": [USER, call, result, BAD]})
    assert row == {"prompt": [USER, call, result], "chosen": [GOOD], "rejected": [BAD]}
    (row,) = read({"chosen": [USER, call, result, GOOD], "rejected": [USER, call, other, GOOD]})
    assert row == {"prompt": [USER], "chosen": [call, result, GOOD], "rejected": [call, other, GOOD]}


def test_chats_that_differ_before_the_last_turn_are_dropped_and_counted():
    builder = PairBuilder()
    other = {"role": "user", "content": "Bye"}
    assert not read(
        {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD, USER, GOOD]},
        {"chosen": [USER, GOOD], "rejected": [other, BAD]},
        builder=builder,
    )
    assert builder.dropped == {DIFFERENT_PROMPTS: 2} and builder.first == {DIFFERENT_PROMPTS: "row 1"}


def test_a_system_text_stands_once():
    (row,) = read(SHAREGPT | {"system": "Be kind", "conversations": [SYSTEM, USER]})
    assert row["prompt"] == [SYSTEM, USER]


# --- what is dropped


def test_ties_and_single_or_empty_responses_are_counted():
    builder = PairBuilder()
    assert not read(HELPSTEER3 | {"overall_preference": 0}, builder=builder)
    rows = [("a", "x", 1), ("a", "y", 1), ("b", "x", 1), ("c", "x", 1), ("c", " ", 2)]
    assert not read(*({"prompt": p, "text": text, "reward": score} for p, text, score in rows), builder=builder)
    assert builder.dropped == {
        "both responses are equally good": 1,
        "a response is empty": 1,
        "all responses of the prompt have the same reward": 1,
        "the only response of its prompt": 2,
    }


# --- errors


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"a": 1, "question": "q"}, f"no known format has these fields: a, question; say which .*\n{EXAMPLE}"),
        ({"chosen": "Yes", "rejected": "No"}, "no known format has these fields: chosen, rejected"),
        ({"promt": "Tell me", "chosen": "The a", "rejected": "The b"}, "fields: promt, chosen, rejected"),
        ({"prompt": "p", "completion": "c", "label": True}, "preferences.source: unpaired"),
        ([1], "a row must be an object with named fields, not \\[1\\]"),
        ({"prompt": "p", "chosen": 3, "rejected": "c"}, "field 'chosen' must be a text, a message or a list"),
        ({"prompt": "p", "chosen": [{"role": "user"}], "rejected": "c"}, r"field 'chosen'\[0\] must be a message"),
        ({"prompt": "p", "chosen": "\ud800", "rejected": "c"}, "field 'chosen' cannot be written as JSON"),
        (SHAREGPT | {"chosen": {"from": "bot", "value": "x"}}, r"field 'chosen'\[0\] is from \"bot\"; allowed: human"),
        (SHAREGPT | {"tools": "add"}, "field 'tools' must be a list"),
        (SHP | {"labels": 2}, "field 'labels' must be less than or equal to 1"),
        ({"instruction": "i", "output": ["a"]}, r"field 'output' must be \[better, worse\], not 1 responses"),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1]}, "2 responses and 1 scores; each response needs one"),
        ({"prompt": "p", "response": "a", "score": "high"}, "field 'reward' must be a valid number"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c"},
            "field 'rejected' must end with a turn",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_told_with_its_place(row, says):
    with pytest.raises(UserError, match=f"row 1.*{says}"):
        read(row)


def test_a_row_of_another_format_than_the_first_is_an_error():
    with pytest.raises(UserError, match="row 2: field 'prompt' is missing"):
        read(ROWS["texts"][1][0], ALPACA)


def test_a_prompt_that_the_first_row_does_not_have_is_an_error():
    with pytest.raises(UserError, match="row 2: has a field 'prompt', which the first row does not have"):
        read(ROWS["two texts"][1][0], ROWS["texts"][1][0])


def test_a_format_needs_its_fields_not_null():
    assert (
        recognise({"prompt": None, "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "here").name == "chosen, rejected"
    )


# --- unpaired


def unpaired(*rows, builder=None):
    placed = ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    return list(unpaired_rows(placed, builder or PairBuilder()))


def test_good_and_bad_responses_to_a_prompt_are_paired_in_their_order_and_the_others_counted():
    texts = [("p", "good", True), ("p", "bad", 0), ("p", "fine", 1), ("p", "worse", False), ("p", "best", True)]
    texts += [("q", "good", True), ("r", "bad", False), ("s", "good", True)]
    builder = PairBuilder()
    rows = unpaired(*({"prompt": p, "completion": c, "label": label} for p, c, label in texts), builder=builder)
    assert rows == [
        ("row 1", {"prompt": "p", "chosen": "good", "rejected": "bad"}),
        ("row 3", {"prompt": "p", "chosen": "fine", "rejected": "worse"}),
        ("row 6", {"prompt": "q", "chosen": "good", "rejected": "bad", "rejected_prompt": "r"}),
    ]
    assert builder.dropped == {
        "a response more than the other responses to its prompt": 1,
        "more good responses than others": 1,
    }


def test_unpaired_chats_are_canonical_rows_too():
    rows = unpaired(
        {"prompt": [USER], "completion": [GOOD], "label": True}, {"prompt": [USER], "completion": "No", "label": False}
    )
    assert rows == [("row 1", PAIR)]


@pytest.mark.parametrize("label", [2, "yes", None])
def test_a_label_is_true_or_false(label):
    with pytest.raises(UserError, match="row 1: field 'label"):
        unpaired({"prompt": "p", "completion": "c", "label": label})
