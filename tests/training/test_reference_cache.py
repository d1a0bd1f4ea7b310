"""What is cached of the reference: the values it would give online, the same runs, and no stale or missing cache."""

import json
from dataclasses import replace

import pytest
import torch

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import collate_pairs
from sparsepo.data.encoding import Encoder, encode_pairs
from sparsepo.methods.registry import METHODS
from sparsepo.models.loading import save_model
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs
from sparsepo.training.reference_cache import ReferenceCache, content_hash, write_cache

KINDS = ("states", "logps", "weights~paper~all", "weights~authors~mlp+logits")
CACHED = {  # what each method reads when the KL is logged, and when it is not
    "dpo": (("states",), ("logps",)),
    "ipo": (("states",), ("logps",)),
    "dpop": (("states",), ("logps",)),
    "simpo": (("states",), ()),
    "tdpo1": (("states",), ("states",)),
    "mapo": (("states", KINDS[2]), ("states", KINDS[2])),
    "sparsepo_entropy": (("states",), ("states",)),
    "sparsepo_common": (None, None),
}


def token_pairs(toy, count=20):
    return encode_pairs(Encoder(toy.tokenizer), toy.pairs(count), 512, 512, 48).pairs


def written(toy, folder, kind, reference, count=20, **settings):
    """A cache of the toy pairs, opened."""
    write_cache(reference, token_pairs(toy, count), kind, PreferenceConfig(**settings), folder / kind, "this")
    return ReferenceCache.open(folder / kind, "this")


# --- values


def test_entropy_weights_need_the_states_also_where_nothing_else_does():
    rows = {name: METHODS[name].required_reference_outputs({"mask": "entropy"}, False) for name in ("dpo", "simpo")}
    assert rows == {"dpo": ("states",), "simpo": ("states",)}


@pytest.mark.parametrize("method", CACHED)
def test_a_run_reads_what_its_loss_and_its_log_need(method):
    row, (logged, needed) = METHODS[method], CACHED[method]
    assert (row.required_reference_outputs({}, True), row.required_reference_outputs({}, False)) == (logged, needed)


@pytest.mark.parametrize("settings", [{}, {"layout": "padded"}, {"micro_batch_tokens": 50}, {"micro_batch_size": 4}])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_values_are_those_of_the_reference_itself(toy, tmp_path, kind, settings):
    """Against inspect_pairs, which runs the reference; the last states against the model's own."""
    reference = toy.model(dtype=torch.float64)
    cache, pairs = written(toy, tmp_path, kind, reference, **settings), token_pairs(toy)
    if kind == "states":
        batch = collate_pairs(pairs, 0)
        with torch.no_grad():
            ids, mask = batch.inputs.input_ids, batch.inputs.attention_mask
            expected = batch.responses.select_hidden(reference.base_model(ids, attention_mask=mask).last_hidden_state)
    else:
        method, name = ("mapo", "m_u") if kind.startswith("weights") else ("dpo", "ref_logps")
        hyper = {}
        if method == "mapo":
            _, reading, sites = kind.split("~")
            hyper = {"reading": reading} | ({} if sites == "all" else {"activation_sites": sites.split("+")})
        records = inspect_pairs(toy.model(seed=1, dtype=torch.float64), reference, pairs, method, hyper)
        values = [value for record in records for side in ("chosen", "rejected") for value in record[side][name]]
        expected = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(cache.of_pairs(range(20)).double(), expected, rtol=1e-6, atol=1e-6)
    lengths = [len(pair.chosen) + len(pair.rejected) for pair in pairs]
    some = torch.cat([expected.split(lengths)[place] for place in (7, 0, 19)])
    torch.testing.assert_close(cache.of_pairs([7, 0, 19]).double(), some, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("log_kl", [True, False])
@pytest.mark.parametrize("method", [method for method in CACHED if method != "sparsepo_common"])
def test_a_run_without_its_reference_is_the_run_with_it(toy, tmp_path, method, log_kl):
    """In float64, as Adam blows up the rounding of a gradient that is zero."""
    reference = toy.model(dtype=torch.float64)
    given = {"num_train_epochs": 2, "log_kl": log_kl, "warmup_ratio": 0}
    online = toy.trainer(tmp_path / "online", method, reference=reference, **given)
    online.train()
    kinds = METHODS[method].required_reference_outputs({}, log_kl)
    cache = [written(toy, tmp_path, kind, reference) for kind in kinds]
    cached = toy.trainer(tmp_path / "cached", method, policy=toy.model(dtype=torch.float64), caches=cache, **given)
    assert cached.model.reference is None
    cached.train()
    rows = toy.rows(tmp_path / "online"), toy.rows(tmp_path / "cached")
    assert len(rows[0]) == 6
    for both in rows:
        del both[0]["reward_accuracy"]  # rewards are 0 up to rounding, and which of two is larger is no number
    for mine, theirs in zip(*rows, strict=True):
        assert mine.keys() - theirs.keys() == (
            set() if log_kl or method in ("mapo", "tdpo1", "sparsepo_entropy") else KL_NAMES & mine.keys()
        )
        assert {name: mine[name] for name in theirs} == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    for name, value in cached.policy.state_dict().items():
        torch.testing.assert_close(value, online.policy.state_dict()[name], rtol=0, atol=1e-6)


KL_NAMES = {f"{direction}_kl_{side}" for direction in ("reverse", "forward") for side in ("chosen", "rejected")}


def test_simpo_asks_nothing_of_a_reference_when_no_kl_is_logged(toy, tmp_path):
    trainer = toy.trainer(tmp_path, "simpo", policy=toy.model(), caches=[], log_kl=False)
    trainer.train()
    names = set(toy.rows(tmp_path)[0])
    assert "reward_margin" in names and not names & {*KL_NAMES, "logp_change_chosen"}


def test_bfloat16_states_are_kept_as_they_are(toy, tmp_path):
    reference = toy.model("llama", dtype=torch.bfloat16)
    cache = written(toy, tmp_path, "states", reference)
    assert cache.values.dtype == torch.bfloat16 and cache.values.shape[1:] == (16,)
    assert (tmp_path / "states" / "values.bin").stat().st_size == cache.values.numel() * 2


# --- refusals


def folder(toy, tmp_path):
    """Of a model."""
    save_model(toy.model(), toy.tokenizer, tmp_path / "sft")
    return tmp_path / "sft"


@pytest.mark.parametrize(
    "name, text", [("model.safetensors", "other"), ("tokenizer.json", "{}"), ("config.json", "{}")]
)
def test_the_content_hash_changes_with_every_file(toy, tmp_path, name, text):
    sft, pairs = folder(toy, tmp_path), toy.pairs(20)
    before = content_hash(sft, pairs, PreferenceConfig())
    assert content_hash(sft, pairs, PreferenceConfig()) == before
    sft.joinpath(name).write_text("{}")
    assert content_hash(sft, pairs, PreferenceConfig()) != before


@pytest.mark.parametrize(
    "change, same",
    [
        ({"prompt": "another"}, False),
        ({"chosen": "another"}, False),
        ({"rejected": "another"}, False),
        ({"chosen_ended": False}, False),
        ({"rejected_ended": False}, False),
        ({"chosen_score": 2.0, "rejected_score": 1.0}, True),
        (
            {"chosen_values": [1.0], "rejected_values": [2.0]},
            True,
        ),  # the reference sees texts alone
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else "",
)
def test_the_content_hash_changes_with_every_text_of_the_pairs_and_nothing_else_of_them(toy, tmp_path, change, same):
    sft, pairs = folder(toy, tmp_path), toy.pairs(20)
    changed = [*pairs[:7], replace(pairs[7], **change), *pairs[8:]]
    assert (content_hash(sft, changed, PreferenceConfig()) == content_hash(sft, pairs, PreferenceConfig())) == same


def test_the_content_hash_changes_with_the_order_and_the_number_of_pairs(toy, tmp_path):
    sft, pairs = folder(toy, tmp_path), toy.pairs(20)
    assert len({content_hash(sft, some, PreferenceConfig()) for some in (pairs, pairs[::-1], pairs[:19])}) == 3


@pytest.mark.parametrize(
    "changed, same",
    [
        ({"max_prompt_tokens": 100}, False),
        ({"max_response_tokens": 100}, False),
        ({"precision": "bfloat16"}, False),
        ({"learning_rate": 1.0}, True),
        ({"batch_size": 3}, True),
    ],
)
def test_the_content_hash_changes_with_truncation_and_precision_alone(toy, tmp_path, changed, same):
    sft, pairs = folder(toy, tmp_path), toy.pairs(20)
    found = content_hash(sft, pairs, PreferenceConfig()) == content_hash(sft, pairs, PreferenceConfig(**changed))
    assert found == same


def test_a_cache_of_another_content_is_refused_with_both_hashes(toy, tmp_path):
    written(toy, tmp_path, "logps", toy.model())
    with pytest.raises(UserError, match=r"logps was computed from other weights.*content this, needed that.*remove it"):
        ReferenceCache.open(tmp_path / "logps", "that")


def test_a_cache_that_is_not_finished_is_none(toy, tmp_path):
    written(toy, tmp_path, "logps", toy.model())
    (tmp_path / "logps" / "index.json").unlink()
    with pytest.raises(UserError, match="no cache of a reference"):
        ReferenceCache.open(tmp_path / "logps", "this")


@pytest.mark.parametrize("name", ["values.bin", "index.json"])
@pytest.mark.parametrize("damage", [lambda content: content[:-4], lambda content: bytes(len(content))])
def test_a_damaged_cache_is_deleted_and_the_next_start_computes_it(toy, tmp_path, name, damage):
    """As after a loss of power: cut, or zeros of the right size."""
    before = written(toy, tmp_path, "logps", toy.model()).values.clone()
    path = tmp_path / "logps" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"logps/{name} is not what was written there.*: it is deleted, run again"):
        ReferenceCache.open(tmp_path / "logps", "this")
    assert not (tmp_path / "logps/index.json").exists() and not (tmp_path / "logps/values.bin").exists()
    assert torch.equal(written(toy, tmp_path, "logps", toy.model()).values, before)


@pytest.mark.parametrize(
    "method, kinds, message",
    [
        ("dpo", [], "dpo needs the reference model or a cache of its states"),
        ("mapo", ["states"], "mapo needs the reference model or a cache of its weights~paper~all"),
        ("sparsepo_common", ["states"], "sparsepo_common needs more of the reference than a cache holds"),
    ],
)
def test_a_run_that_lacks_what_it_needs_of_the_reference_is_refused(toy, tmp_path, method, kinds, message):
    cache = [written(toy, tmp_path, kind, toy.model()) for kind in kinds]
    with pytest.raises(UserError, match=message):
        toy.trainer(tmp_path / "run", method, policy=toy.model(), caches=cache)


def test_a_cache_of_other_pairs_is_refused_with_both_counts(toy, tmp_path):
    cache = written(toy, tmp_path, "states", toy.model(), count=19)
    with pytest.raises(UserError, match="holds 19 pairs, not the 20 that can be trained on"):
        toy.trainer(tmp_path / "run", "dpo", policy=toy.model(), caches=[cache])


def test_an_index_says_what_the_values_are(toy, tmp_path):
    written(toy, tmp_path, "states", toy.model())
    index = json.loads((tmp_path / "states" / "index.json").read_text())
    assert {name: index[name] for name in ("kind", "of", "dtype", "shape")} == {
        "kind": "states",
        "of": "this",
        "dtype": "float32",
        "shape": [16],
    }
    assert len(index["ends"]) == 20
