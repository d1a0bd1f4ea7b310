"""A loss of power: what later jobs read is on the disk before it counts, and what is damaged is named, not read."""

import os
import shutil
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
import torch
from power_cut import cut_power, lost, note_flushes
from transformers import GPT2Config, GPT2LMHeadModel

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.encoding import TokenPair
from sparsepo.data.records import Completion, Labelled, read_json, read_records, write_json, write_records
from sparsepo.evaluation import tfidf
from sparsepo.models.loading import load_model, load_tokenizer, save_model, train_tokenizer
from sparsepo.report.figures.style import save_figure
from sparsepo.runtime.atomic_folder import atomic_folder
from sparsepo.runtime.errors import UserError
from sparsepo.training.checkpoints import is_complete, latest_checkpoint, mark_complete
from sparsepo.training.logging import append_line
from sparsepo.training.method_masks import build_method_masks, load_masks, save_masks
from sparsepo.training.reference_cache import ReferenceCache, write_cache

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [Labelled(f"{'good fine' if n % 2 else 'bad poor'} film number {n}", n % 2) for n in range(20)]
SAMPLES = [Completion("a film", f" number {n}", [n], True) for n in range(5)]
METHOD = ("sparsepo_common", {})


def small_model():
    tokenizer = train_tokenizer(["a good film", "a bad film"], "word", 50)
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=50)), tokenizer


def write_model(folder):
    model, tokenizer = small_model()
    with atomic_folder(folder) as place:
        save_model(model, tokenizer, place)
        save_masks(build_method_masks(METHOD[0], model, METHOD[1]), *METHOD, place)


def write_reference_cache(folder):
    pairs = [TokenPair(prompt=[1], chosen=[2, 3], rejected=[4]) for _ in range(3)]
    write_cache(small_model()[0], pairs, "states", PreferenceConfig(), folder, "this")


def write_checkpoint(folder):
    checkpoint = folder / "checkpoint-3"
    (checkpoint / "state").mkdir(parents=True)
    append_line(folder / "dynamics.jsonl", {"step": 3})
    for name in ("model.safetensors", "state/optimizer.pt"):
        (checkpoint / name).write_bytes(bytes(range(256)) * 50)  # as transformers writes them, without a flush
    mark_complete(checkpoint, "mine")


WRITERS = {
    "JSON": lambda folder: write_json(folder / "run.json", {"a": 1}),
    "records": lambda folder: write_records(folder / "samples.jsonl", SAMPLES),
    "a figure": lambda folder: save_figure(alt.Chart(pd.DataFrame({"a": [1]})).mark_point(), folder / "figure"),
    "a fitted scorer": lambda folder: tfidf.fit(DOCUMENTS, 0, folder),
    "a model with masks": write_model,
    "a cache of the reference": write_reference_cache,
    "a checkpoint": write_checkpoint,
}


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The file in which the flushes of this process are noted."""
    for name in ("fsync", "replace", "rename"):
        monkeypatch.setattr(os, name, getattr(os, name))  # so that they are put back
    note_flushes(tmp_path / "flushes")
    return tmp_path / "flushes"


@pytest.mark.parametrize("what", WRITERS)
def test_what_is_written_is_on_the_disk_with_its_name(tmp_path, log, what):
    folder = tmp_path / "folder"
    for _ in range(2):  # also over what was there
        shutil.rmtree(folder, ignore_errors=True) if what == "a checkpoint" else None
        WRITERS[what](folder)
        assert lost(log, folder) == ([], [])


def test_the_recorder_sees_what_is_not_flushed(tmp_path, log):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "written").write_text("abc")
    (folder / "new").write_text("abc")
    with open(folder / "new") as file:
        os.fsync(file.fileno())
    os.replace(folder / "new", folder / "renamed")
    assert cut_power(log, folder) == ([folder / "written"], [folder / "renamed"])
    assert (folder / "written").read_bytes() == b"\0\0\0" and not (folder / "renamed").exists()


# --- damage is named


def zeros(content):
    return bytes(len(content))


def zero_page(content):
    """The last page of the disk is zeros, or all of a smaller file but its first byte."""
    start = max((len(content) - 1) // 4096 * 4096, 1)
    return content[:start] + bytes(len(content) - start)


def cut_at_line_end(content):
    lines = content.splitlines(keepends=True)
    return b"".join(lines[:-1])


def one_bit(content):
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


DAMAGE = (zeros, zero_page, cut_at_line_end, one_bit)
READERS = {
    "samples.jsonl": ("records", lambda folder: read_records(folder / "samples.jsonl", Completion)),
    "run.json": ("JSON", lambda folder: read_json(folder / "run.json")),
    "weights.npz": ("a fitted scorer", tfidf.load_scorer),
    "words.json": ("a fitted scorer", tfidf.load_scorer),
    "model.safetensors": ("a model with masks", load_model),
    "tokenizer.json": ("a model with masks", load_tokenizer),
    "masks.safetensors": (
        "a model with masks",
        lambda folder: load_masks(folder, load_model(folder)),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, name, damage):
    what, read = READERS[name]
    WRITERS[what](tmp_path)
    read(tmp_path)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"^{path} is not what was written there .*, or delete {path} and run again"):
        read(tmp_path)
    (tmp_path / ".checksums" / f"{name}.sha256").unlink()  # what the message offers to keep a change
    if name == "samples.jsonl" and damage is cut_at_line_end:
        assert len(read(tmp_path)) == len(SAMPLES) - 1


def test_of_a_damaged_model_the_record_is_to_be_deleted(tmp_path):
    """It stands for the model in the workflow."""
    write_model(tmp_path)
    write_json(tmp_path / "run.json", {})
    path = tmp_path / "model.safetensors"
    path.write_bytes(zero_page(path.read_bytes()))
    with pytest.raises(UserError, match=rf"delete {tmp_path}/run.json and run again"):
        load_model(tmp_path)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "state/optimizer.pt", "complete.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, name, damage):
    write_checkpoint(tmp_path)
    shutil.copytree(tmp_path / "checkpoint-3", tmp_path / "checkpoint-4")
    assert is_complete(tmp_path / "checkpoint-4", "mine")
    path = tmp_path / "checkpoint-4" / name
    path.write_bytes(damage(path.read_bytes()))
    assert latest_checkpoint(tmp_path, "mine") == tmp_path / "checkpoint-3"
    assert f"{tmp_path}/checkpoint-4: half-written, damaged, or" in capsys.readouterr().out


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    stale = tmp_path / ".checksums/run.json.tmp"
    stale.parent.mkdir()
    stale.write_text("half")
    write_json(tmp_path / "run.json", {"a": 1})
    assert read_json(tmp_path / "run.json") == {"a": 1} and not stale.exists()


def test_values_of_a_cache_are_those_that_were_written(tmp_path):
    write_reference_cache(tmp_path)
    cache = ReferenceCache.open(tmp_path, "this")
    assert cache.of_pairs([0, 1, 2]).shape == (9, 8) and torch.equal(cache.of_pairs([2]), cache.values[6:])


# --- the workflow


CONFIG = """\
name: cut
tasks:
  small:
    model:
      source: scratch
      config: {model_type: gpt2, n_layer: 2, n_head: 2, n_embd: 32, n_positions: 64, resid_pdrop: 0.0}
      tokenizer: {kind: word, vocab_size: 600}
    data: {source: planted, texts: 60, prompts: {train: 20, validation: 8, test: 8}}
    sft: {num_train_epochs: 2, batch_size: 10, learning_rate: 1e-2, checkpoint_every: 3}
    preferences: {source: generated, scorer: {kind: vader}, sampling: {samples: 4, max_new_tokens: 16}}
    methods: {dpo: {beta: ["0.1"]}}
    training: {max_steps: 40, batch_size: 5, learning_rate: 1e-3, reference: cached, checkpoint_every: 5,
               frontier_every: 20}
    sampling: {max_new_tokens: 16}
    evaluation: {scorer: {kind: vader}, token_pairs: 4, frontier_prompts: 4}
"""
OUTPUTS = ("results/small", "results/tables")
RUN = "results/small/runs/dpo/beta~0.1/seed~0"


@pytest.fixture(scope="module")
def made(lab, tmp_path_factory):
    """A run to its tables, with the flushes of its jobs, which is not changed; and its tables."""
    folder = tmp_path_factory.mktemp("made") / "work"
    lab.copy_workflow(folder)
    (folder / "config.yaml").write_text(CONFIG)
    with noted(folder):
        lab.finish(lab.Place(folder).snakemake("tables"), folder)
    return folder, tables(folder)


def tables(folder):
    return {path.name: path.read_bytes() for path in (folder / "results/tables").glob("*.*") if path.is_file()}


class noted:
    """Jobs of a folder note their flushes in `flushes` there, by a sitecustomize.py beside the package."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        shutil.copy(ROOT / "tests/power_cut.py", self.folder / "src/sitecustomize.py")
        os.environ["NOTE_FLUSHES"] = str(self.folder / "flushes")

    def __exit__(self, *_):
        (self.folder / "src/sitecustomize.py").unlink()
        del os.environ["NOTE_FLUSHES"]


def forget_what_snakemake_wrote(folder):
    """Zeros in the files that Snakemake itself wrote and did not flush."""
    for path in (folder / ".snakemake").rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_output_of_a_run_is_on_the_disk_with_its_name(made, lab, tmp_path):
    """And with zeros in what Snakemake wrote for itself, nothing is made again."""
    folder, expected = made
    for part in OUTPUTS:
        assert lost(folder / "flushes", folder / part) == ([], [])
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    forget_what_snakemake_wrote(copy)
    said = lab.finish(lab.Place(copy).snakemake("tables"), copy)
    assert "Nothing to be done" in said and tables(copy) == expected


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "moment",
    ["results/small/sft/checkpoint/checkpoint-3", f"{RUN}/checkpoint/checkpoint-10", "results/small/samples/sft.jsonl"],
)
def test_a_run_that_the_power_cut_ends_with_the_tables_of_one_that_it_did_not(made, lab, tmp_path, moment):
    """All processes end, what was not flushed is zeros or gone, Snakemake's own files too; then the same command."""
    folder, expected = tmp_path / "work", made[1]
    lab.copy_workflow(folder)
    (folder / "config.yaml").write_text(CONFIG)
    place, reached = lab.Place(folder), folder / moment
    with noted(folder):
        lab.kill_when(place.snakemake("tables"), folder, tmp_path / "log", reached.exists)
        lab.orphans_have_ended(folder)
    harmed = [cut_power(folder / "flushes", folder / part) for part in OUTPUTS]
    shutil.rmtree(folder / ".snakemake")
    lab.finish(place.snakemake("tables"), folder)
    assert tables(folder) == expected, harmed


DAMAGED = {
    "results/small/prompts/test.jsonl": "sample_responses",
    "results/small/preferences/train.jsonl": "train_policy",
    "results/small/reference/states/values.bin": "train_policy",
    "results/small/sft/model.safetensors": "train_policy",
    f"{RUN}/model.safetensors": "sample_responses",
    "results/small/samples/sft.jsonl": "evaluate_run",
    "results/small/scores/sft.json": "compare_methods",
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_damaged_file_ends_the_job_that_reads_it_with_one_line_that_names_it(made, lab, tmp_path):
    folder = made[0]
    for name, stage in DAMAGED.items():
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        path = copy / name
        stat = path.stat()
        path.write_bytes(zeros(path.read_bytes()))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        said = lab.finish(lab.Place(copy).snakemake("tables", "--forcerun", stage), copy, ok=False)
        assert f"error: {name} is not what was written there" in said and "Traceback" not in said, (name, said)
        shutil.rmtree(copy)
