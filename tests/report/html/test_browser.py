"""The page in a real browser, opened from disk: what a reader does with mouse, keys and a narrow window."""

import re
import shutil
from contextlib import contextmanager
from time import sleep

import pytest

from sparsepo.report.figures.style import method_style

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as made:
        opened = made.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, page):
    """A context manager (width, colours) -> the page, which must stay silent and off the network."""

    @contextmanager
    def visit(width=1280, colours="light"):
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=colours)
        wrong = []
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: wrong.append(request.url) if request.url != page.as_uri() else None)
        tab.goto(page.as_uri())
        yield tab
        tab.close()
        assert not [text for text in wrong if not text.startswith(("data:", "blob:"))]

    return visit


def section(tab, part, task="planted"):
    """A section, scrolled to, so that it has drawn itself."""
    found = tab.locator(f"#{task}-{part}")
    found.scroll_into_view_if_needed()
    return found


def until(holds):
    """Wait for what a script of the page does in its own time; its policy forbids to wait inside it."""
    for _ in range(200):
        if holds():
            return
        sleep(0.1)
    raise AssertionError("it did not happen within 20 seconds")


COLOURS = {method: method_style(method).colour for method in ("sft", "dpo", "mapo", "sparsepo_independent", "simpo")}
USED_COLOURS = """svg => [...svg.querySelectorAll("path, line")]
  .flatMap(mark => [mark.getAttribute("fill"), mark.getAttribute("stroke")])"""


def drawn_methods(plot):
    """The methods of which a chart shows a mark, by their colours."""
    used = plot.evaluate(USED_COLOURS)
    return {method for method, colour in COLOURS.items() if colour in used}


def axis_titles(plot):
    return plot.locator(".role-axis-title text").all_text_contents()


def test_the_head_says_what_was_compared_and_what_to_doubt(opened):
    with opened() as tab:
        summary = section(tab, "summary")
        assert "3 methods, 6 settings, 1 seed" in summary.inner_text()
        assert summary.locator(".best").inner_text().startswith("Best on test data")
        assert "Read with care" in summary.inner_text()
        assert summary.locator("table tbody tr").count() == 4


def test_a_method_is_switched_off_in_all_figures_and_on_again(opened):
    every = {"sft", "dpo", "mapo", "sparsepo_independent"}
    with opened() as tab:
        frontier, dynamics = section(tab, "frontier"), section(tab, "dynamics")
        dynamics.locator("[data-control=quantity]").select_option("loss")
        plot, panel = frontier.locator("svg.marks"), dynamics.locator("svg.marks").first
        until(lambda: drawn_methods(plot) == every and drawn_methods(panel) == every - {"sft"})
        button = frontier.locator("button[data-method=mapo]")
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        until(lambda: drawn_methods(plot) == every - {"mapo"} and drawn_methods(panel) == every - {"sft", "mapo"})
        dynamics.locator("button[data-methods=none]").click()
        until(lambda: drawn_methods(plot) == drawn_methods(panel) == set())
        dynamics.locator("button[data-methods=all]").click()
        until(lambda: drawn_methods(plot) == every)
        button.focus()
        tab.keyboard.press("Enter")
        assert button.get_attribute("aria-pressed") == "false"
        until(lambda: drawn_methods(plot) == every - {"mapo"})


def test_a_method_that_is_switched_off_stays_off_in_what_is_drawn_later(opened):
    with opened() as tab:
        frontier = section(tab, "frontier")
        until(lambda: "dpo" in drawn_methods(frontier.locator("svg.marks")))
        frontier.locator("button[data-method=dpo]").click()
        frontier.locator("[data-control=kl]").select_option("kl_sample")
        until(lambda: axis_titles(frontier)[:1] == ["sampled KL to the reference (nats a response)"])
        assert drawn_methods(frontier.locator("svg.marks")) == {"sft", "mapo", "sparsepo_independent"}
        panel = section(tab, "dynamics").locator("svg.marks").first
        panel.wait_for()
        assert "dpo" not in drawn_methods(panel)


def test_pointing_at_a_marker_names_run_reward_and_kl(opened):
    with opened() as tab:
        plot = section(tab, "frontier").locator("svg.marks")
        plot.wait_for()
        marks = {
            ".layer_6_marks": "DPO beta=,1 seed, at the end,reward,KL,nats",
            ".layer_2_marks": "DPO beta=,seed 0, step ",
        }
        for layer, words in marks.items():
            tab.mouse.move(1, 1)
            plot.locator(f"{layer} path[fill='{COLOURS['dpo']}']").first.hover(force=True)
            label = tab.locator("#vg-tooltip-element.visible")
            label.wait_for()
            assert all(word in label.text_content() for word in words.split(",")), label.text_content()


def test_the_other_kl_and_another_quantity_are_drawn(opened):
    with opened() as tab:
        frontier = section(tab, "frontier")
        frontier.locator("svg.marks").wait_for()
        frontier.locator("[data-control=kl]").select_option("kl_sample")
        until(lambda: axis_titles(frontier)[:1] == ["sampled KL to the reference (nats a response)"])
        dynamics = section(tab, "dynamics")
        dynamics.locator("svg.marks").first.wait_for()
        dynamics.locator("[data-control=quantity]").select_option("reverse_kl")
        until(lambda: axis_titles(dynamics)[:2] == ["optimiser step", "nats"])
        assert dynamics.locator("figcaption").all_inner_texts() == ["β=0.1", "β=0.5"]
        lines = (
            dynamics.locator("svg.marks")
            .first.locator(".mark-line path")
            .evaluate_all("lines => lines.map(line => line.getAttribute('stroke-dasharray'))")
        )
        assert len(set(lines)) == 2


def test_dragging_moves_a_figure_and_a_double_click_brings_it_back(opened):
    with opened() as tab:
        frontier = section(tab, "frontier")
        plot = frontier.locator("svg.marks")
        plot.wait_for()
        ticks = lambda: set(plot.locator(".role-axis-label text").all_text_contents())  # noqa: E731
        before, box = ticks(), plot.bounding_box()
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tab.mouse.move(*middle)
        tab.mouse.down()
        tab.mouse.move(middle[0] - 300, middle[1], steps=4)
        tab.mouse.up()
        until(lambda: ticks() != before)
        tab.mouse.dblclick(*middle)
        until(lambda: ticks() == before)


def test_no_figure_offers_to_send_it_anywhere(opened):
    with opened() as tab:
        frontier = section(tab, "frontier")
        frontier.locator("svg.marks").wait_for()
        assert frontier.locator(".vega-embed").locator("a, button, details").count() == 0


@pytest.mark.parametrize(("kind", "start"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_a_figure_is_saved(opened, tmp_path, kind, start):
    with opened() as tab:
        frontier = section(tab, "frontier")
        frontier.locator("svg.marks").wait_for()
        with tab.expect_download() as waiting:
            frontier.locator(f"[data-export={kind}]").click()
        waiting.value.save_as(tmp_path / "saved")
        assert waiting.value.suggested_filename == f"planted-frontier.{kind}"
        content = (tmp_path / "saved").read_bytes()
        assert content.startswith(start) and len(content) > 5000
        assert kind == "png" or "SparsePO (independent)" in content.decode()  # its legend


def test_the_token_viewer_shows_two_runs_and_exact_values(opened, make_examples):
    example = make_examples(6)[2]
    with opened() as tab:
        tokens = section(tab, "tokens")
        tokens.locator("[data-control=pair]").select_option("2")
        tokens.locator("[data-control=value]").select_option("m_u")
        left, right = tokens.locator("[data-side=left]"), tokens.locator("[data-side=right]")
        right.locator("[data-control=run]").select_option("mapo/beta~0.5/seed~0")
        chosen = right.get_by_role("group", name="chosen response")
        chosen.locator("span").first.wait_for()
        assert [text.strip() for text in chosen.locator("span").all_text_contents()] == [
            token.strip() for token in example["chosen"]["tokens"]
        ]
        values = [
            float(value) for value in chosen.locator("span").evaluate_all("spans => spans.map(s => s.dataset.value)")
        ]
        assert values == pytest.approx(example["chosen"]["m_u"], rel=1e-3)
        assert "no masks" in left.inner_text()
        chosen.locator("span").nth(1).hover()
        readout = tokens.locator("[data-readout]")
        assert f"“{example['chosen']['tokens'][1]}”" in readout.inner_text()
        assert f"m_u {float(f'{values[1]:.4g}'):g}" in readout.inner_text()


def test_arrow_keys_move_through_a_response(opened, make_examples):
    example = make_examples(6)[0]
    with opened() as tab:
        tokens = section(tab, "tokens")
        chosen = tokens.locator("[data-side=left]").get_by_role("group", name="chosen response")
        chosen.locator("span").first.focus()
        for _ in range(2):
            tab.keyboard.press("ArrowRight")
        assert f"“{example['chosen']['tokens'][2]}”" in tokens.locator("[data-readout]").inner_text()
        tab.keyboard.press("ArrowLeft")
        assert f"“{example['chosen']['tokens'][1]}”" in tokens.locator("[data-readout]").inner_text()
        assert chosen.locator("span[tabindex='0']").count() == 1


def test_a_common_scale_colours_the_same_value_alike(opened):
    colours = "run => [...run.querySelectorAll('.tokens span')].map(s => s.style.background)"
    with opened() as tab:
        tokens = section(tab, "tokens")
        tokens.locator("[data-control=value]").select_option("weighted_log_ratio")
        for side, run in (("left", "mapo/beta~0.1/seed~0"), ("right", "sparsepo_independent/beta~0.1/seed~0")):
            tokens.locator(f"[data-side={side}] [data-control=run]").select_option(run)
        until(lambda: tokens.locator(".legend").count() == 2)
        legends = tokens.locator(".legend").all_inner_texts()
        assert legends[0] == legends[1]
        sides = [tokens.locator(f"[data-side={side}]").evaluate(colours) for side in ("left", "right")]
        assert sides[0] == sides[1]


def test_the_tokens_of_largest_weight_are_ranked(opened):
    with opened() as tab:
        tokens = section(tab, "tokens")
        tokens.locator("[data-side=right] [data-control=run]").select_option("mapo/beta~0.1/seed~0")
        ranking = tokens.locator("[data-top=right] tbody tr")
        ranking.first.wait_for()
        weights = [float(row.split("\t")[1]) for row in ranking.all_inner_texts()]
        assert weights == sorted(weights, reverse=True) and len(weights) > 5


def test_samples_are_found_by_a_word_of_an_answer(opened):
    with opened() as tab:
        samples = section(tab, "samples")
        samples.locator("[data-prompts] button").first.wait_for()
        assert samples.locator("[data-prompts] button").count() == 24
        samples.locator("[data-control=search]").fill("mapo/beta~0.1/seed~0 to 17")
        assert samples.locator("[data-prompts] button").all_inner_texts() == ["prompt number 17"]
        answers = samples.locator("[data-answers] .answer")
        assert answers.nth(1).inner_text().startswith("Reference")
        found = answers.nth(2).inner_text()
        assert "MaPO beta=0.1" in found and re.search(r"reward -?\d", found) and "answer of mapo" in found
        assert samples.locator("mark").first.inner_text() == "mapo/beta~0.1/seed~0 to 17"
        samples.locator("[data-control=search]").fill("nothing has this")
        assert "0 of 24 prompts" in samples.inner_text()


def test_samples_are_ordered_by_a_score_and_kept_to_a_method(opened):
    with opened() as tab:
        samples = section(tab, "samples")
        samples.locator("[data-prompts] button").nth(3).click()
        samples.locator("[data-control=method]").select_option("dpo")
        samples.locator("[data-control=order]").select_option(label="lowest reward")
        texts = samples.locator("[data-answers] .answer .scores").all_inner_texts()
        rewards = [float(re.search(r"reward (-?[\d.e-]+)", text)[1]) for text in texts if text]
        assert len(rewards) == 8 and rewards == sorted(rewards)


def test_a_run_tells_its_record_and_the_end_of_its_log(opened):
    with opened() as tab:
        runs = section(tab, "runs")
        runs.locator("[data-control=filter]").fill("mapo 0.5")
        rows = runs.locator("tbody tr:visible")
        assert rows.count() == 1 and "1 min 15 s" in rows.inner_text() and "1,234 MB" in rows.inner_text()
        rows.locator("[data-details]").click()
        dialog = tab.locator("#details")
        dialog.locator("pre").first.wait_for()
        for text in ("the last words of mapo/beta~0.5/seed~0", "c0ffee", "torch", "a processor"):
            assert text in dialog.inner_text()
        tab.keyboard.press("Escape")
        assert not dialog.is_visible()
        runs.locator("[data-config]").click()
        dialog.locator("pre").first.wait_for()
        assert '"num_train_epochs": 3' in dialog.inner_text()


def test_the_link_of_a_run_leads_to_its_folder(opened, page):
    with opened() as tab:
        for link in section(tab, "runs").locator("tbody a").all():
            assert (page.parent / link.get_attribute("href") / "run.json").exists()


def test_another_task_is_chosen(opened):
    with opened() as tab:
        tab.locator("#task").select_option("second")
        assert not tab.locator("article[data-task=planted]").is_visible()
        frontier = section(tab, "frontier", "second")
        plot = frontier.locator("svg.marks")
        until(lambda: drawn_methods(plot) == {"sft", "dpo", "simpo"})
        assert plot.locator(".layer_3_marks path").count() == 2 * 2 * 2  # methods, betas and seeds: each seed by itself


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_no_width_and_no_theme_makes_the_page_wider_than_its_window(opened, width, colours):
    with opened(width, colours) as tab:
        for part in ("summary", "frontier", "dynamics", "tokens", "samples", "runs"):
            section(tab, part)
        tab.locator("#planted-dynamics svg.marks").first.wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.evaluate("document.documentElement.dataset.theme") == colours
        plots = tab.locator("svg.marks:visible")
        assert plots.count() >= 3
        for plot in plots.all():
            assert plot.bounding_box()["width"] <= width


def test_the_theme_changes_the_colours_of_figures_too(opened):
    with opened() as tab:
        frontier = section(tab, "frontier")
        ink = lambda: frontier.locator(".role-axis-title text").first.get_attribute("fill")  # noqa: E731
        frontier.locator("svg.marks").wait_for()
        assert ink() == "#222222"
        tab.get_by_role("button", name="Use dark colours").click()
        assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
        until(lambda: ink() == "#E6E6E6")


def test_everything_that_can_be_used_is_reached_by_the_tab_key_and_has_a_name(opened):
    with opened() as tab:
        section(tab, "samples").locator("[data-prompts] button").first.wait_for()
        nameless = tab.evaluate(
            """() => [...document.querySelectorAll("article:not([hidden]) :is(button, select, input, a, [role=img])")]
              .filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim()))
              .map(e => e.outerHTML)"""
        )
        assert nameless == []
        assert tab.locator("article :is(button, select, input)[tabindex='-1']").count() == 0
