"""`sparsepo card` and `sparsepo push`: what a card says of a run, and that what is uploaded is the policy."""

import json

import huggingface_hub.constants
import pytest
import torch
import yaml
from chat_models import save_instruct_model
from hub_server import Hub
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo.cli.main import main
from sparsepo.runtime.errors import UserError

IDS = torch.arange(3, 9)[None]
GRID = """\
label,method,params,seeds,reward,reward_low,reward_high,kl_exact,kl_exact_low,kl_exact_high,length
SFT,sft,-,2,0.5,0.4,0.6,0,,,7
DPO,dpo,beta=0.1,2,0.75,0.625,0.875,2.5,2.25,2.75,8
DPO,dpo,beta=0.5,2,0.125,0.0625,0.25,1.5,1.25,1.75,9
"""
RECORD = {
    "config": {"model": {"source": "hub", "id": "org/base", "revision": "abc"}, "data": {"source": "planted"}},
    "settings": {"method": "dpo", "hyper": {"beta": 0.1}, "seed": 3, "training": {"learning_rate": 1e-4}},
    "environment": {"packages": {"torch": "2.0"}},
    "hardware": {"cpu": "SECRETMACHINE"},
    "pairs": {"trained": 11, "dropped": {"too long": 4}},
    "kept_step": 6,
    "notes": ["2 responses were cut"],
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path):
    """A finished run of DPO with plain weights, its scores, and the grid of its task."""
    results = tmp_path / "results"
    folder = results / "small/runs/dpo/beta~0.1/seed~3"
    save_instruct_model(folder)
    add_record(folder)
    scores = results / "small/scores/dpo/beta~0.1/seed~3.json"
    scores.parent.mkdir(parents=True)
    scores.write_text(json.dumps({"notes": ["1 verdict is missing"]}))
    (results / "tables").mkdir()
    (results / "tables/small_grid.csv").write_text(GRID)
    return folder


def add_record(folder):
    (folder / "run.json").write_text(json.dumps(RECORD))
    for name in ("dynamics.jsonl", "frontier.jsonl", "masks.json"):
        (folder / name).write_text("{}")
    save_file({}, folder / "masks.safetensors")
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2/optimizer.pt").write_text("state")


@pytest.fixture
def adapter(tmp_path):
    """(base) -> a finished run with an adapter that changes the logits, for a base by its name; the base lies in
    tmp_path/base, in bfloat16."""
    from peft import LoraConfig, get_peft_model

    place = tmp_path / "base"
    save_instruct_model(place)
    AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16).save_pretrained(place)

    def make(base):
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        torch.manual_seed(0)
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(value, std=0.3)
        folder = tmp_path / "results/small/runs/dpo/beta~0.1/seed~3"
        adapted.peft_config["default"].base_model_name_or_path = str(base)
        adapted.save_pretrained(folder, save_embedding_layers=False)
        AutoTokenizer.from_pretrained(place).save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # of peft
        add_record(folder)
        return folder, logits(adapted)

    return make


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits.float()


def card_of(folder, capsys, *options):
    main(["card", str(folder), *options])
    text = capsys.readouterr().out
    return yaml.safe_load(text.split("---\n")[1]), text


# --- the card


def test_a_card_says_base_method_settings_results_and_notes_of_the_run(run, capsys):
    front, text = card_of(run, capsys)
    assert front == {"base_model": "org/base", "library_name": "transformers", "tags": ["sparsepo", "dpo"]}
    for claim in (
        "`org/base` at revision `abc`",
        "DPO (`dpo`), Rafailov et al. 2023",
        "-log σ(β h)",
        "means over 2 seeds",
        "| reward | 0.75 | 0.625 to 0.875 | 0.5 |",
        "| kl_exact | 2.5 | 2.25 to 2.75 | 0 |",
        "| length | 8 | - | 7 |",
        "over prompts and trainings",
        "trained on 11 pairs; 4 dropped: too long",
        "weights of step 6",
        "2 responses were cut",
        "1 verdict is missing",
        "learning_rate: 0.0001",
    ):
        assert claim in text
    assert "0.125" not in text and "SECRETMACHINE" not in text


def test_what_is_missing_is_said_and_not_invented(run, capsys):
    results = run.parents[4]
    (results / "tables/small_grid.csv").unlink()
    (results / "small/scores/dpo/beta~0.1/seed~3.json").unlink()
    (run / "run.json").write_text("{}")
    front, text = card_of(run, capsys)
    assert front == {"library_name": "transformers", "tags": ["sparsepo", "dpo"]}
    for line in (
        "No row of this setting in `tables/small_grid.csv`.",
        "this run has no scores",
        "run.json has no config",
    ):
        assert line in text
    assert "95%" not in text


def test_write_puts_the_same_card_into_the_folder_of_the_run(run, capsys):
    _, text = card_of(run, capsys)
    main(["card", str(run), "--write"])
    assert (run / "README.md").read_text(encoding="utf-8") == text


def test_the_code_of_a_card_loads_the_policy(run, capsys):
    _, text = card_of(run, capsys)
    names = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert torch.equal(logits(names["model"]), logits(AutoModelForCausalLM.from_pretrained(run)))


def test_the_code_of_an_adapters_card_loads_it_on_its_base(adapter, tmp_path, capsys):
    folder, expected = adapter(tmp_path / "base")
    front, text = card_of(folder, capsys)
    assert front["library_name"] == "peft" and "base_model" not in front
    names = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert torch.allclose(logits(names["model"].float()), expected, atol=1e-5)


@pytest.mark.parametrize(
    "breaking, message",
    [
        (lambda run: run.parent / "seed~9", "no such run"),
        (lambda run: run.parent, "not the folder of a run"),
        (lambda run: (run / "run.json").unlink() or run, "has not finished"),
        (lambda run: (run / "model.safetensors").unlink() or run, "has not finished"),
    ],
)
def test_a_folder_without_a_finished_run_is_one_line(run, breaking, message):
    with pytest.raises(UserError, match=message):
        main(["card", str(breaking(run))])


# --- the upload


def test_the_uploaded_policy_has_the_same_logits_and_nothing_of_the_training(run, hub, capsys):
    main(["push", str(run), "--to", "org/policy"])
    assert capsys.readouterr().out == f"uploaded to {hub.url}/org/policy\n"
    assert hub.private == {"org/policy": True}
    files = set(hub.files("org/policy"))
    assert {"README.md", "model.safetensors", "config.json", "masks.json", "masks.safetensors"} <= files
    assert not files & {"run.json", "dynamics.jsonl", "frontier.jsonl", "checkpoint-2/optimizer.pt"}
    stored = hub.folder / "org/policy"
    expected = AutoModelForCausalLM.from_pretrained(run)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(stored)), logits(expected))
    assert AutoTokenizer.from_pretrained(stored)("Hello")["input_ids"]
    assert 'from_pretrained("org/policy")' in (stored / "README.md").read_text(encoding="utf-8")
    assert not (run / "README.md").exists()


def test_an_adapter_goes_as_it_is_and_peft_loads_it_with_the_same_logits(adapter, hub, tmp_path):
    from peft import PeftModel

    folder, expected = adapter("org/base")
    main(["push", str(folder), "--to", "org/adapter", "--public"])
    assert hub.private == {"org/adapter": False}
    stored = hub.folder / "org/adapter"
    assert not list(stored.glob("model*"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    assert torch.equal(logits(PeftModel.from_pretrained(base, stored)), expected)
    front = yaml.safe_load((stored / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert front == {"base_model": "org/base", "library_name": "peft", "tags": ["sparsepo", "dpo"]}


def test_an_adapter_on_a_local_base_is_refused_and_with_merge_uploaded_as_plain_weights(adapter, hub, tmp_path):
    folder, _ = adapter(tmp_path / "base")
    with pytest.raises(UserError, match="local folder, which no one else can load: add --merge"):
        main(["push", str(folder), "--to", "org/merged"])
    assert not hub.private
    main(["push", str(folder), "--to", "org/merged", "--merge"])
    stored = hub.folder / "org/merged"
    assert not list(stored.glob("adapter*"))
    base, lora = load_file(tmp_path / "base/model.safetensors"), load_file(folder / "adapter_model.safetensors")
    found = load_file(stored / "model.safetensors")
    assert found.keys() == base.keys() and len(lora) == 2 * 2 * 7
    for name, value in found.items():
        assert value.dtype == torch.bfloat16  # of the base
        down = lora.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        up = lora.get(f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight")
        change = 0 if down is None else 8 / 2 * up.double() @ down.double()  # alpha / rank
        # bfloat16 rounds a number by 2^-8 of it at most
        torch.testing.assert_close(value.double(), base[name].double() + change, rtol=2**-8, atol=1e-6)
    assert AutoModelForCausalLM.from_pretrained(stored).dtype == torch.bfloat16
    assert "in bfloat16, of an adapter merged" in (stored / "README.md").read_text(encoding="utf-8")


def test_plain_weights_in_the_place_of_an_adapter_take_its_files_away(run, hub):
    old = hub.folder / "org/policy"
    old.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "mine.txt"):
        (old / name).write_text("{}")
    hub.private["org/policy"] = True
    main(["push", str(run), "--to", "org/policy"])
    files = set(hub.files("org/policy"))
    assert {"model.safetensors", "mine.txt"} <= files
    assert not files & {"adapter_config.json", "adapter_model.safetensors"}


def test_a_public_repository_gets_nothing_unless_public_is_asked_for(run, hub):
    hub.private["org/policy"] = False
    with pytest.raises(UserError, match="this repository is public: add --public"):
        main(["push", str(run), "--to", "org/policy"])
    assert hub.files("org/policy") == []
    main(["push", str(run), "--to", "org/policy", "--public"])
    assert "model.safetensors" in hub.files("org/policy")


@pytest.mark.parametrize("name, message", [("policy", "org/policy"), ("a/b/c", "no name"), ("org/a b", "no name")])
def test_a_wrong_name_of_a_repository_is_one_line(run, hub, name, message):
    with pytest.raises(UserError, match=f"--to {name}: .*{message}"):
        main(["push", str(run), "--to", name])
    assert not hub.private


def test_merge_of_plain_weights_is_refused(run, hub):
    with pytest.raises(UserError, match="--merge is for adapters"):
        main(["push", str(run), "--to", "org/policy", "--merge"])


def test_without_a_login_nothing_is_asked_of_the_hub(run, hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no login to the hub"):
        main(["push", str(run), "--to", "org/policy"])
    assert not hub.private


def test_a_refusal_of_the_hub_is_one_line_with_its_reason(run, hub):
    hub.refusal = 403
    with pytest.raises(UserError, match="--to org/policy: the hub refuses it .403: .*not yours"):
        main(["push", str(run), "--to", "org/policy"])


def test_a_hub_that_cannot_be_reached_is_one_line(run, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the hub at http://127.0.0.1:9 cannot be reached"):
        main(["push", str(run), "--to", "org/policy"])
