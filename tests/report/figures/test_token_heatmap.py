from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsepo.report.figures.style import to_spec
from sparsepo.report.figures.token_heatmap import SCALES, heatmap_rows, plot_token_comparison, plot_tokens, scaled_rows
from sparsepo.report.figures.token_layout import choose_examples, lay_out, printed_token, text_width

SIDE = {
    "tokens": [" good", "."],
    "logps": [-1.0, -2.0],
    "ref_logps": [-3.0, -1.5],
    "reverse_kl": [0.5, 0.25],
    "m_u": [0.5, 0.0],
    "m_d": [2.0, 4.0],
}


def _response(length):
    return {"tokens": [" x"] * length}


def _pair(chosen, rejected):
    return {"chosen": _response(chosen), "rejected": _response(rejected)}


def test_rows_are_reward_and_kl_each_before_the_mask_the_mask_and_after():
    reward, kl = heatmap_rows(SIDE)
    assert [row.values.tolist() for row in reward] == [[2.0, -0.5], [0.5, 0.0], [1.0, 0.0]]
    assert [row.values.tolist() for row in kl] == [[0.5, 0.25], [2.0, 4.0], [1.0, 1.0]]
    assert [row.scale for row in reward + kl] == ["reward", "mask", "reward", "kl", "mask", "kl"]


def test_without_masks_there_is_one_row_of_reward_and_one_of_kl():
    plain = {name: values for name, values in SIDE.items() if not name.startswith("m_")}
    assert [[row.scale for row in group] for group in heatmap_rows(plain)] == [["reward"], ["kl"]]


def test_numbers_of_the_pair_are_a_last_row_of_their_own():
    (row,) = heatmap_rows(SIDE | {"values": [0.5, -2.0]})[2]
    assert (row.scale, row.values.tolist()) == ("value", [0.5, -2.0])


def test_each_quantity_has_one_colour_scale_with_its_legend(make_examples):
    examples = make_examples(2)
    for example in examples:
        for side in ("chosen", "rejected"):
            example[side]["values"] = example[side]["logps"]
    legends = {colour["legend"]["title"] for _, colour in _cells(plot_tokens(examples, "SePO"))}
    assert legends == {scale.title for name, scale in SCALES.items() if name != "scaled"} and len(legends) == 4


def test_a_comparison_scales_what_is_left_after_the_mask_to_0_and_1_row_by_row():
    plain = {name: values for name, values in SIDE.items() if not name.startswith("m_")} | {"logps": [-4.0, -2.0]}
    reward, kl = scaled_rows({"A": SIDE, "B": plain, "C": plain | {"reverse_kl": [0.5, 0.5]}})
    assert [row.label for row in reward + kl] == ["A reward", "B reward", "C reward", "A KL", "B KL", "C KL"]
    # m_u log-ratio is 1, 0; without a mask it is -1, -0.5
    assert [row.values.tolist() for row in reward] == [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    assert [row.values.tolist() for row in kl] == [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]  # m_d KL is 1, 1


def test_a_comparison_has_the_cells_of_every_method_for_both_responses_of_one_pair(make_examples):
    examples = {"TDPO v2": make_examples(3), "SparsePO (common)": make_examples(3)}
    shown = choose_examples(examples["TDPO v2"])[0]
    ((cells, colour),) = _cells(plot_token_comparison(examples))
    values = [cell["value"] for cell in cells]
    tokens = sum(len(shown[side]["tokens"]) for side in ("chosen", "rejected"))
    assert len(values) == 4 * tokens and min(values) == 0.0 and max(values) == 1.0
    assert colour["scale"]["domain"][0] == 0.0 and colour["scale"]["domain"][-1] == 1.0


def test_a_comparison_is_the_same_bytes_each_time(make_examples, assert_renders_alike):
    assert_renders_alike(lambda: plot_token_comparison({"DPO": make_examples(2), "TDPO v2": make_examples(2)}))


def test_examples_are_the_first_that_fit_whole():
    pairs = [_pair(41, 5), _pair(40, 40), _pair(5, 41), _pair(1, 1), _pair(2, 2), _pair(3, 3)]
    assert choose_examples(pairs) == [pairs[1], pairs[3], pairs[4]]
    assert choose_examples(pairs[:1] + pairs[2:3]) == [pairs[0], pairs[2]]


@pytest.mark.parametrize(
    ("token", "text"),
    [(" film", "film"), ("\n\n", "¶"), (" ", "·"), ("</s>", "<eos>"), (" \x07!", "□!"), ("$", "$")],
)
def test_tokens_are_written_so_that_they_can_be_seen(token, text):
    assert printed_token(token) == text


def test_a_long_token_is_cut():
    assert printed_token("a" * 40) == "a" * 15 + "…"


tokens = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12)


@given(st.lists(tokens, max_size=40), st.floats(140.0, 600.0))
def test_lines_hold_every_token_once_in_order_within_the_width(texts, width):
    lines = lay_out(texts, width)
    cells = [cell for line in lines for cell in line]
    assert [cell.index for cell in cells] == list(range(len(texts)))
    assert all(cell.left + cell.width <= width for cell in cells)
    assert all(cell.width > text_width(cell.text) for cell in cells)
    for line in lines:
        assert all(a.left + a.width <= b.left + 1e-9 for a, b in pairwise(line))


def test_pieces_of_a_word_touch_and_words_stand_apart():
    (line,) = lay_out([" under", "whelm", " film"], 400.0)
    assert line[1].left == line[0].left + line[0].width
    assert line[2].left > line[1].left + line[1].width


def _layers(figure):
    """(mark, its data, its encoding) of each layer."""
    spec = to_spec(figure, 8)
    for layer in spec["layer"]:
        yield layer["mark"], spec["datasets"][layer["data"]["name"]], layer["encoding"]


def _cells(figure):
    """(cells, their colour) of each quantity."""
    return [(rows, encoding["color"]) for mark, rows, encoding in _layers(figure) if mark["type"] == "rect"]


def _texts(figure):
    return [row["text"] for mark, rows, _ in _layers(figure) if mark["type"] == "text" for row in rows]


def test_colours_are_centred_at_zero_and_shared_before_and_after_the_mask():
    side = SIDE | {"logps": [0.0, -1.0], "ref_logps": [0.0, -3.0], "m_u": [1.0, 0.5]}
    pair = {"prompt": "p", "reward_chosen": 0.0, "reward_rejected": 0.0}
    (rows, colour), *others = _cells(plot_tokens([pair | {"chosen": side, "rejected": side}], "M"))
    assert [row["value"] for row in rows] == [0.0, 2.0, 0.0, 1.0] * 2  # before and after, chosen and rejected
    low, middle, high = colour["scale"]["domain"]
    assert (middle, low) == (0.0, -high) and high == pytest.approx(2.0)
    assert colour["scale"]["range"][1] == "#F7F7F7" and colour["scale"]["clamp"]
    assert all(other["scale"]["domain"][0] == 0.0 for _, other in others)


def test_each_line_has_a_row_of_cells_per_quantity(make_examples):
    for masked, rows in ((True, 6), (False, 2)):
        examples = make_examples(masked=masked)
        shown = [pair[side] for pair in examples[:3] for side in ("chosen", "rejected")]
        cells = sum(len(cells) for cells, _ in _cells(plot_tokens(examples, "M")))
        assert cells == rows * sum(len(side["tokens"]) for side in shown)


def test_every_planted_token_is_underlined(make_examples):
    examples = make_examples(1)
    figure = plot_tokens(examples, "SparsePO")
    planted = sum(sum(examples[0][side]["planted"]) for side in ("chosen", "rejected"))
    (lines,) = [rows for mark, rows, _ in _layers(figure) if mark["type"] == "rule"]
    assert len(lines) == planted > 0
    assert _texts(figure)[0].startswith("SparsePO (") and "planted tokens underlined" in _texts(figure)[0]


def test_long_responses_are_cut_and_the_figure_says_so(make_examples):
    example = make_examples(1)[0]
    long = {name: list(np.resize(values, 60)) for name, values in example["chosen"].items()}
    figure = plot_tokens([example | {"chosen": long, "rejected": long}], "MaPO")
    assert "responses cut at 40 tokens" in _texts(figure)[0]
    assert sum(len(cells) for cells, _ in _cells(figure)) == 2 * 6 * 40


def test_a_policy_equal_to_the_reference_draws(make_examples, assert_renders_alike):
    example = make_examples(1)[0]
    still = example["chosen"] | {"logps": example["chosen"]["ref_logps"]}
    still["reverse_kl"] = [0.0] * len(still["tokens"])
    assert_renders_alike(lambda: plot_tokens([example | {"chosen": still, "rejected": still}], "M"))


def test_texts_are_drawn_as_they_are(make_examples, assert_renders_alike):
    example = make_examples(1)[0] | {"prompt": "It cost $5 and <b>"}
    words = example["chosen"]["tokens"]
    side = example["chosen"] | {"tokens": ["$", "a_", "{{1}}", "<svg>", *words[4:]]}
    figure = plot_tokens([example | {"chosen": side}], "M")
    assert {"$", "a_", "{{1}}", "<svg>", "Prompt: It cost $5 and <b>"} <= set(_texts(figure))
    assert_renders_alike(lambda: plot_tokens([example | {"chosen": side}], "M"))


def test_the_heatmap_is_the_same_bytes_each_time(make_examples, assert_renders_alike):
    assert_renders_alike(lambda: plot_tokens(make_examples(), "SparsePO"))
