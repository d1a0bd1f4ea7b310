"""`sparsepo card`: the model card of a finished run, from what the run and the tables of its task say."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparsepo.methods.registry import METHODS
from sparsepo.report.run_names import params_text, parse_run
from sparsepo.runtime.atomic_folder import is_adapter_folder, read_adapter_config, weights_file
from sparsepo.runtime.errors import UserError

CARD = "README.md"
_CONFIG_SECTIONS = ("model", "data", "sft", "preferences")
_RUN_SETTINGS = ("method", "hyper", "seed", "training")
_PACKAGES = ("torch", "transformers", "peft", "accelerate")
_PRINTED_COLUMNS = ("label", "method", "params", "seeds", "variant")

_CHOSEN = "Where a method has several settings and seeds, each seed is measured at the setting that the others choose."


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its folder `results/<task>/runs/<method>/<parameters>/seed~<n>`, and its run.json.

    base: the hub id of the model that it was trained from, its adapter's base; None for a local one. revision: of it.
    """

    folder: Path
    results: Path
    task: str
    name: str
    record: dict[str, Any]
    base: str | None
    revision: str | None

    @property
    def is_adapter(self) -> bool:
        return is_adapter_folder(self.folder)


def read_run(folder: Path) -> FinishedRun:
    """Raises UserError for a folder that is none of a run, or of one that has not finished."""
    place = folder.resolve()
    if not place.is_dir():
        raise UserError(f"{folder}: no such run; write a folder such as results/<task>/runs/dpo/beta~0.1/seed~0")
    *_, task, runs, method, params, seed = ("", "", "", *place.parts)
    if runs != "runs" or not seed.removeprefix("seed~").isdecimal() or not seed.startswith("seed~"):
        raise UserError(f"{folder}: not the folder of a run, results/<task>/runs/<method>/<parameters>/seed~<n>")
    missing = [path.name for path in (place / "run.json", weights_file(place)) if not path.is_file()]
    if missing:
        raise UserError(f"{folder}: this run has not finished (it has no {missing[0]}); run Snakemake again")
    record = _read_json(place / "run.json") or {}
    base, revision = _hub_base(place, record)
    return FinishedRun(folder, place.parents[4], task, f"{method}/{params}/{seed}", record, base, revision)


def write_card(folder: Path) -> Path:
    """Write the card into the folder of the run."""
    path = folder / CARD
    path.write_text(model_card(read_run(folder)), encoding="utf-8")
    return path


def model_card(run: FinishedRun, name: str | None = None, merged_dtype: str | None = None) -> str:
    """The card as Markdown with a YAML front matter.

    name: what `from_pretrained` is given, the folder of the run without it. merged_dtype: of the plain weights that an
    adapter was merged into; None for weights as the run saved them.
    """
    method, params, seed = parse_run(run.name)
    is_adapter = run.is_adapter and merged_dtype is None
    front: dict[str, Any] = {"base_model": run.base} if run.base else {}
    front |= {"library_name": "peft" if is_adapter else "transformers", "tags": ["sparsepo", method]}
    parts = [
        f"---\n{_yaml(front)}---",
        f"# {run.task}: {_label(method)}, {params_text(params)}, seed {seed}",
        _origin(run, merged_dtype),
        "## Method",
        _method_text(method),
        "## Load it",
        f"```python\n{_loading_code(run, name or str(run.folder), is_adapter)}\n```",
        "## Results",
        *_results(run, method, params_text(params)),
        "## Notes",
        "\n".join(f"- {line}" for line in _notes(run, is_adapter)),
        "## Config",
        _config(run),
    ]
    return "\n\n".join(parts) + "\n"


def _hub_base(folder: Path, record: dict[str, Any]) -> tuple[str | None, str | None]:
    """The hub id and the revision of the base; None for a folder, a file or a model from scratch."""
    if is_adapter_folder(folder):
        config = read_adapter_config(folder)
        name = config["base_model_name_or_path"]
        is_local = Path(name).is_absolute() or Path(name).exists()
        return (None, None) if is_local else (name, config.get("revision"))
    model = record.get("config", {}).get("model", {})
    return (model.get("id"), model.get("revision")) if model.get("source") == "hub" else (None, None)


def _label(method: str) -> str:
    return METHODS[method].label if method in METHODS else method


def _origin(run: FinishedRun, merged_dtype: str | None) -> str:
    revision = f" at revision `{run.revision}`" if run.revision else ""
    base = f"`{run.base}`{revision}" if run.base else "a model that is on no hub (`model` in the config below)"
    kind = "An adapter for" if run.is_adapter else "A policy trained from"
    if merged_dtype:
        kind = f"The weights, in {merged_dtype}, of an adapter merged into"
    return f"{kind} {base}, aligned to preferences with sparsepo."


def _method_text(method: str) -> str:
    if method not in METHODS:
        return f"`{method}`: a method of a plugin; its equation and source are not known here."
    row = METHODS[method]
    return f"{row.label} (`{method}`), {row.source}:\n\n```text\n{row.equation}\n```"


def _loading_code(run: FinishedRun, name: str, is_adapter: bool) -> str:
    if not is_adapter:
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            f"model = AutoModelForCausalLM.from_pretrained({_quoted(name)})\n"
            f"tokenizer = AutoTokenizer.from_pretrained({_quoted(name)})"
        )
    base = run.base or read_adapter_config(run.folder)["base_model_name_or_path"]
    revision = f", revision={_quoted(run.revision)}" if run.revision else ""
    own_tokenizer = (run.folder / "tokenizer_config.json").is_file()
    of_tokenizer = f"{_quoted(name)}" if own_tokenizer else f"{_quoted(base)}{revision}"
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"base = AutoModelForCausalLM.from_pretrained({_quoted(base)}{revision})\n"
        f"model = PeftModel.from_pretrained(base, {_quoted(name)})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({of_tokenizer})"
    )


def _results(run: FinishedRun, method: str, params: str) -> list[str]:
    """The rows of this setting: of the grid, which chooses nothing, and of the comparison, where it stands."""
    from sparsepo.report.tables.caption import INTERVALS
    from sparsepo.report.tables.systems import PROMPTS, PROMPTS_AND_SEEDS, SEEDS, STANDARD_ERROR

    parts = []
    for file in (f"{run.task}_grid.csv", f"{run.task}.csv"):
        rows = _read_csv(run.results / "tables" / file)
        own = [row for row in rows if (row["method"], row["params"]) == (method, params)]
        if not own:
            parts.append(f"No row of this setting in `tables/{file}`.")
            continue
        seeds = int(own[0]["seeds"])
        covered = [INTERVALS[name] for name in ((PROMPTS_AND_SEEDS, SEEDS) if seeds > 1 else (PROMPTS, STANDARD_ERROR))]
        mean = f"means over {seeds} seeds, this one among them" if seeds > 1 else "of one seed"
        chosen = "" if file.endswith("_grid.csv") else " " + _CHOSEN
        parts.append(
            f"`tables/{file}`, on test prompts: {mean}. 95% intervals, {'; '.join(covered)}. KL is to the reference"
            f" model, in nats a response.{chosen}"
        )
        parts.append(_result_table(own, [row for row in rows if row["method"] == "sft"]))
    return parts


def _result_table(own: list[dict[str, str]], sft: list[dict[str, str]]) -> str:
    """A line for each measured number; beside it that of SFT, where the table has one."""
    lines = ["| measure | value | 95% interval | SFT |", "| :-- | --: | --: | --: |"]
    for row in own:
        variant = row.get("variant", "")
        before = next((other for other in sft if other.get("variant", "") == variant), {})
        for name, value in row.items():
            if value == "" or name in _PRINTED_COLUMNS or name.endswith(("_low", "_high")):
                continue
            low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
            interval = f"{low} to {high}" if low and high else "-"
            measure = f"{name} ({variant})" if variant else name
            lines.append(f"| {measure} | {value} | {interval} | {before.get(name) or '-'} |")
    return "\n".join(lines)


def _notes(run: FinishedRun, is_adapter: bool) -> list[str]:
    """What the training and the scoring noted, and what is not known."""
    from sparsepo.report.tables.render import escaped_markdown

    record, lines = run.record, []
    for name in ("pairs", "prompts"):
        if name in record:
            dropped = "; ".join(f"{count} dropped: {why}" for why, count in record[name]["dropped"].items())
            lines.append(f"trained on {record[name]['trained']} {name}; {dropped or 'none dropped'}")
    if "kept_step" in record:
        lines.append(f"weights of step {record['kept_step']}")
    packages = record.get("environment", {}).get("packages", {})
    lines.append(", ".join(f"{name} {packages[name]}" for name in _PACKAGES if name in packages) or "versions unknown")
    loading = (_read_json(run.folder / "base_loading.json") or {}) if run.is_adapter else {}
    if loading.get("quantization", "none") != "none":
        bits = f"trained on weights of the base in {loading['quantization']}"
        lines.append(bits if is_adapter else f"{bits}, merged into full precision: answers differ a little")
    scores = _read_json(run.results / run.task / "scores" / f"{run.name}.json")
    if scores is None:
        lines.append("this run has no scores")
    notes = [*record.get("notes", ()), *(scores or {}).get("notes", ())]
    return [escaped_markdown(line) for line in (*lines, *dict.fromkeys(notes))]


def _config(run: FinishedRun) -> str:
    config, settings = run.record.get("config", {}), run.record.get("settings", {})
    shown = {name: config[name] for name in _CONFIG_SECTIONS if config.get(name) is not None}
    shown |= {name: settings[name] for name in _RUN_SETTINGS if name in settings}
    if not shown:
        return "run.json has no config."
    return f"With every default written out:\n\n```yaml\n{_yaml(shown)}```"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None where there is no such file. Raises UserError for one that is broken."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; the stage that writes it has to run again")
    return content


def _read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table, with or without a byte order mark; none where there is no such file."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))
