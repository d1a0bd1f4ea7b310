"""SIGKILL at random moments: what is made in the end is what an uninterrupted run makes, to the last bit.

Training logs how many tokens a second and how many seconds it took; these are times and left out of comparisons.
"""

import json
import random
import re

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="session")
def whole(lab, prepared, tmp_path_factory):
    """What an uninterrupted stage leaves: name of its command -> files; computed once."""
    found = {}

    def of(stage):
        if stage not in found:
            out = tmp_path_factory.mktemp(stage) / "out"
            lab.finish(getattr(prepared, stage)(out), prepared.folder)
            found[stage] = lab.left_by(out) if out.is_dir() else out.read_bytes()
        return found[stage]

    return of


def cut_newest_checkpoint(folder, draw):
    """Cut a random file of it at a random length, as a crash of the machine may do."""
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    path = draw.choice(sorted(path for path in newest.iterdir() if path.is_file() and path.stat().st_size))
    with open(path, "r+b") as file:
        file.truncate(draw.randrange(path.stat().st_size))
    return newest


def whole_parts(kept):
    """The lines of a file that are whole answers."""
    text = kept.read_text() if kept.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.startswith('{"key"') and line.endswith("}\n")]


@pytest.mark.parametrize(("stage", "seed"), [("train", 0), ("sft", 1)])
def test_training_killed_at_five_random_steps_ends_as_if_it_had_not_been(lab, prepared, tmp_path, whole, stage, seed):
    """After the third kill the newest checkpoint is cut, too: then the one before it serves."""
    draw, out, said = random.Random(seed), tmp_path / "out", ""
    command, log = getattr(prepared, stage)(out), tmp_path / "log"
    steps = sorted(draw.sample(range(20, 120), 5))
    for kill, step in enumerate(steps):

        def far_enough(kill=kill, step=step):
            resumed = kill == 0 or "resuming at step " in log.read_text()
            return resumed and lab.lines(out / "checkpoint/dynamics.jsonl") >= step

        said += lab.kill_when(command, prepared.folder, log, far_enough)
        assert not (out / "config.json").exists() and not (out / "dynamics.jsonl").exists()
        if kill == 2:
            harmed = cut_newest_checkpoint(out / "checkpoint", draw)
    said += lab.finish(command, prepared.folder)
    assert said.count("resuming at step ") == 5
    assert f"{harmed}: half-written, damaged, or from other settings, code or data; deleted" in said
    assert lab.left_by(out) == whole(stage)


def test_sampling_killed_three_times_goes_on_after_its_last_batch_with_the_same_text(lab, prepared, tmp_path, whole):
    draw, out = random.Random(2), tmp_path / "out"
    kept, command, log = lab.kept_beside(out), prepared.sample(out), tmp_path / "log"
    done = [0]
    for batches in sorted(draw.sample(range(5, 70), 3)):
        least = max(batches, done[-1] + 1)
        said = lab.kill_when(command, prepared.folder, log, lambda least=least: len(whole_parts(kept)) >= least)
        assert not out.exists()
        assert (f"resuming with {done[-1]:,} results of {kept}\n" in said) == (done[-1] > 0)
        done.append(len(whole_parts(kept)))
        with open(kept, "a") as file:
            file.write('{"key": "half a li')
    said = lab.finish(command, prepared.folder)
    assert f"resuming with {done[-1]:,} results of {kept}\n" in said
    assert out.read_bytes() == whole("sample") and not kept.exists()


def test_what_is_kept_of_other_settings_code_or_weights_is_not_taken(lab, prepared, tmp_path, whole):
    out, log = tmp_path / "out", tmp_path / "log"
    kept, other = lab.kept_beside(out), [part.replace("same", "changed") for part in prepared.sample(out)]
    lab.kill_when(other, prepared.folder, log, lambda: lab.lines(kept) >= 5)
    assert "resuming with" not in lab.finish(prepared.sample(out), prepared.folder)
    assert out.read_bytes() == whole("sample")


def test_a_killed_evaluation_ends_as_if_it_had_not_been(lab, moved, tmp_path):
    """Killed when the first of its files is there: Snakemake takes no file of a job that it did not see end."""
    scores, tokens = (moved.results / f"{name}/sft.{kind}" for name, kind in (("scores", "json"), ("tokens", "jsonl")))
    log, target = tmp_path / "log", str(scores.relative_to(moved.folder))
    lab.kill_when(moved.snakemake(target), moved.folder, log, scores.exists)
    lab.orphans_have_ended(moved.folder)
    lab.finish(moved.snakemake("--unlock"), moved.folder)
    lab.finish(moved.snakemake(target), moved.folder)
    killed = scores.read_bytes(), tokens.read_bytes()
    lab.finish(moved.snakemake(target, "--force"), moved.folder)
    assert (scores.read_bytes(), tokens.read_bytes()) == killed


def test_snakemake_killed_or_started_twice_spoils_nothing(lab, moved, tmp_path, whole):
    """SIGKILL of Snakemake ends its job too; its lock is told and taken off; a second Snakemake stops at once."""
    target = str((moved.run / "run.json").relative_to(moved.folder))
    dynamics, log = moved.run / "checkpoint/dynamics.jsonl", tmp_path / "log"
    lab.kill_when(moved.snakemake(target), moved.folder, log, lambda: lab.lines(dynamics) >= 30)
    lab.orphans_have_ended(moved.folder)
    assert lab.lines(dynamics) < 160 and not (moved.run / "run.json").exists()
    told = lab.finish(moved.snakemake(target), moved.folder, ok=False)
    assert "LockException" in told and "It can be removed with the --unlock argument" in told
    lab.finish(moved.snakemake("--unlock"), moved.folder)
    first, seen = lab.start(moved.snakemake(target), moved.folder, log), lab.lines(dynamics)
    try:
        lab.wait_for(lambda: lab.lines(dynamics) > seen, first)
        second = lab.finish(moved.snakemake(target), moved.folder, ok=False)
        assert "LockException" in second and "no other Snakemake process" in second and "Traceback" not in second
        assert first.wait(timeout=600) == 0, log.read_text()
    finally:
        first.kill()
    said = (moved.folder / f"logs/small/train_policy/{lab.RUN}.log").read_text()
    assert "resuming at step " in said
    assert lab.left_by(moved.run) == whole("train")


@pytest.mark.parametrize(("section", "stage"), [("sft", "train_sft"), ("training", "train_policy")])
def test_a_loss_that_is_no_number_is_told_by_snakemake_and_its_batch_stays(lab, moved, section, stage):
    """Snakemake deletes what a failed job wrote, but not the folder of its checkpoints."""
    config = moved.folder / "config.yaml"
    text = config.read_text()
    head, mark, rest = text.partition(f"    {section}: ")
    assert mark
    for rate in ("learning_rate: 3e-3", "learning_rate: 1e-4"):
        rest = rest.replace(rate, "learning_rate: 1e+30", 1) if rate in rest.splitlines()[0] else rest
    config.write_text(head + mark + rest)
    folder = moved.results / "sft" if section == "sft" else moved.run
    target = str((folder / "run.json").relative_to(moved.folder))
    told = lab.finish(moved.snakemake(target, "--forcerun", stage), moved.folder, ok=False)
    batch = folder.relative_to(moved.folder) / "checkpoint/bad_batch.json"
    found = re.search(rf"error: the loss is (?:nan|inf) at step (\d+); the batch is in {batch}\n", told)
    assert found and "Traceback" not in told
    assert json.loads((moved.folder / batch).read_text())["step"] == int(found[1])
