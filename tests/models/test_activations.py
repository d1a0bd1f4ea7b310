"""What MaPO reads of a model: against a GPT-NeoX and a GPT-2 written out here, and modules named in full elsewhere."""

import math
import statistics
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo.data.batches import ModelInputs
from sparsepo.models.activations import record_activations
from sparsepo.models.architecture import hidden_states
from sparsepo.runtime.errors import UserError
from sparsepo.training.inspection import inspect_pairs

VOCABULARY, LAYERS, HEADS, WIDTH, ROTARY = 29, 3, 2, 32, 4
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 48}
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
GROUPED = {**SIZES, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
GPT2 = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 64}
CONFIGS = {
    "gpt_neox": {**SIZES, "max_position_embeddings": 64, "rotary_pct": 0.25, "tie_word_embeddings": False},
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gptj": {**GPT2, "rotary_dim": ROTARY},
    "llama": GROUPED,
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "gemma2": {**GROUPED, "query_pre_attn_scalar": 16, "final_logit_softcapping": 2.0},
    "phi": {**SIZES, "max_position_embeddings": 64},
    "phi3": GROUPED,
    "opt": {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "ffn_dim": 48}
    | {"word_embed_proj_dim": WIDTH, "max_position_embeddings": 64},
    "mixtral": {**GROUPED, "num_local_experts": 2},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "bloom": {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS},
    "smollm3": {**GROUPED, "no_rope_layers": [1, 0, 1]},
}
PAIRS = [
    {"prompt": [3, 4, 5], "chosen": [6, 7, 8, 9], "rejected": [10, 11]},
    {"prompt": [12, 2, 5, 1, 2], "chosen": [6], "rejected": [10, 11, 3, 4, 5, 28, 27]},
]
BATCH = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]])


@cache
def model(architecture):
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **CONFIGS[architecture], **IDS)
    causal_lm = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    causal_lm.set_experts_implementation("eager")  # others know no float64
    with torch.no_grad():
        for parameter in causal_lm.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return causal_lm


def recorded(architecture, reading="authors", sites=None, ids=BATCH):
    """The record of a forward pass, and what it says of each site."""
    with torch.no_grad(), record_activations(model(architecture), reading, sites) as record:
        hidden_states(model(architecture), ModelInputs.with_padding(ids, torch.ones_like(ids)))
    return record, record.by_site(ids.shape)


# --- two models written out: name -> one list of values (a number a token) for each tensor


def attention(q, k, v):
    """(heads, T, d) each -> (T, heads * d)."""
    later = torch.ones(q.shape[1], q.shape[1]).triu(1) > 0
    scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(later, -math.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def rotate(x):
    """(heads, T, d), the first ROTARY features of each head turned by angles in float32, as transformers has them."""
    frequency = 1 / 10000 ** (torch.arange(0, ROTARY, 2).float() / ROTARY)
    angles = torch.arange(x.shape[1]).float()[:, None] * frequency
    cos, sin = (turn.repeat(1, 2).double() for turn in (angles.cos(), angles.sin()))
    turned, rest = x[..., :ROTARY], x[..., ROTARY:]
    half = torch.cat([-turned[..., ROTARY // 2 :], turned[..., : ROTARY // 2]], -1)
    return torch.cat([turned * cos + half * sin, rest], -1)


def neox(ids):
    weights, seen = model("gpt_neox").state_dict(), {"attention": [], "residual": [], "mlp": [], "logits": []}
    delta = {"mlp": [], "attention": [], "residual": []}

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    h = weights["gpt_neox.embed_in.weight"][ids]
    seen["residual"].append(h)
    for layer in range(LAYERS):
        block = f"gpt_neox.layers.{layer}"
        first, second = norm(h, f"{block}.input_layernorm"), norm(h, f"{block}.post_attention_layernorm")
        fused = linear(first, f"{block}.attention.query_key_value").view(len(ids), HEADS, 3, WIDTH // HEADS)
        q, k, v = fused.permute(2, 1, 0, 3)
        merged = attention(rotate(q), rotate(k), v)
        seen["attention"] += [x.transpose(0, 1).flatten(1) for x in (q, k, v, rotate(q), rotate(k))] + [merged]
        attended = linear(merged, f"{block}.attention.dense")
        active = F.gelu(linear(second, f"{block}.mlp.dense_h_to_4h"))
        seen["mlp"].append(active)
        fed = linear(active, f"{block}.mlp.dense_4h_to_h")
        h = h + attended + fed
        seen["residual"] += [first, second, attended, fed, h]
        for site, value in (("mlp", fed), ("attention", attended), ("residual", h)):
            delta[site].append(value)
    last = norm(h, "gpt_neox.final_layer_norm")
    seen["residual"].append(last)
    seen["logits"].append(linear(last, "embed_out" if "embed_out.weight" in weights else "lm_head"))
    return {"authors": seen, "paper": delta}


def gpt2(ids):
    """What the paper reads of it; the golden numbers have what the authors read."""
    weights, delta = model("gpt2").state_dict(), {"mlp": [], "attention": [], "residual": []}

    def linear(x, name):
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    h = weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][: len(ids)]
    for layer in range(LAYERS):
        block = f"transformer.h.{layer}"
        fused = linear(norm(h, f"{block}.ln_1"), f"{block}.attn.c_attn").view(len(ids), 3, HEADS, WIDTH // HEADS)
        attended = linear(attention(*fused.permute(1, 2, 0, 3)), f"{block}.attn.c_proj")
        h = h + attended
        active = F.gelu(linear(norm(h, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate="tanh")
        fed = linear(active, f"{block}.mlp.c_proj")
        h = h + fed
        for site, value in (("mlp", fed), ("attention", attended), ("residual", h)):
            delta[site].append(value)
    return {"paper": delta}


def zscored(values):
    if len(values) == 1:
        return [0.0]
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return [(value - mean) / deviation for value in values]


def rescaled(values):
    if len(values) == 1:
        return [1.0]
    scores = zscored(values)
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) for score in scores]


def mean_of(rows):
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def expected_weights(activations, reading, prompt, response, sites):
    """The paper: the mean of all z-scores. The authors: z-scored and rescaled, the mean of a site, then of sites."""
    with torch.no_grad():
        tensors = activations(torch.tensor(prompt + response))[reading]
    rows = {
        site: [value[len(prompt) - 1 : -1].mean(-1).tolist() for value in values]
        for site, values in tensors.items()
        if site in (sites or tensors)
    }
    if reading == "paper":
        return mean_of([zscored(row) for of_site in rows.values() for row in of_site])
    return mean_of([mean_of([rescaled(row) for row in of_site]) for of_site in rows.values()])


@pytest.mark.parametrize("layout", ["padded", "shared"])
@pytest.mark.parametrize(
    "architecture, reading, sites",
    [
        ("gpt_neox", "authors", None),
        ("gpt_neox", "authors", ("mlp",)),
        ("gpt_neox", "authors", ("attention", "logits")),
        ("gpt_neox", "authors", ("residual",)),
        ("gpt_neox", "paper", None),
        ("gpt_neox", "paper", ("mlp", "attention")),
        ("gpt2", "paper", None),
        ("gpt2", "paper", ("residual",)),
    ],
)
def test_weights_are_those_of_a_model_written_out(architecture, reading, sites, layout):
    """The tolerance is 1e-9; one token alone weighs 0 in the paper's reading, 1 in the authors'."""
    written_out = {"gpt_neox": neox, "gpt2": gpt2}[architecture]
    given = {"reading": reading} | ({"activation_sites": sites} if sites else {})
    records = inspect_pairs(model(architecture), model(architecture), PAIRS, "mapo", given, layout=layout)
    for record, pair in zip(records, PAIRS, strict=True):
        for side in ("chosen", "rejected"):
            expected = expected_weights(written_out, reading, pair["prompt"], pair[side], sites)
            assert record[side]["m_u"] == pytest.approx(expected, rel=0, abs=1e-9)


def test_the_authors_read_39_tensors_of_three_layers_of_gpt_neox_and_30_of_gpt2():
    counts = {"mlp": 3, "attention": 18, "residual": 17, "logits": 1}
    assert {site: len(values) for site, values in recorded("gpt_neox")[1].items()} == counts
    assert {site: len(values) for site, values in neox(BATCH[0])["authors"].items()} == counts
    assert sum(len(values) for values in recorded("gpt2")[1].values()) == 30


# --- other architectures: the activations of modules named in full


def outputs(architecture, names, ids=BATCH):
    """The mean over features of what each of these modules puts out, at each of its places among the layers."""
    causal_lm, seen = model(architecture), {name: [] for name in names}
    handles = [
        module.register_forward_hook(
            lambda _, __, out, to=seen[name]: to.append(out[0] if isinstance(out, tuple) else out)
        )
        for name in names
        for module in [causal_lm.get_submodule(name)]
    ]
    with torch.no_grad():
        causal_lm(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: values[0] for name, values in seen.items()}


PROJECTIONS = {
    "gptj": ("transformer.h.{}.attn", "q_proj", "k_proj", "v_proj"),
    "llama": ("model.layers.{}.self_attn", "q_proj", "k_proj", "v_proj"),
    "mistral": ("model.layers.{}.self_attn", "q_proj", "k_proj", "v_proj"),
    "qwen2": ("model.layers.{}.self_attn", "q_proj", "k_proj", "v_proj"),
    "qwen3": ("model.layers.{}.self_attn", "q_norm", "k_norm", "v_proj"),
    "gemma2": ("model.layers.{}.self_attn", "q_proj", "k_proj", "v_proj"),
    "phi": ("model.layers.{}.self_attn", "q_proj", "k_proj", "v_proj"),
    "mixtral": ("model.layers.{}.self_attn", "q_proj", "k_proj", "v_proj"),
}


@pytest.mark.parametrize("architecture", PROJECTIONS)
def test_queries_and_keys_are_read_before_and_after_they_are_rotated(architecture):
    """At the first token nothing is rotated; a norm of queries comes before."""
    part, *maps = PROJECTIONS[architecture]
    values = recorded(architecture)[0].values
    for layer in range(LAYERS):
        names = [f"{part.format(layer)}.{name}" for name in maps]
        expected = [value.flatten(2).mean(-1) for value in outputs(architecture, names).values()]
        for name, mean in zip(("query", "key", "value"), expected, strict=True):
            torch.testing.assert_close(values[name][layer], mean, rtol=0, atol=1e-9)
        for name in ("query", "key"):
            before, after = values[name][layer], values[f"rotated {name}"][layer]
            torch.testing.assert_close(after[:, 0], before[:, 0], rtol=0, atol=1e-9)
            assert (after[:, 1:] - before[:, 1:]).abs().min() > 1e-6


FUSED = {  # module, width of a group of heads in it, places of queries, keys and values in a group
    "gpt2": ("transformer.h.{}.attn.c_attn", 96, (32, 32, 32)),
    "gpt_bigcode": ("transformer.h.{}.attn.c_attn", 64, (32, 16, 16)),
    "gpt_neox": ("gpt_neox.layers.{}.attention.query_key_value", 48, (16, 16, 16)),
    "phi3": ("model.layers.{}.self_attn.qkv_proj", 64, (32, 16, 16)),
    "bloom": None,
}


@pytest.mark.parametrize("architecture", [name for name, row in FUSED.items() if row])
def test_queries_keys_and_values_of_one_map_are_told_apart(architecture):
    name, width, sizes = FUSED[architecture]
    values = recorded(architecture)[0].values
    for layer in range(LAYERS):
        fused = outputs(architecture, [name.format(layer)])[name.format(layer)].unflatten(-1, (-1, width))
        for kind, part in zip(("query", "key", "value"), fused.split(sizes, -1), strict=True):
            torch.testing.assert_close(values[kind][layer], part.mean((2, 3)), rtol=0, atol=1e-9)


MERGED = {"gpt2": "transformer.h.0.attn.c_proj", "gpt_neox": "gpt_neox.layers.0.attention.dense"} | dict.fromkeys(
    ("llama", "qwen3", "gemma2", "phi3", "mixtral"), "model.layers.0.self_attn.o_proj"
)


@pytest.mark.parametrize("architecture", MERGED)
def test_merged_heads_are_what_the_output_projection_reads(architecture):
    entering = []
    handle = (
        model(architecture)
        .get_submodule(MERGED[architecture])
        .register_forward_pre_hook(lambda _, args: entering.append(args[0].mean(-1)))
    )
    record = recorded(architecture)[0]
    handle.remove()
    torch.testing.assert_close(record.values["merged heads"][0], entering[0], rtol=0, atol=1e-12)


PARTS = {  # attention, feed-forward, nonlinearity, norms of a block
    "gpt_bigcode": ("transformer.h.{}", "attn", "mlp", "mlp.act", ("ln_1", "ln_2")),
    "gptj": ("transformer.h.{}", "attn", "mlp", "mlp.act", ("ln_1",)),
    "gpt_neox": ("gpt_neox.layers.{}", "attention", "mlp", "mlp.act", ("input_layernorm", "post_attention_layernorm")),
    "llama": ("model.layers.{}", "self_attn", "mlp", "mlp.act_fn", ("input_layernorm", "post_attention_layernorm")),
    "phi": ("model.layers.{}", "self_attn", "mlp", "mlp.activation_fn", ("input_layernorm",)),
    "opt": (
        "model.decoder.layers.{}",
        *("self_attn", "fc2", "activation_fn"),
        ("self_attn_layer_norm", "final_layer_norm"),
    ),
    "mixtral": ("model.layers.{}", "self_attn", "mlp", None, ("input_layernorm", "post_attention_layernorm")),
    "gemma2": (
        "model.layers.{}",
        *("self_attn", "mlp", "mlp.act_fn"),
        tuple(f"{place}_layernorm" for place in ("input", "post_attention", "pre_feedforward", "post_feedforward")),
    ),
}


@pytest.mark.parametrize("architecture", PARTS)
def test_the_parts_of_a_block_are_found_by_their_kind(architecture):
    block, attention_part, feed_forward, nonlinearity, norms = PARTS[architecture]
    sites = ("mlp", "attention", "residual", "logits") if nonlinearity else ("attention", "residual", "logits")
    values = recorded(architecture, sites=sites)[0].values
    paper = recorded(architecture, "paper")[0].values
    for layer in range(LAYERS):
        named = {
            "attention output": attention_part,
            "feed-forward output": feed_forward,
            **({"nonlinearity": nonlinearity} if nonlinearity else {}),
            **{norm: norm for norm in norms},
        }
        paths = {kind: f"{block.format(layer)}.{name}" for kind, name in named.items()} | {"block": block.format(layer)}
        expected = outputs(architecture, paths.values())
        means = {kind: expected[path].mean(-1).flatten() for kind, path in paths.items()}
        same = {"feed-forward output": "feed-forward output", "nonlinearity": "nonlinearity", "block": "block output"}
        same = {kind: name for kind, name in same.items() if kind in means}
        for kind, name in same.items():
            torch.testing.assert_close(values[name][layer].flatten(), means[kind], rtol=0, atol=1e-12)
        for number, norm in enumerate(norms):
            found = values["norm"][layer * len(norms) + number]
            torch.testing.assert_close(found.flatten(), means[norm], rtol=0, atol=1e-12)
        for kind, name in (("attention output",) * 2, ("feed-forward output",) * 2, ("block", "block output")):
            torch.testing.assert_close(paper[name][layer].flatten(), means[kind], rtol=0, atol=1e-12)


@pytest.mark.parametrize("architecture", [name for name in CONFIGS if name != "mamba"])  # it tells other states
def test_embedding_final_norm_and_logits_are_the_models_own(architecture):
    ids = BATCH
    with torch.no_grad():
        own = model(architecture)(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, output_hidden_states=True
        )
    record = recorded(architecture)[0]
    for name, expected in (
        ("embedding", own.hidden_states[0]),
        ("final norm", own.hidden_states[-1]),
        ("logits", own.logits),
    ):
        torch.testing.assert_close(record.values[name][0], expected.double().mean(-1), rtol=1e-6, atol=1e-9)


def test_a_part_that_adds_the_residual_itself_is_recorded_without_it():
    """BLOOM's parts do: what its output maps put out is left."""
    paths = ["transformer.h.1.self_attention.dense", "transformer.h.1.mlp.dense_4h_to_h"]
    expected = [value.mean(-1) for value in outputs("bloom", paths).values()]
    values = recorded("bloom", "paper")[0].values
    torch.testing.assert_close(values["attention output"][1], expected[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(values["feed-forward output"][1], expected[1], rtol=0, atol=1e-9)


# --- what an architecture lacks


@pytest.mark.parametrize(
    "architecture, reading, told",
    [
        (
            "gpt_neox",
            "authors",
            "mask from 39 activations of GPTNeoXForCausalLM (mlp: 3, attention: 18, residual: 17, logits: 1)\n",
        ),
        ("llama", "paper", "mask from 9 activations of LlamaForCausalLM (mlp: 3, attention: 3, residual: 3)\n"),
        (
            "gpt2",
            "authors",
            "mlp is left out as in the authors' code for this model, unless activation_sites names it\n",
        ),
        (
            "mixtral",
            "authors",
            "residual: 17, logits: 1); left out, as it was not found: nonlinearity in 3 of 3 layers\n",
        ),
        (
            "smollm3",
            "authors",
            "left out, as it was not found: rotated query in 1 of 3 layers, rotated key in 1 of 3 layers\n",
        ),
        ("mamba", "paper", "feed-forward output in 2 of 2 layers, attention output in 2 of 2 layers\n"),
    ],
)
def test_what_is_read_and_what_is_lacking_is_told_once(architecture, reading, told, capsys, monkeypatch):
    monkeypatch.setattr("sparsepo.models.activations._REPORTED", set())
    for _ in range(2):
        recorded(architecture, reading)
    line = capsys.readouterr().out
    assert line.startswith("mask from ") and line.endswith(told) and line.count("\n") == 1


@pytest.mark.parametrize(
    "architecture, reading, site",
    [("mixtral", "authors", "mlp"), ("mamba", "paper", "attention"), ("bloom", "authors", "attention")],
)
def test_a_site_that_was_asked_for_and_that_an_architecture_lacks_is_an_error(architecture, reading, site):
    """Not so where all sites are read, the default."""
    name = type(model(architecture)).__name__
    with pytest.raises(UserError, match=f"{name} has no activations of '{site}' .*use other `activation_sites`"):
        recorded(architecture, reading, (site, "residual"))
    assert site not in recorded(architecture, reading)[1]


def test_a_model_without_a_list_of_blocks_is_an_error(monkeypatch):
    monkeypatch.setattr(model("gpt2").config, "n_layer", 7)
    with pytest.raises(UserError, match="has no list of 7 blocks"):
        recorded("gpt2")


@pytest.mark.parametrize("architecture", ["gpt_neox", "gptj"])
def test_nothing_stays_behind_even_after_an_error(architecture):
    """No hook, no attention function, and the model's own numbers."""
    causal_lm = model(architecture)

    def state():
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in causal_lm.modules())
        with torch.no_grad():
            return hooks, causal_lm(BATCH).logits

    before = state()
    with pytest.raises(ZeroDivisionError), record_activations(causal_lm, "authors"):
        assert state()[0] > before[0]
        raise ZeroDivisionError
    hooks, logits = state()
    assert hooks == before[0] and torch.equal(logits, before[1])
    assert not any("_attn" in vars(module) for module in causal_lm.modules())


def test_the_states_are_the_same_while_they_are_recorded():
    inputs = ModelInputs.with_padding(BATCH, torch.ones_like(BATCH))
    with torch.no_grad():
        plain = hidden_states(model("gpt_neox"), inputs)
        with record_activations(model("gpt_neox"), "authors"):
            assert torch.equal(hidden_states(model("gpt_neox"), inputs), plain)
