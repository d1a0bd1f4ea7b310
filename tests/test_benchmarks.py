"""Claims about the benchmarks: the peers compute what ours computes, and what the table says follows from the clock."""

import importlib.util
import json
import os
import random
import sys
import time
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import gpu  # noqa: E402
import harness  # noqa: E402
import head  # noqa: E402
import peers  # noqa: E402
import step  # noqa: E402
import sweep  # noqa: E402
import workloads  # noqa: E402

from sparsepo.data.collation import LAYOUTS, collate_pairs
from sparsepo.data.encoding import TokenPair  # noqa: E402
from sparsepo.models.loading import load_model  # noqa: E402
from sparsepo.training.method_masks import build_method_masks  # noqa: E402
from sparsepo.training.pair_objective import PairObjective  # noqa: E402

needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl, of the extra `bench`, is missing")
PAIRS = [TokenPair([5, 9, 2, 11], [7, 3, 8, 60, 4], [6, 1]), TokenPair([12, 2], [40], [33, 21, 2])]
RESPONSE_TOKENS = 5 + 2 + 1 + 3


def models(dtype):
    return workloads.Workload("tiny", dtype, "mixed").models()


def gradients(policy):
    found = {name: weight.grad.clone() for name, weight in policy.named_parameters()}
    policy.zero_grad(set_to_none=True)
    return found


def assert_same(found, wanted, **tolerance):
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(
            found[name], wanted[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


def same_masks(reference, m_u, m_d):
    """Our heads with the weights of the published ones, and no penalty on them."""
    masks = build_method_masks("sparsepo_independent", reference, {"l1_u": 0.0, "l1_d": 0.0}).to(reference.dtype)
    for side, made in (("u", m_u), ("d", m_d)):
        masks.heads[side].load_state_dict(made.state_dict())
    return masks


def live_mask(reference, seed):
    torch.manual_seed(seed)
    mask = peers.PublishedMask(reference.config.num_hidden_layers, reference.config.hidden_size).to(reference.dtype)
    torch.nn.init.uniform_(mask.merge.weight, 0.2, 1.0)
    torch.nn.init.normal_(mask.norm.weight)
    torch.nn.init.normal_(mask.norm.bias)
    return mask


@pytest.mark.parametrize("mode", ["recompute", "forward"])
def test_the_published_math_gives_our_released_loss_and_its_gradients(mode):
    policy, reference = models("float64")
    m_u, m_d = live_mask(reference, 1), live_mask(reference, 2)
    masks = same_masks(reference, m_u, m_d)
    hyper = {"beta": peers.BETA, "form": "released"}
    objective = PairObjective(policy, reference, "sparsepo_independent", hyper, masks, gradients=mode)
    theirs = peers.published_loss(policy, reference, m_u, m_d, PAIRS)
    theirs.sum().backward()
    wanted = gradients(policy)
    output = objective(collate_pairs(PAIRS, 0, layout="shared"))
    output.total.backward()
    close = {"rtol": 1e-5, "atol": 1e-8}  # the tables of rotary positions are float32
    torch.testing.assert_close(output.loss.detach(), theirs.detach(), **close)
    assert_same(gradients(policy), wanted, **close)
    for side, made in (("u", m_u), ("d", m_d)):
        grads = {name: weight.grad for name, weight in masks.heads[side].named_parameters()}
        assert_same(grads, {name: weight.grad for name, weight in made.named_parameters()}, **close)
        assert any(grad.abs().max() > 0 for grad in grads.values())


@needs_trl
def test_trl_gives_our_dpo_loss_and_its_gradients():
    policy, reference = models("float32")
    objective = PairObjective(policy, reference, "dpo", {"beta": peers.BETA}, None)
    ours = objective(collate_pairs(PAIRS, 0, layout="shared")).total / len(PAIRS)
    ours.backward()
    wanted = gradients(policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peers.trl(policy, reference)(PAIRS)
    theirs.backward()
    torch.testing.assert_close(theirs.detach(), ours.detach(), rtol=1e-5, atol=1e-6)
    assert_same(gradients(policy), wanted, rtol=1e-3, atol=1e-6)


@needs_trl
def test_trl_projects_response_positions_only(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.trainer import utils

        run, rows = peers.trl(*models("float32")), []
        original = utils._ChunkedLogProbFunction.apply
        monkeypatch.setattr(
            utils._ChunkedLogProbFunction,
            "apply",
            lambda hidden, *rest: rows.append(len(hidden)) or original(hidden, *rest),
        )
        run(PAIRS)
    assert rows == [RESPONSE_TOKENS, RESPONSE_TOKENS]  # policy and reference


@needs_trl
@pytest.mark.parametrize("mode", ["recompute", "forward"])
def test_the_heads_of_trl_and_ours_agree(mode):
    at = head.inputs(8, 12, 50, "float32")
    found = []
    for value in (head.ours(at, mode), head.trl(at)):
        value.backward()
        found.append({"value": value.detach(), "hidden": at.hidden.grad, "weight": at.weight.grad})
        at.hidden.grad = at.weight.grad = None
    assert_same(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("contender", ["ours", "published", pytest.param("trl", marks=needs_trl)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_contender_leaves_no_gradient_behind(contender, checkpointing):
    workload = workloads.Workload("tiny", "float32", "mixed", checkpointing=checkpointing)
    policy, reference = workload.models()
    seen = []
    next(policy.parameters()).register_hook(lambda grad: seen.append(grad.abs().sum().item()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = step.contender(contender, step.Experiment("time", workload, "forward"), policy, reference)
        run(PAIRS)()
    assert seen and all(size > 0 for size in seen)
    assert all(weight.grad is None for weight in [*policy.parameters(), *reference.parameters()])


# --- the harness


def test_contenders_take_turns_and_tidying_up_costs_nothing():
    now, order = [0.0], []

    def run(name, seconds):
        def work(scale):
            order.append(name)
            now[0] += seconds * scale

            def tidy():
                now[0] += 1000.0

            return tidy

        return work

    runs = {"a": run("a", 1.0), "b": run("b", 2.0), "c": run("c", 4.0)}
    rounds = [dict.fromkeys("abc", scale) for scale in (1, 10, 100)]
    seconds = harness.interleaved(runs, rounds, clock=lambda: now[0])
    assert seconds == {"a": [1, 10, 100], "b": [2, 20, 200], "c": [4, 40, 400]}
    assert "".join(order) == "abc" + "bca" + "cab"


def test_a_ratio_is_the_median_of_batches_not_the_ratio_of_medians():
    assert harness.median_ratio([1, 9, 6], [10, 10, 60]) == harness.Ratio(0.1, 0.1, 0.9)


def test_a_total_ratio_weighs_long_batches_more():
    assert harness.total_ratio([1, 30], [2, 30]).value == pytest.approx(31 / 32)


@pytest.mark.parametrize(("value", "mark"), [(0.44, "yes"), (0.45, "yes"), (0.4501, "NO")])
def test_a_goal_is_met_up_to_and_including_its_value(value, mark):
    finding = harness.Finding("row", "claim", harness.Ratio(value, 0.4, 0.5), 0.45, "forward")
    *_, line = harness.table([finding]).splitlines()
    assert [cell.strip() for cell in line.strip("|").split("|")][-2] == mark


def test_findings_divide_ours_by_each_peer():
    measured = {"ours": [1.0, 1.0, 1.0], "published": [4.0, 4.0, 4.0], "trl": [2.0, 2.0, 2.0]}
    found = {row.claim.split(":")[0]: row.ratio.value for row in step.findings("mixed-float32", measured)}
    assert found == {"time / published": 0.25, "time / trl": 0.5}


def test_a_time_taken_on_a_busy_machine_says_so():
    measured = {"ours": [1.0], "published": [4.0], "trl": [2.0]}
    quiet, busy = (step.findings("mixed-float32", measured, share)[0].mode for share in (0.99, 0.3))
    assert (quiet, busy) == ("forward", "forward, busy machine (30% of a core)")


def test_a_row_that_fails_is_told_and_takes_no_other_with_it(capsys):
    fail = lambda names: step.in_process(step.__file__, "--measure", "no-such-row")  # noqa: E731
    assert step.attempt(["mixed-float32", "hh-float32"], fail) == {"mixed-float32": None, "hh-float32": None}
    assert "mixed-float32, hh-float32: --measure no-such-row failed with code 2" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_a_peak_counts_memory_that_was_given_back():
    megabyte = 2**20
    peak = harness.peak_above(lambda: bytearray(b"x") * (256 * megabyte) and None)
    assert 0.9 * 256 * megabyte < peak < 2 * 256 * megabyte


def test_a_child_has_what_its_parent_has_and_the_parent_nothing_of_what_the_child_does():
    had = [1]
    assert harness.in_child(lambda: had.append(2) or had) == [1, 2]
    assert had == [1]


@pytest.mark.parametrize(
    ("end", "sentence"), [(9, "code -9: killed, most likely for want of memory"), (15, "code -15, see above")]
)
def test_a_child_that_is_killed_is_told(end, sentence):
    with pytest.raises(step.UserError, match=sentence):
        harness.in_child(lambda: os.kill(os.getpid(), end))


def test_every_contender_takes_the_longest_batch_before_one_counts(monkeypatch):
    order = []

    def contender(name, *_):
        def run(batch):
            order.append((name, LAYOUTS["padded"].num_positions(batch)))
            return lambda: None

        return run

    monkeypatch.setattr(step, "contender", contender)
    tiny = {
        kind: workloads.Workload("tiny", "float32", lengths) for kind, lengths in (("time", "mixed"), ("total", "hh"))
    }
    peers_of = {"time": {"published": 1.0, "trl": 1.0}, "total": {"trl": 1.0}}
    rows = {kind: step.Experiment(kind, tiny[kind], "forward", peers_of[kind]) for kind in tiny}
    seconds = step.time_steps(rows)
    warm, counted = order[:3], order[3:]
    assert [name for name, _ in warm] == ["ours", "published", "trl"]
    assert {size for _, size in warm} == {max(size for _, size in order)}
    assert [name for name, _ in counted[:3]] == ["ours", "published", "trl"]
    assert {row: {name: len(times) for name, times in found.items()} for row, found in seconds.items()} == {
        "time": {"ours": 3, "published": 3, "trl": 3},
        "total": {"ours": 3, "trl": 3},
    }


@needs_trl
@pytest.mark.slow
def test_a_sweep_counts_all_processes_and_each_run_leaves_a_trained_policy(monkeypatch, tmp_path):
    monkeypatch.setattr(sweep, "BETAS", ("0.1",))
    monkeypatch.setattr(step.tempfile, "TemporaryDirectory", lambda: nullcontext(str(tmp_path)))
    calls = []
    run = step.in_process
    monkeypatch.setattr(step, "in_process", lambda *command: calls.append(run(*command)) or calls[-1])
    workload = workloads.Workload("tiny", "float32", "mixed", pairs=2, batches=2)
    found = step.time_sweeps(step.Experiment("sweep", workload, "forward", {"trl": 1.0}))
    assert found == {"ours": [calls[0] + calls[1]], "trl": [calls[2]]} and min(calls) > 0
    start, one, other = (
        load_model(tmp_path / place).get_input_embeddings().weight
        for place in ("model", "ours-0.1/policy", "trl-0.1/policy")
    )
    assert not torch.equal(start, one) and not torch.equal(start, other)


def test_rows_of_time_share_a_process_where_their_models_are_the_same():
    rows = ["mixed-float32", "memory-mixed-float32", "mixed-bfloat16", "hh-float32", "hh-grouped", "wide-float32"]
    assert step.processes(rows) == [
        ["mixed-float32", "hh-float32", "hh-grouped"],
        ["memory-mixed-float32"],
        ["mixed-bfloat16"],
        ["wide-float32"],
    ]


# --- the workloads


def test_the_lengths_file_holds_500_pairs_that_fit_and_says_where_they_come_from():
    lengths = workloads.hh_lengths()
    assert len(lengths) == 500
    assert all(min(triple) >= 1 and triple[0] + max(triple[1:]) <= 512 for triple in lengths)
    assert "Anthropic/hh-rlhf" in (Path(workloads.__file__).parent / "hh_lengths.json").read_text()


def test_batches_are_the_same_each_time_and_ids_are_in_the_vocabulary():
    workload = workloads.Workload("tiny", "float32", "mixed", pairs=3, batches=2)
    batches = workload.draw(61)
    assert batches == workload.draw(61)
    assert [len(batch) for batch in batches] == [3, 3]
    for pair in sum(batches, []):
        assert 60 <= len(pair.prompt) <= 120 and 60 <= len(pair.chosen) <= 200 and 60 <= len(pair.rejected) <= 200
        assert set(pair.prompt + pair.chosen + pair.rejected) <= set(range(61))


def test_grouped_batches_span_all_lengths_in_order():
    lengths = [(1, size, 1) for size in random.Random(0).sample(range(1, 101), 100)]
    batches = workloads.by_length(lengths, 4, 5)
    assert [[size for _, size, _ in batch] for batch in batches] == [
        list(range(first, first + 4)) for first in (9, 29, 49, 69, 89)
    ]


def test_both_sides_of_the_grouped_row_see_the_same_pairs():
    workload = step.EXPERIMENTS["hh-grouped"].workload
    rounds = step.grouped_rounds(workload, 1000)
    own, theirs = (sorted(map(repr, sum((r[name] for r in rounds), []))) for name in ("ours", "trl"))
    assert own == theirs
    assert len(own) == workload.pairs * workload.batches


def test_rows_in_bfloat16_are_left_out_by_name_where_a_cpu_has_no_instructions_for_it(monkeypatch, capsys):
    names = ["mixed-float32", "mixed-bfloat16", "head-bfloat16"]
    monkeypatch.setattr(step, "bfloat16_cost", lambda: 0.4)
    assert step.measurable(names) == names and not capsys.readouterr().err
    monkeypatch.setattr(step, "bfloat16_cost", lambda: 3.0)
    assert step.measurable(names) == ["mixed-float32"]
    said = "left out: mixed-bfloat16, head-bfloat16: bfloat16 takes 3.0 x float32 on this CPU\n"
    assert capsys.readouterr().err == said


def test_the_cost_of_bfloat16_is_a_ratio_of_times():
    assert 0.01 < step.bfloat16_cost() < 1000


# --- on a GPU


@pytest.mark.parametrize("contender", ["ours", pytest.param("TRL", marks=needs_trl)])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of trl's own use of transformers
def test_a_step_of_the_gpu_benchmark_trains_what_it_says(contender, lora):
    part = gpu.Steps(gpu.tiny, torch.float32, lora, **gpu.TINY)
    device = torch.device("cpu")
    found = gpu.measure(part, contender, device)
    assert found.seconds > 0 and found.tokens > 0 and found.rate > 0
    step, trained = gpu.CONTENDERS[contender](part, device)
    step(gpu.steps_of(part, 64)[0])
    assert all(weight.grad is not None for weight in trained)
    embedding = gpu.tiny().get_input_embeddings().weight.shape
    assert (embedding in {weight.shape for weight in trained}) == (not lora)


def test_needed_arithmetic_is_that_of_a_pair_by_hand():
    model, pair = gpu.tiny(), TokenPair([1, 2], [3, 4, 5], [6])
    block = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16  # attention, feed-forward, two norms
    chosen, rejected = 3 * 2 + 9 / 2, 1 * 2 + 1 / 2  # queries and the keys that they see
    prompt, rows = 2**2 / 2, 4
    once = 2 * 2 * block * 6 + 4 * 2 * 16 * (chosen + rejected + prompt) + 2 * 16 * 64 * rows
    twice = 2 * 2 * block * 8 + 4 * 2 * 16 * (chosen + rejected + 2 * prompt) + 2 * 16 * 64 * rows
    full, lora = (gpu.Steps(gpu.tiny, torch.float32, frozen) for frozen in (False, True))
    assert gpu.needed(full, model, [pair], shared=True) == 4 * once
    assert gpu.needed(lora, model, [pair, pair], shared=False) == 3 * 2 * twice


def test_without_a_gpu_the_gpu_benchmark_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(gpu.UserError, match="no GPU is here"):
        gpu.main()


@needs_trl
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["head", "llama-3-8b", "sampling"])
def test_each_part_of_the_gpu_benchmark_runs_and_tells_its_numbers_as_json(part, capsys):
    gpu.run_part(part, torch.device("cpu"), is_tiny=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows and all(row["part"] == part and "error" not in row for row in rows)
    wanted = {"head": "milliseconds", "llama-3-8b": "tokens_per_second", "sampling": "tokens_per_second"}[part]
    assert all(row[wanted] > 0 for row in rows)
    assert "TRL" in {row["contender"] for row in rows} or part != "llama-3-8b"


def test_the_parts_of_the_gpu_benchmark_take_less_than_ten_minutes_together():
    assert sum(gpu.SECONDS.values()) < 600


def test_a_part_that_takes_too_long_is_stopped_with_all_that_it_started(tmp_path):
    script = f"import subprocess; subprocess.run(['sh', '-c', 'echo $$ > {tmp_path}/id; sleep 60'])"
    assert gpu.run_with_limit([sys.executable, "-c", script], 3) == "stopped after 3 s"
    with suppress(psutil.NoSuchProcess):  # nor has it ended and nobody asked how
        process, end = psutil.Process(int((tmp_path / "id").read_text())), time.monotonic() + 20
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
    assert gpu.run_with_limit([sys.executable, "-c", "raise SystemExit(3)"], 10) == "failed with code 3"
