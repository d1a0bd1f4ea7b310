"""The page as a file: whole, by itself, the same each time, and deaf to what texts would make of it."""

import base64
import gzip
import json
import os
import random
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import vl_convert

from sparsepo.report.html.build import task_view, write_page
from sparsepo.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
BLOB = re.compile(r'<script type="application/gzip" data-blob="([^"]*)">([^<]*)</script>')
DPO = "dpo/beta~0.1/seed~0"
VEGA = vl_convert.javascript_bundle()
HOSTILE = "</script></title><img src=x onerror=alert(1)>&\"'{{ 7 * 7 }}"


class Elements(HTMLParser):
    """Every start tag with its attributes; a tag that closes another than the last one opened is an error."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "input", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def all(self, name):
        return [values[name] for _, values in self.found if name in values]


def _own(path):
    """The page without Vega, which is not ours to read."""
    text = path.read_text(encoding="utf-8")
    assert text.count(VEGA) == 1
    return text.replace(VEGA, "")


def _opened(text):
    return json.loads(gzip.decompress(base64.b64decode(text, validate=True)))


def _blobs(path):
    return {unescape(name): _opened(text) for name, text in BLOB.findall(path.read_text(encoding="utf-8"))}


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _written(task, out):
    write_page("a config", "1.2.3", [task], out)
    return out


def _small(make_task, folder, **options):
    return make_task(folder, **({"methods": ("dpo",), "betas": ("0.1",), "steps": 5} | options))


# --- by itself


def test_the_page_refers_to_nothing_on_a_network(page):
    text = _own(page)
    assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", text)
    assert not re.search(r"(src|href|srcset|action|data)\s*=\s*[\"']?\s*(https?:)?//", text)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|\bimport\(", text)
    elements = Elements(text)
    assert "link" in {tag for tag, _ in elements.found} and not elements.all("src") and not elements.all("srcset")
    assert all(re.match(r"#|data:,|\.\./", link) for link in elements.all("href"))
    (policy,) = [values["content"] for _, values in elements.found if "http-equiv" in values]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and "connect-src" not in rules
    assert not re.search(r"https?:|\*|unsafe-eval", policy)


def test_the_page_is_whole_html(page):
    text = _own(page)
    assert text.startswith("<!DOCTYPE html>\n") and text.endswith("</html>")
    elements = Elements(text)
    assert elements.open == []
    tags = [tag for tag, _ in elements.found]
    assert [tags.count(tag) for tag in ("html", "head", "body", "main", "h1")] == [1] * 5
    assert {values["data-task"] for tag, values in elements.found if tag == "article"} == {"planted", "second"}


def test_every_link_of_the_page_leads_to_one_place(page):
    elements = Elements(_own(page))
    ids = elements.all("id")
    assert len(ids) == len(set(ids))
    links = [link[1:] for link in elements.all("href") if link.startswith("#")]
    assert len(links) == 13 and set(links) <= set(ids)  # six sections of two tasks, and one past them
    named = [name for names in elements.all("aria-labelledby") for name in names.split()]
    assert named and set(named) <= set(ids)


def test_links_to_other_results_lead_to_where_the_workflow_writes_them(page):
    links = [link for link in Elements(_own(page)).all("href") if link.startswith("../")]
    places = {os.path.relpath(page.parent / link, page.parents[2]) for link in links}
    tables = {
        f"results/tables/planted{end}" for end in (".csv", ".md", ".tex", "_differences.csv", "_grid.md", "_auc.md")
    }
    assert tables | {"results/figures/planted", "results/planted/sft", f"results/planted/runs/{DPO}"} <= places
    folders = [place for place in places if not place.startswith(("results/tables", "results/figures"))]
    assert len(folders) == 7 + 9 and all((page.parents[2] / place).is_dir() for place in folders)


# --- what it holds


def test_every_blob_is_there_and_can_be_opened(page):
    names = set(_blobs(page))
    runs = {
        "planted": [f"{method}/beta~{beta}/seed~0" for method in ("dpo", "mapo", "sparsepo_independent")
                    for beta in ("0.1", "0.5")],
        "second": [f"{method}/beta~{beta}/seed~{seed}" for method in ("dpo", "simpo") for beta in ("0.1", "0.5")
                   for seed in (0, 1)],
    }  # fmt: skip
    for task, trained in runs.items():
        quantities = ["loss", "reverse_kl", "forward_kl"] + ["sparsity_u", "sparsity_d"] * (task == "planted")
        wanted = {"index", "config", "frontier/kl_exact", "frontier/kl_sample", "frontier/pareto"}
        wanted |= {f"dynamics/{name}" for name in quantities} | {f"run/{run}" for run in ["sft", *trained]}
        shown = ["sft", *(run for run in trained if run.endswith("~0"))]
        wanted |= {f"{kind}/{run}" for kind in ("tokens", "samples") for run in shown}
        assert {name for name in names if name.startswith(f"{task}/")} == {f"{task}/{name}" for name in wanted}
    assert {name.split("/")[0] for name in names} == set(runs)


def test_the_blobs_hold_what_the_runs_left(make_task, tmp_path):
    task = make_task(tmp_path, methods=("dpo", "mapo"), steps=5)
    blobs = _blobs(_written(task, tmp_path / "page.html"))
    assert blobs["planted/config"] == [["resolved", task.config]]
    record = json.loads((task.folder / f"runs/{DPO}/run.json").read_text())
    run = dict(blobs[f"planted/run/{DPO}"])
    assert run["settings that reached this run"] == record["settings"] and run["code"] == record["git"]
    assert run["end of the log"] == f"the last words of {DPO}"
    assert run["cost and counts"]["pairs"] == record["pairs"] and "config" not in run["cost and counts"]

    rows = _lines(task.folder / f"samples/{DPO}.jsonl")
    prompts = [prompt["prompt"] for prompt in blobs["planted/index"]["kinds"]["samples"]["prompts"]]
    assert prompts == list(dict.fromkeys(row["prompt"] for row in rows))
    texts = [[row["text"] for row in rows if row["prompt"] == prompt] for prompt in prompts]
    assert [[answer[0] for answer in answers] for answers in blobs[f"planted/samples/{DPO}"]] == texts

    masked = "mapo/beta~0.5/seed~0"
    found = blobs[f"planted/tokens/{masked}"]["pairs"]
    for row, values, pair in zip(
        _lines(task.folder / f"tokens/{masked}.jsonl"), found, blobs["planted/index"]["pairs"], strict=True
    ):
        for side in ("chosen", "rejected"):
            ratio = [a - b for a, b in zip(row[side]["logps"], row[side]["ref_logps"], strict=True)]
            assert values[side]["log_ratio"] == pytest.approx(ratio, rel=1e-3)
            assert values[side]["m_d"] == pytest.approx(row[side]["m_d"], rel=1e-3)
            assert pair[side]["tokens"] == row[side]["tokens"]
    labels = [shown["label"] for shown in blobs["planted/index"]["shown"]]
    assert labels == ["SFT", "DPO beta=0.1", "DPO beta=0.5", "MaPO beta=0.1", "MaPO beta=0.5"]
    assert [shown["masks"] for shown in blobs["planted/index"]["shown"]] == [False, False, False, True, True]


def test_the_seed_is_named_where_there_are_several(make_task, tmp_path):
    view = task_view(_small(make_task, tmp_path, seeds=(3, 0)))
    assert [shown["label"] for shown in view["shown"]] == ["SFT", "DPO beta=0.1 seed 3"]


def test_the_numbers_that_need_no_script_stand_in_the_page(make_task, tmp_path):
    task = _small(make_task, tmp_path)
    text = _own(_written(task, tmp_path / "page.html"))
    rows = {run: json.loads((task.folder / f"scores/{run}.json").read_text()) for run in ("sft", DPO)}
    for run, score in rows.items():
        line = text[text.index(f'<tr data-run="{run}">') :].split("</tr>", 1)[0]
        cells = re.findall(r"<td[^>]*>([^<]*)</td>", line)
        means = [sum(score[name]) / len(score[name]) for name in ("reward", "kl_exact", "length")]
        assert cells[3:6] == [f"{means[0]:.3f}", f"{means[1]:.3f}", f"{means[2]:.1f}"]
        assert cells[6:8] == ["1 min 15 s", "1,234 MB"]


# --- the same, and whole


def test_the_script_makes_the_same_bytes_in_another_process(make_task, tmp_path):
    """Where sets and hashes have another order."""
    tasks = [_small(make_task, tmp_path, seeds=(0, 2)), _small(make_task, tmp_path, name="second", methods=("mapo",))]
    here, there = tmp_path / "here.html", tmp_path / "results/report/index.html"
    write_page("a config", "1.2.3", tasks, here)
    settings = {
        task.name: {"config": task.config, "compare": task.compare, "measures": []}
        | {"points": list(dict.fromkeys(run.rsplit("/", 1)[0] for run in task.runs))}
        for task in tasks
    }
    arguments = {
        "settings": json.dumps({"name": "a config", "version": "1.2.3", "tasks": settings}),
        "results": tmp_path / "results",
        "out": there,
    }
    command = [sys.executable, str(ROOT / "workflow_scripts/build_report.py")]
    command += [str(part) for name, value in arguments.items() for part in (f"--{name}", value)]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert there.read_bytes() == here.read_bytes()


def test_a_page_that_cannot_be_made_leaves_the_old_one(make_task, tmp_path):
    task, out = _small(make_task, tmp_path), tmp_path / "page.html"
    out.write_text("old")
    (task.folder / "scores/sft.json").unlink()
    with pytest.raises(UserError, match="scores/sft.json: no such file"):
        _written(task, out)
    assert out.read_text() == "old"


# --- texts are texts


def _rewrite(path, change):
    """Change every row of a file of JSON."""
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in _lines(path)))


def _hostile(make_task, folder):
    """A task whose every text, from prompts to labels, would rather be HTML."""
    task = _small(make_task, folder, prompts=[f"{HOSTILE} {place}" for place in range(24)])
    for run in task.all_runs:
        _rewrite(task.folder / f"scores/{run}.json", lambda row: row | {"label": HOSTILE, "notes": [HOSTILE]})
        _rewrite(task.folder / f"samples/{run}.jsonl", lambda row: row | {"text": HOSTILE})
        _rewrite(task.run_folder(run) / "run.json", lambda row: row | {"settings": {HOSTILE: HOSTILE}})
        _rewrite(task.folder / f"tokens/{run}.jsonl", _hostile_pair)
        log = task.logs / task.name / ("train_sft.log" if run == "sft" else f"train_policy/{run}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(HOSTILE)
    task.config["data"]["source"] = HOSTILE
    task.config["model"] = {"source": "hub", "id": HOSTILE}
    task.config["evaluation"]["scorer"] = {"kind": "classifier", "model": HOSTILE}
    task.compare["provenance"] = HOSTILE
    return task


def _hostile_pair(row):
    tokens = {side: row[side] | {"tokens": [HOSTILE for _ in row[side]["tokens"]]} for side in ("chosen", "rejected")}
    return row | {"prompt": HOSTILE} | tokens


def test_no_text_becomes_a_part_of_the_page(make_task, tmp_path):
    task, out = _hostile(make_task, tmp_path), tmp_path / "page.html"
    write_page(HOSTILE, HOSTILE, [task], out)
    text, blobs = _own(out), _blobs(out)
    elements = Elements(text)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == len(blobs) + 2 and tags.count("title") == 1 and "img" not in tags
    assert not [name for _, values in elements.found for name in values if name.startswith("on")]
    assert "<img" not in text and "onerror=alert(1)>" not in text
    assert unescape(text).count(HOSTILE) > 20  # in the title, sentences, tables, options
    assert blobs["planted/config"] == [["resolved", task.config]] and task.config["model"]["id"] == HOSTILE
    assert blobs[f"planted/samples/{DPO}"][0][0][0] == dict(blobs[f"planted/run/{DPO}"])["end of the log"] == HOSTILE
    assert blobs["planted/index"]["pairs"][0]["prompt"] == HOSTILE
    assert blobs["planted/index"]["kinds"]["samples"]["prompts"][3]["prompt"] == f"{HOSTILE} 3"


def test_letters_of_any_script_come_through(make_task, tmp_path):
    prompts = [f"été 日本 🎬 \u2028 \x00 {place}" for place in range(24)]
    blobs = _blobs(_written(_small(make_task, tmp_path, prompts=prompts), tmp_path / "page.html"))
    assert [prompt["prompt"] for prompt in blobs["planted/index"]["kinds"]["samples"]["prompts"]] == prompts


# --- what may be missing


def test_a_task_without_a_reward_has_no_frontier_and_the_rest(make_task, tmp_path):
    task = _small(make_task, tmp_path, betas=("0.1", "0.5"), methods=("dpo", "mapo"))
    task.config["evaluation"]["scorer"] = None
    task.compare["select"] = "accuracy"
    for run in task.all_runs:
        _rewrite(task.folder / f"scores/{run}.json", _without_reward)
        if run != "sft":
            (task.run_folder(run) / "frontier.jsonl").write_text("")
    out = _written(task, tmp_path / "page.html")
    text, blobs = _own(out), _blobs(out)
    elements = Elements(text)
    assert [name for name in elements.all("id") if name.startswith("planted-") and "caution" not in name] == [
        f"planted-{part}" for part in ("summary", "dynamics", "tokens", "samples", "runs")
    ]
    assert not [link for link in elements.all("href") if "frontier" in link]
    assert not [name for name in blobs if name.startswith("planted/frontier")]
    assert "reward is" not in text and "Frontier" not in unescape(
        re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    )
    assert blobs["planted/index"]["kinds"]["samples"]["columns"] == ["KL"]
    line = text[text.index(f'<tr data-run="{DPO}">') :].split("</tr>", 1)[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", line)[3] == "-"


def _without_reward(score):
    score["splits"]["validation"] = {"": {"accuracy": {"values": [1.0, 0.5, 0.0], "groups": [0, 1, 2]}}}
    del score["splits"]["test"][""]["reward"]
    return score | {"reward": []}


def test_a_missing_log_and_a_model_without_a_record_are_no_error(make_task, tmp_path):
    task = _small(make_task, tmp_path)
    (tmp_path / f"logs/planted/train_policy/{DPO}.log").unlink()
    (task.folder / "sft/run.json").unlink()
    out = _written(task, tmp_path / "page.html")
    blobs, text = _blobs(out), _own(out)
    assert blobs["planted/run/sft"] == [["end of the log", ""]]
    run = dict(blobs[f"planted/run/{DPO}"])
    assert run["end of the log"] == "" and "seeds" in run and list(run)[-1] == "end of the log"
    line = text[text.index('<tr data-run="sft">') :].split("</tr>", 1)[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", line)[6:8] == ["-", "-"]


def test_the_end_of_a_long_log_is_kept(make_task, tmp_path):
    task = _small(make_task, tmp_path)
    (tmp_path / f"logs/planted/train_policy/{DPO}.log").write_bytes(
        b"\xff\n" + b"".join(b"line %d\n" % at for at in range(99))
    )
    assert task.log_tail(DPO).splitlines() == [f"line {at}" for at in range(69, 99)]


# --- large sweeps


def test_the_page_of_four_hundred_runs_is_under_five_megabytes(make_task, tmp_path, labels):
    """Long answers of random letters, which no packing makes smaller."""
    betas = tuple(str(2**place / 100) for place in range(10))
    task = make_task(tmp_path, methods=tuple(labels), betas=betas, seeds=(0, 1, 2, 3, 4), steps=60)
    assert len(task.runs) == 400
    letters = random.Random(0)
    for run in task.first_seeds:
        texts = ("".join(letters.choices("abcdefghijklmnopqrstuvwxyz ", k=2000)) for _ in range(10**6))
        _rewrite(task.folder / f"samples/{run}.jsonl", lambda row, texts=texts: row | {"text": next(texts)})
    out = _written(task, tmp_path / "page.html")
    assert out.stat().st_size < 5e6
    blobs = _blobs(out)
    assert len([name for name in blobs if name.startswith("planted/run/")]) == 401
    assert len(blobs["planted/index"]["kinds"]["samples"]["prompts"]) >= 4 and len(blobs["planted/index"]["pairs"]) >= 2


def test_signals_and_controls_stand_side_by_side_on_planted_data_and_nowhere_else(make_task, tmp_path):
    task = make_task(tmp_path / "a")
    text = _written(task, tmp_path / "a.html").read_text()
    assert "What finds the tokens that matter" in text
    for control in ("entropy of the reference", "surprisal, -log ref", "random numbers", "index in the response"):
        assert f"<td>{control}</td>" in text
    task.config["data"]["source"] = "texts"
    assert "What finds the tokens that matter" not in _written(task, tmp_path / "b.html").read_text()


def test_masks_without_a_random_control_are_to_be_read_with_care(make_task, tmp_path):
    text = _written(make_task(tmp_path / "a"), tmp_path / "a.html").read_text()
    assert "MaPO, SparsePO (independent): no run has random weights in the same loss" in text
