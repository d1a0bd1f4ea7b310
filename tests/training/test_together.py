"""Runs that share the passes of the reference end as runs apart do, to the last bit."""

import json
from collections import Counter

import pytest
import torch

from sparsepo.config.training import PreferenceConfig
from sparsepo.training import together
from sparsepo.training.pair_objective import response_states
from sparsepo.training.together import SharedReference

RUN = {"num_train_epochs": 2, "micro_batch_size": 4, "checkpoint_every": 2, "identity": "mine"}
ADAPTER = {"rank": 2, "dropout": 0.5}
BETAS = [("sparsepo_independent", {"beta": beta}) for beta in (0.1, 0.5, 1.0)]
LOSSES = [("sparsepo_common", {}), ("dpo", {}), ("kto", {}), ("tdpo2", {})]
MASKS = [("sparsepo_common", hyper) for hyper in ({"mask": "random"}, {"normalise": "mean"})]
MASKS += [("mapo", {}), ("dpo", {"mask": "entropy"})]


@pytest.fixture
def passes(monkeypatch):
    """How often the reference was run for each batch of a training."""
    counts = Counter()

    def counted(reference, batch, on_layer=None):
        counts[batch.pair_indices] += 1
        return response_states(reference, batch, on_layer)

    monkeypatch.setattr(together, "response_states", counted)
    return counts


def left(toy, trainer, folder):
    return toy.weights(trainer.model), toy.rows(folder), sorted(path.name for path in folder.glob("checkpoint-*"))


def train_apart(toy, folder, runs, **changed):
    outputs = []
    for number, (method, hyper) in enumerate(runs):
        place = folder / f"apart-{number}"
        trainer = toy.trainer(place, method, hyper=hyper, reference=toy.model(), **RUN | changed)
        trainer.train()
        outputs.append(left(toy, trainer, place))
    return outputs


def train_together(toy, folder, runs, killed_at=(), **changed):
    """Errors and outputs; `killed_at`: of each run, None for one that is not killed."""
    shared, trainers, jobs = SharedReference(), {}, {}

    def job_of(number, method, hyper, killed):
        def job(run):
            options = {"reference": toy.model(), "killed_at": killed} | RUN | changed
            trainer = toy.trainer(folder / f"together-{number}", method, hyper=hyper, **options)
            run.join(trainer)
            trainer.train()
            trainers[number] = trainer

        return job

    for number, run in enumerate(runs):
        killed = killed_at[number] if killed_at else None
        jobs[folder / f"{number}.log"] = job_of(number, *run, killed)
    errors = shared.train(jobs)
    return errors, [
        left(toy, trainers[n], folder / f"together-{n}") if n in trainers else None for n in range(len(runs))
    ]


def assert_same(found, expected):
    for (weights, rows, checkpoints), (own_weights, own_rows, own_checkpoints) in zip(found, expected, strict=True):
        assert (rows, checkpoints) == (own_rows, own_checkpoints)
        assert weights.keys() == own_weights.keys()
        assert [name for name, value in weights.items() if not torch.equal(value, own_weights[name])] == []


@pytest.mark.parametrize(
    "runs, changed",
    [(BETAS, {"adapter": ADAPTER}), (LOSSES, {}), (MASKS, {"validate_every": 2, "micro_batch_size": None})],
    ids=["betas", "losses", "masks"],
)
def test_runs_together_leave_what_runs_apart_leave_to_the_last_bit(toy, tmp_path, runs, changed):
    changed |= {"validation": toy.pairs(10, seed=1)} if "validate_every" in changed else {}
    errors, found = train_together(toy, tmp_path, runs, **changed)
    assert not any(errors)
    assert_same(found, train_apart(toy, tmp_path, runs, **changed))


def test_the_reference_is_run_once_a_batch_for_all_runs(toy, tmp_path, passes):
    train_together(toy, tmp_path, BETAS, num_train_epochs=1)
    assert sum(map(len, passes)) == 20 and set(passes.values()) == {1}


def test_each_run_writes_its_own_log_and_the_stream_is_as_before(toy, tmp_path, capsys):
    train_together(toy, tmp_path, BETAS)
    for number in range(3):
        lines = (tmp_path / f"{number}.log").read_text().splitlines()
        printed = [json.loads(line.split(" ", 2)[2]) for line in lines if line.startswith("step ")]
        rows = toy.rows(tmp_path / f"together-{number}")
        assert len(printed) == len(rows) == 6
        assert printed[-1]["reward_margin"] == pytest.approx(rows[-1]["reward_margin"], rel=1e-3)
    print("after")
    assert capsys.readouterr().out == "after\n"


def test_a_run_that_fails_does_not_take_the_others(toy, tmp_path):
    runs = [BETAS[0], ("sparsepo_common", {"mask": "none of these"}), BETAS[1]]
    errors, found = train_together(toy, tmp_path, runs)
    assert errors[0] == errors[2] == "" and "none of these" in errors[1]
    assert errors[1] in (tmp_path / "1.log").read_text()
    assert_same([found[0], found[2]], train_apart(toy, tmp_path, [runs[0], runs[2]]))


def test_runs_that_stopped_at_different_steps_resume_and_meet(toy, tmp_path, passes):
    """Steps 3 to 4 are made by two runs, then all go on from step 5; 20 pairs are 3 steps of 2, 2 and 1 batches."""
    runs = BETAS
    errors, _ = train_together(toy, tmp_path, runs, killed_at=[3, 6, 3])
    assert all(error.startswith("Killed") for error in errors)
    passes.clear()
    errors, found = train_together(toy, tmp_path, runs)
    assert not any(errors) and sum(passes.values()) == 1 + 2 + 2 + 1
    assert_same(found, train_apart(toy, tmp_path, runs))


def test_time_in_which_others_run_is_not_counted(toy, tmp_path):
    waits = []

    def job(run):
        start = run.clock()
        run.step = len(waits)
        run._wait()
        waits.append(run.clock() - start)

    shared = SharedReference()
    assert shared.train({tmp_path / name: job for name in "ab"}) == ["", ""]
    assert max(waits) < 0.05 and all(run.waited > 0 for run in shared.runs)


def test_an_adapted_sweep_has_its_frozen_weights_once(toy, tmp_path):
    toy.model().save_pretrained(tmp_path / "sft")
    loaded = []

    def job(run):
        loaded.append(run.load(tmp_path / "sft", tmp_path / "sft", PreferenceConfig(adapter=ADAPTER), {}))

    assert SharedReference().train({tmp_path / name: job for name in "abc"}) == ["", "", ""]
    models = [model for pair in loaded for model in pair]
    assert len({id(model) for model in models}) == 6
    pointers = [{parameter.data_ptr() for parameter in model.parameters()} for model in models]
    assert pointers == pointers[:1] * 6
