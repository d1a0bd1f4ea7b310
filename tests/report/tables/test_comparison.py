"""The comparison from measure files made by hand: choice, intervals, marks, files for machines."""

import csv
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsepo.report.tables.caption import comparison_caption, comparison_notes
from sparsepo.report.tables.cells import write_comparison
from sparsepo.report.tables.comparison import compare, comparison_frame, differences_frame
from sparsepo.report.tables.published import Published
from sparsepo.report.tables.systems import build_systems
from sparsepo.runtime.errors import UserError

NOTHING = Published({}, "")
BY_REWARD = {"select": "reward", "selected_on_test": False, "baseline": None, "rows": "methods"}


def _numbers(*values, groups=None, **rest):
    return {"values": list(values), "groups": groups or list(range(len(values)))} | rest


def _file(method, test, validation=None, params=None, seed=0, measure="scores", notes=()):
    """A measure file; `test` and `validation` are metric -> measurement, or variant -> metric -> measurement."""
    params = params or {}
    run = "sft" if method == "sft" else f"{method}/{params}/{seed}"
    splits = {"test": _variants(test)} | ({"validation": _variants(validation)} if validation else {})
    label = {"sft": "SFT", "dpo": "DPO", "ipo": "IPO"}[method]
    head = {"task": "t", "run": run, "method": method, "label": label, "params": params}
    return head | {"seed": seed, "measure": measure, "splits": splits, "notes": list(notes)}


def _variants(found):
    return {"": found} if any("values" in value for value in found.values()) else found


def _two_points(better, seed=0):
    """DPO at two betas; validation prefers `better`."""
    return [
        _file("dpo", {"reward": _numbers(0.5, 0.7)}, {"reward": _numbers(float(beta == better))}, {"beta": beta}, seed)
        for beta in ("0.1", "0.5")
    ]


def test_sft_comes_first_and_the_methods_as_given():
    files = [_file(name, {"reward": _numbers(1.0)}) for name in ("ipo", "dpo", "sft")]
    assert [system.method for system in build_systems(files, "reward", "methods")] == ["sft", "ipo", "dpo"]


def test_with_settings_as_rows_every_point_stands_by_itself_and_nothing_is_chosen():
    files = _two_points(better="0.1")
    made = compare(files, BY_REWARD | {"rows": "settings"}, NOTHING)
    assert [(system.method, system.candidates) for system in made.systems] == [("dpo", 1), ("dpo", 1)]
    assert len({system.name for system in made.systems}) == len({system.params for system in made.systems}) == 2
    (found,) = made.differences["", "reward"]
    assert {found.a, found.b} == {system.name for system in made.systems}


@pytest.mark.parametrize("better", ["0.1", "0.5"])
def test_a_method_stands_at_the_point_that_validation_prefers(better):
    (system,) = build_systems(_two_points(better), "reward", "methods")
    assert (system.params, system.candidates) == (f"beta={better}", 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=8))
def test_no_test_value_changes_the_choice(values):
    files = [
        _file("dpo", {"reward": _numbers(*values[at::4])}, {"reward": _numbers(level)}, {"beta": beta}, seed)
        for at, (beta, seed, level) in enumerate([("0.1", 0, 0.3), ("0.1", 1, 0.4), ("0.5", 0, 0.9), ("0.5", 1, 0.0)])
    ]
    (system,) = build_systems(files, "reward", "methods")
    assert system.params == "beta=0.5"  # 0.45 against 0.35


def _lucky_seeds():
    """Two seeds at two betas: 0.1 is lucky in seed 0 and 0.5 in seed 1, on both splits."""
    rewards = {("0.1", 0): 9.0, ("0.1", 1): 1.0, ("0.5", 0): 2.0, ("0.5", 1): 5.0}
    return [
        _file("dpo", {"reward": _numbers(level, level)}, {"reward": _numbers(level)}, {"beta": beta}, seed)
        for (beta, seed), level in rewards.items()
    ]


def test_each_seed_is_measured_at_the_setting_that_the_other_seeds_choose():
    """0.1 has the best mean, 5. Seed 1 alone chooses 0.5 for seed 0: 2; seed 0 chooses 0.1 for seed 1: 1."""
    made = compare(_lucky_seeds(), BY_REWARD, NOTHING)
    (system,) = made.systems
    assert (system.params, system.estimates["", "reward"].interval.mean) == ("beta=0.1", 1.5)
    assert comparison_notes(made) == ["DPO seed 0: measured at beta=0.5, which the other seeds choose"]
    assert "each is measured at the setting that the others choose" in comparison_caption(made)


def test_where_not_all_settings_have_a_seed_its_setting_is_that_of_all():
    (system,) = build_systems(_lucky_seeds()[:3], "reward", "methods")
    assert (system.params, system.estimates["", "reward"].interval.mean) == ("beta=0.1", 5.0)


def test_the_luck_of_trainings_at_many_settings_is_no_gain():
    """Of 8 equal settings under 3 seeds the best had a mean above 0 by most of a standard deviation of a training."""
    draw, means = np.random.default_rng(0), []
    for _ in range(60):
        files = []
        for setting in range(8):
            for seed in range(3):
                level = draw.normal()
                parts = [{"reward": _numbers(*(level + 0.1 * draw.normal(size=12)))} for _ in range(2)]
                files.append(_file("dpo", *parts, {"beta": str(setting)}, seed))
        (system,) = build_systems(files, "reward", "methods")
        means.append(system.estimates["", "reward"].interval.mean)
    assert abs(np.mean(means)) < 4 * np.std(means) / np.sqrt(60)


def test_the_files_of_a_run_are_merged():
    parts = [
        _file("dpo", {"reward": _numbers(1.0)}, {"reward": _numbers(1.0)}),
        _file("dpo", {"0.25": {"win_rate": _numbers(0.5)}}, measure="win_rate"),
        _file("dpo", {"0.25": {"length": _numbers(9)}}, measure="summaries"),
    ]
    (system,) = build_systems(parts, "reward", "methods")
    assert set(system.estimates) == {("", "reward"), ("0.25", "win_rate"), ("0.25", "length")}
    assert system.seeds == 1


def test_win_rate_and_pass_at_k_are_percentages_and_rewards_are_not():
    (system,) = build_systems(
        [_file("dpo", {name: _numbers(0.25) for name in ("win_rate", "pass@7", "reward")})], "reward", "methods"
    )
    means = {name: found.interval.mean for (_, name), found in system.estimates.items()}
    assert means == {"win_rate": 25.0, "pass@7": 25.0, "reward": 0.25}


def test_the_interval_of_one_seed_is_over_prompts_and_of_several_over_seeds():
    """Student's t of 2 values around 0.5, and of the means 1 and 3 of two seeds whose prompts are alike."""
    one = build_systems([_file("dpo", {"reward": _numbers(0.25, 0.75)})], "reward", "methods")
    found = one[0].estimates["", "reward"].interval
    assert (found.mean, found.high) == pytest.approx((0.5, 0.5 + 12.7062 / 4), abs=1e-4)
    files = [_file("dpo", {"reward": _numbers(level, level)}, seed=seed) for seed, level in enumerate([1.0, 3.0])]
    found = build_systems(files, "reward", "methods")[0].estimates["", "reward"].interval
    assert (found.mean, found.high) == pytest.approx((2.0, 2 + 12.7062), abs=1e-3)


def test_the_interval_of_several_seeds_counts_prompts_too():
    """It was Student's t over the means of the seeds alone, which are equal here."""
    files = [_file("dpo", {"reward": _numbers(*[0.1, 0.5, 0.9] * 10)}, seed=seed) for seed in range(3)]
    found = build_systems(files, "reward", "methods")[0].estimates["", "reward"].interval
    assert found.high - found.low > 0.2


def test_no_win_of_twelve_is_not_a_certain_zero():
    """Wilson's upper bound of 0 of 12 is z² / (12 + z²)."""
    (system,) = build_systems([_file("dpo", {"win_rate": _numbers(*[0.0] * 12)})], "win_rate", "methods")
    found = system.estimates["", "win_rate"].interval
    assert (found.mean, found.low) == (0.0, 0.0) and found.high == pytest.approx(24.2494, abs=1e-3)


def test_a_number_without_items_has_196_standard_errors_or_no_bounds():
    test = {"bbh": _numbers(10.0, stderr=2.0), "avg": _numbers(7.0, stderr=None)}
    (system,) = build_systems([_file("dpo", test)], "reward", "methods")
    found = system.estimates["", "bbh"].interval
    assert (found.low, found.high) == pytest.approx((10 - 3.919928, 10 + 3.919928))
    assert math.isnan(system.estimates["", "avg"].interval.low)


def test_a_seed_without_a_metric_leaves_the_mean_to_the_others_and_is_told():
    files = [_file("dpo", {"reward": _numbers(1.0), "kl": _numbers(2.0)}), _file("dpo", {"kl": _numbers(4.0)}, seed=1)]
    made = compare(files, BY_REWARD, NOTHING)
    assert made.systems[0].estimates["", "reward"].interval.mean == 1.0
    assert comparison_notes(made) == ["DPO: reward is the mean of 1 of 2 seeds; the others lack it"]


def test_a_measurement_without_values_is_missing():
    made = compare([_file("dpo", {"reward": _numbers(1.0), "win_rate": _numbers()})], BY_REWARD, NOTHING)
    assert made.columns == [("", "reward")]


@pytest.mark.parametrize(
    ("methods", "asked", "found"),
    [
        (["sft", "dpo", "ipo"], None, "dpo"),
        (["sft", "ipo"], None, "sft"),
        (["ipo"], None, None),
        (["sft", "dpo"], "sft", "sft"),
    ],
)
def test_the_baseline_is_as_asked_else_dpo_else_sft(methods, asked, found):
    files = [_file(name, {"reward": _numbers(1.0)}) for name in methods]
    made = compare(files, BY_REWARD | {"baseline": asked}, NOTHING)
    assert (made.baseline and made.baseline.method) == found


def test_a_baseline_without_a_run_is_a_users_mistake():
    with pytest.raises(UserError, match="evaluation.baseline: there is no run of 'ipo'; there are dpo"):
        compare([_file("dpo", {"reward": _numbers(1.0)})], BY_REWARD | {"baseline": "ipo"}, NOTHING)


def test_the_frame_has_a_row_for_each_variant_and_system_and_nan_for_what_is_missing():
    test = {"": {"reward": _numbers(0.0, 1.0)}, "0.25": {"win_rate": _numbers(0.5)}}
    sft = _file("sft", {"0.25": {"win_rate": _numbers(0.25)}}, seed=None)
    files = [sft, _file("dpo", test, params={"beta": "0.1"})]
    frame = comparison_frame(compare(files, BY_REWARD, NOTHING))
    assert list(frame["method"] + frame["variant"]) == ["sft0.25", "dpo0.25", "sft", "dpo"]
    assert frame["win_rate"].tolist()[:2] == [25.0, 50.0] and frame["win_rate"].isna().tolist()[2:] == [True, True]
    last = frame.iloc[3]
    assert (last["params"], last["reward"]) == ("beta=0.1", 0.5) and last["reward_low"] < 0.5 < last["reward_high"]


def test_the_papers_figure_stands_beside_ours_by_metric_and_variant():
    test = {"": {"bbh": _numbers(3.0)}, "humaneval": {"pass@1": _numbers(0.1)}, "mbpp": {"pass@1": _numbers(0.2)}}
    paper = Published({"dpo": {"bbh": 4.5, "pass@1 mbpp": 33.0}}, "a paper")
    frame = comparison_frame(compare([_file("dpo", test)], BY_REWARD, paper)).set_index("variant")
    assert frame["bbh_paper"][""] == 4.5
    assert frame["pass@1_paper"]["mbpp"] == 33.0 and math.isnan(frame["pass@1_paper"]["humaneval"])


def test_differences_tell_every_pair_and_which_are_real():
    levels = {"sft": 0.0, "dpo": 1.0, "ipo": 1.0}
    noise = [0.01 * at for at in range(12)]
    files = [
        _file(name, {"reward": _numbers(*(level + (name == "ipo") * (-1) ** at * x for at, x in enumerate(noise)))})
        for name, level in levels.items()
    ]
    frame = differences_frame(compare(files, BY_REWARD, NOTHING))
    assert list(frame["system_a"] + " " + frame["system_b"]) == ["sft dpo", "sft ipo", "dpo ipo"]
    assert list(frame["real for these trained models"]) == ["yes", "yes", "no"]
    assert frame["difference"][0] == -1.0 and set(frame["prompts"]) == {12}
    assert frame["p"][0] == pytest.approx(2 / 2**12) and frame["p_holm"][0] == pytest.approx(4 / 2**12)


def test_scores_without_items_are_listed_and_not_called_real_or_unreal():
    files = [_file(name, {"avg": _numbers(level)}) for name, level in (("sft", 1.0), ("dpo", 9.0))]
    made = compare(files, BY_REWARD, NOTHING)
    (row,) = differences_frame(made).to_dict("records")
    assert (row["difference"], row["real for these trained models"]) == (-8.0, "") and math.isnan(row["p"])
    assert "Not tested: scores without single items" in comparison_caption(made)


def test_the_column_is_called_real_where_every_method_has_several_seeds():
    """SFT is one given model. A method of one seed may differ by the luck of its training."""
    files = [_file("sft", {"reward": _numbers(0.0, 1.0)}, seed=None)]
    files += [_file(name, {"reward": _numbers(0.0, 1.0)}, seed=seed) for name in ("dpo", "ipo") for seed in (0, 1)]
    assert "real" in differences_frame(compare(files, BY_REWARD, NOTHING))
    assert "real for these trained models" in differences_frame(compare(files[:-1], BY_REWARD, NOTHING))


def test_equal_methods_with_trainings_that_vary_are_not_real():
    """Seed means 0.4, 0.5, 0.9 and 0.3, 0.4, 0.5: a test over prompts alone takes them for different."""
    draw = np.random.default_rng(0)
    prompts = draw.normal(size=50)
    levels = {"dpo": [0.4, 0.5, 0.9], "ipo": [0.3, 0.4, 0.5]}
    files = [
        _file(name, {"reward": _numbers(*(level + prompts + 0.1 * draw.normal(size=50)).tolist())}, seed=seed)
        for name, own in levels.items()
        for seed, level in enumerate(own)
    ]
    (row,) = differences_frame(compare(files, BY_REWARD, NOTHING)).to_dict("records")
    assert row["real"] == "no" and row["difference"] == pytest.approx(0.2, abs=0.02)


def test_the_written_csv_is_what_the_frame_says(tmp_path):
    files = [_file("sft", {"reward": _numbers(1 / 3)}), _file("dpo", {"kl": _numbers(2.0)})]
    made = compare(files, BY_REWARD, NOTHING)
    paths = {kind: tmp_path / kind for kind in ("csv", "markdown", "latex", "differences")}
    write_comparison(made, **paths, notes=["the scorer was right in 90%"], provenance="config a")
    rows = list(csv.DictReader(io.StringIO(paths["csv"].read_text())))
    assert [(row["method"], row["reward"], row["kl"]) for row in rows] == [("sft", "0.333333", ""), ("dpo", "", "2")]
    assert paths["differences"].read_text().startswith("system_a,system_b,metric,variant,prompts,")
    assert "- the scorer was right in 90%\n\nconfig a\n" in paths["markdown"].read_text()
