"""A killed run goes on where its last whole checkpoint stands, and ends as if nothing had happened."""

import errno

import pytest
import torch
from safetensors import SafetensorError

from sparsepo.config.training import SftConfig
from sparsepo.data.records import Text
from sparsepo.runtime.errors import UserError
from sparsepo.training import distributed
from sparsepo.training.checkpoints import is_complete
from sparsepo.training.sft_trainer import SFTTrainer

# 20 pairs: three steps an epoch, the third of one micro-batch; six in all
RUN = {"num_train_epochs": 2, "micro_batch_size": 4, "checkpoint_every": 2, "frontier_every": 1, "identity": "mine"}
METHODS = {"dpo": {}, "sparsepo_independent": {}, "sparsepo_common": {"mask": "random"}}


def size_of(policy):
    """What a measure may return: a number that tells policies apart, and the global random state is used up."""
    torch.rand(3)
    return {"size": float(sum(p.detach().double().square().sum() for p in policy.parameters()))}


def start(toy, folder, method="dpo", **changed):
    return toy.trainer(folder, method, **RUN | {"hyper": METHODS.get(method, {}), "measure": size_of} | changed)


def output(toy, trainer, *logs):
    """Everything a run leaves, to the last bit."""
    return toy.weights(trainer.model), *(toy.rows(trainer.folder, name) for name in ("dynamics.jsonl", *logs))


def assert_same(first, second):
    (weights, *logs), (others, *other_logs) = first, second
    assert logs == other_logs
    assert weights.keys() == others.keys()
    assert [name for name, value in weights.items() if not torch.equal(value, others[name])] == []


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """What an uninterrupted run of a method leaves; computed once."""
    found = {}

    def of(method="dpo", **changed):
        key = method, *changed.items()
        if key not in found:
            trainer = start(toy, tmp_path_factory.mktemp(method), method, **changed)
            trainer.train()
            found[key] = output(toy, trainer, "frontier.jsonl")
        return found[key]

    return of


def go_on(toy, folder, method="dpo", **changed):
    trainer = start(toy, folder, method, **changed)
    trainer.train()
    return output(toy, trainer, "frontier.jsonl")


# --- killed and resumed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step, resumed", [(1, None), (2, None), (3, 2), (4, 2), (5, 4), (6, 4)])
def test_a_killed_run_ends_as_an_uninterrupted_one(toy, tmp_path, capsys, whole, method, step, resumed):
    toy.run_killed(start(toy, tmp_path, method, killed_at=step))
    capsys.readouterr()
    assert_same(go_on(toy, tmp_path, method), whole(method))
    assert ("resuming at step" in capsys.readouterr().out) == (resumed is not None)
    assert [row["step"] for row in whole(method)[1]] == [1, 2, 3, 4, 5, 6]


def test_a_run_may_be_killed_twice(toy, tmp_path, whole):
    for step in (3, 6):
        toy.run_killed(start(toy, tmp_path, killed_at=step))
    assert_same(go_on(toy, tmp_path), whole())


@pytest.mark.parametrize("schedule", ["cosine", "constant_with_warmup"])
@pytest.mark.parametrize("limit", [{}, {"max_steps": 5}, {"num_train_epochs": 1.5}])
def test_a_run_that_had_finished_takes_no_further_step(toy, tmp_path, schedule, limit):
    """Killed after its last checkpoint and before its outputs were written, also in the middle of an epoch."""
    first, second = (go_on(toy, tmp_path, lr_scheduler_type=schedule, **limit) for _ in range(2))
    assert_same(first, second)


def test_a_log_and_checkpoints_of_other_intervals_resume_too(toy, tmp_path, whole):
    changed = {"log_every": 2, "checkpoint_every": 3, "frontier_every": 4}
    toy.run_killed(start(toy, tmp_path, killed_at=5, **changed))
    assert_same(go_on(toy, tmp_path, **changed), whole(**changed))
    assert [row["step"] for row in whole(**changed)[1]] == [1, 2, 3, 4, 6]


@pytest.mark.parametrize("name", ["dynamics.jsonl", "frontier.jsonl"])
def test_a_log_whose_last_line_is_half_written_resumes_too(toy, tmp_path, whole, name):
    toy.run_killed(start(toy, tmp_path, killed_at=4))
    with open(tmp_path / name, "a") as file:
        file.write('{"step": 4, "lo')
    assert_same(go_on(toy, tmp_path), whole())


# --- which checkpoint


def test_a_checkpoint_of_other_settings_is_dropped_and_said(toy, tmp_path, capsys, whole):
    toy.run_killed(start(toy, tmp_path, killed_at=5, identity="other", learning_rate=1e-2))
    capsys.readouterr()
    assert_same(go_on(toy, tmp_path), whole())
    said = capsys.readouterr().out
    for step in (2, 4):
        assert f"{tmp_path}/checkpoint-{step}: half-written, damaged, or from other settings, code" in said
    assert "resuming" not in said


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def empty(folder):
    (folder / "optimizer.pt").write_bytes(b"")


def lose(folder):
    (folder / "scheduler.pt").unlink()


def unmark(folder):
    (folder / "complete.json").unlink()


def halve_the_mark(folder):
    path = folder / "complete.json"
    path.write_text(path.read_text()[:20])


@pytest.mark.parametrize("harm", [cut, empty, lose, unmark, halve_the_mark])
def test_a_harmed_checkpoint_is_dropped_and_the_one_before_it_used(toy, tmp_path, capsys, whole, harm):
    toy.run_killed(start(toy, tmp_path, killed_at=5))
    harm(tmp_path / "checkpoint-4")
    capsys.readouterr()
    assert_same(go_on(toy, tmp_path), whole())
    said = capsys.readouterr().out
    assert f"{tmp_path}/checkpoint-4: half-written, damaged, or from" in said
    assert f"resuming at step 2 from {tmp_path}/checkpoint-2\n" in said


def test_the_working_folder_goes_when_the_logs_have_been_copied(toy, tmp_path, whole):
    trainer = start(toy, tmp_path / "work")
    trainer.train()
    expected = {name: (trainer.folder / name).read_text() for name in ("dynamics.jsonl", "frontier.jsonl")}
    trainer.finish(tmp_path / "out" / "steps.jsonl", tmp_path / "out" / "points.jsonl")
    assert (tmp_path / "out" / "steps.jsonl").read_text() == expected["dynamics.jsonl"]
    assert (tmp_path / "out" / "points.jsonl").read_text() == expected["frontier.jsonl"]
    assert not (tmp_path / "work").exists()


# --- no room on the disk


def failing(real, error, trainer, step):
    """`real` until the checkpoint of `step`; then a part of the file, and the error."""

    def write(what, path, *rest, **named):
        if trainer().state.global_step < step:
            return real(what, path, *rest, **named)
        with open(path, "wb") as file:
            file.write(b"part")
        raise error

    return write


NO_ROOM = OSError(errno.ENOSPC, "No space left on device")
WAYS = [
    (torch, "save", NO_ROOM),
    (torch, "save", RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0\nmore lines")),
    (distributed, "save_file", NO_ROOM),
    (distributed, "save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
]


@pytest.mark.parametrize("place, name, error", WAYS)
def test_a_full_disk_is_told_in_a_sentence_and_the_checkpoint_before_it_serves(
    toy, tmp_path, capsys, whole, place, name, error
):
    with pytest.MonkeyPatch.context() as patch:
        trainer = start(toy, tmp_path)
        patch.setattr(place, name, failing(getattr(place, name), error, lambda: trainer, step=4))
        with pytest.raises(UserError) as told:
            trainer.train()
    message = str(told.value)
    assert message.startswith(f"{tmp_path}/checkpoint-4: the checkpoint at step 4 could not be written (")
    assert "free disk space and run again" in message and "\n" not in message
    assert is_complete(tmp_path / "checkpoint-2", "mine") and not (tmp_path / "checkpoint-4").exists()
    capsys.readouterr()
    assert_same(go_on(toy, tmp_path), whole())
    assert "resuming at step 2" in capsys.readouterr().out


# --- supervised fine-tuning


def sft(toy, folder, **changed):
    """With dropout, whose random state has to be resumed as well."""
    texts = [Text(pair.chosen, pair.prompt) for pair in toy.pairs(20)]
    given = {name: RUN[name] for name in ("num_train_epochs", "micro_batch_size", "checkpoint_every")} | changed
    config = SftConfig(batch_size=8, learning_rate=1e-3, **given)
    return SFTTrainer(toy.model(), toy.tokenizer, texts, config=config, folder=folder, identity="mine")


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_killed_fine_tuning_ends_as_uninterrupted(toy, tmp_path, step):
    straight, killed = sft(toy, tmp_path / "straight"), sft(toy, tmp_path / "killed")
    straight.train()  # and draws random numbers, after both were made
    killed.add_callback(toy.kill(step))
    toy.run_killed(killed)
    resumed = sft(toy, tmp_path / "killed")
    resumed.train()
    assert_same(output(toy, resumed), output(toy, straight))


def test_fine_tuning_that_had_finished_takes_no_further_step(toy, tmp_path):
    found = []
    for _ in range(2):
        trainer = sft(toy, tmp_path, max_steps=5, lr_scheduler_type="constant_with_warmup")
        trainer.train()
        found.append(output(toy, trainer))
    assert_same(*found)
