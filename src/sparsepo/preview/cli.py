"""`sparsepo show CONFIG` and `sparsepo check CONFIG`: what a config would train on, in seconds and without a GPU."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparsepo.config.loading import load_config
from sparsepo.data.encoding import Encoder, TokenPair
from sparsepo.preview.preview import Preview, power_sentence, preview_task
from sparsepo.runtime.errors import UserError

SHADES = ("on grey19", "on grey27")
"""Two tokens side by side differ in their background."""
BARS = 8
MAX_CHARACTER_BYTES = 4
"""Of a character in UTF-8, which byte-level tokenizers may divide into as many tokens."""


def check(configs: Sequence[Path]) -> None:
    """Print what the data of each task are, warnings, and the smallest difference that it can show."""
    for name, task in load_config(configs).tasks.items():
        print_findings(name, preview_task(task))
        print(f"{name}: {power_sentence(task)}")


def show(configs: Sequence[Path], task: str | None, count: int | None, *, as_json: bool) -> None:
    """Print the first `count` pairs (None: all) of a task (None: of each). Raises UserError for an unknown task."""
    tasks = load_config(configs).tasks
    if task is not None:
        if task not in tasks:
            raise UserError(f"no task '{task}'; the config has {', '.join(tasks)}")
        tasks = {task: tasks[task]}
    previews = {name: preview_task(task) for name, task in tasks.items()}
    if as_json:
        by_task = {name: preview.as_dict(count) for name, preview in previews.items()}
        print(json.dumps(by_task if len(by_task) > 1 else next(iter(by_task.values())), ensure_ascii=False))
        return
    console = Console(highlight=False)
    for name, preview in previews.items():
        show_task(console, name, preview, count)


def print_findings(name: str, preview: Preview) -> None:
    """One line for what a task has, and one for each warning."""
    what = (
        f"{len(preview.pairs)} pairs" if preview.pairs else f"{len(preview.prompts)} prompts; pairs are sampled first"
    )
    print(f"{name}: {what}")
    for reason, count in preview.dropped.items():
        print(f"{name}: dropped {count}: {reason}")
    for warning in preview.warnings:
        print(f"{name}: warning: {warning}")


def show_task(console: Console, name: str, preview: Preview, count: int | None) -> None:
    """The first pairs, or prompts, of a task as coloured tokens; lengths; findings."""
    console.rule(name)
    console.print(
        Text.assemble(
            ("prompt", "dim"), "  ", ("response, trained on", "bold green"), "  ", ("special token", "bold magenta"),
            "  │ boundary of prompt and response",
        )
    )  # fmt: skip
    for record, ids in preview.pairs[:count]:
        for side in ("chosen", "rejected"):
            console.print(Text(f"{side}:", style="bold"), pair_text(preview.encoder, ids, side))
        if record.rendered:
            console.print(Text("rendered chat: ", style="bold"), Text(repr(record.prompt + record.chosen), style="dim"))
    for prompt in preview.prompts[: 0 if preview.pairs else count]:
        console.print(
            Text("prompt:", style="bold"), tokens_text(preview.encoder, preview.encoder.prompt_ids(prompt), "dim")
        )
    console.print(length_table(preview))
    print_findings(name, preview)


def pair_text(encoder: Encoder, ids: TokenPair, side: str) -> Text:
    """The tokens of a prompt and one of its responses, in colours."""
    before = ids.prompts[side == "rejected"]
    prompt, response = tokens_text(encoder, before, "dim"), tokens_text(encoder, getattr(ids, side), "bold green")
    cut = "" if getattr(ids, side)[-1] in encoder.end_ids else " … (no end token)"
    return Text.assemble(prompt, ("│", "bold yellow"), response, (cut, "yellow"))


def tokens_text(encoder: Encoder, ids: Sequence[int], style: str) -> Text:
    """Each token as it decodes alone, on a background of its own; tokens that share a character are one piece."""
    special = set(encoder.tokenizer.all_special_ids) | set(encoder.tokenizer.added_tokens_decoder)
    pieces, group = [], []
    for place, token in enumerate(ids, 1):
        group.append(token)
        text = encoder.tokenizer.decode(group) or encoder.tokenizer.convert_ids_to_tokens(token)
        if text.endswith("\ufffd") and len(group) < MAX_CHARACTER_BYTES and place < len(ids):
            continue
        shown = text.replace("\n", "⏎").replace("\t", "⇥")
        pieces.append((shown, f"{'bold magenta' if token in special else style} {SHADES[len(pieces) % 2]}"))
        group = []
    return Text.assemble(*pieces)


def length_table(preview: Preview) -> Table:
    """How many prompts and responses have how many tokens."""
    lengths = {part: [len(getattr(ids, part)) for _, ids in preview.pairs] for part in ("prompt", "chosen", "rejected")}
    if not preview.pairs:
        lengths = {"prompt": [len(preview.encoder.prompt_ids(prompt)) for prompt in preview.prompts]}
    longest = max((length for values in lengths.values() for length in values), default=1)
    width = -(-longest // BARS)
    table = Table("tokens", *lengths, title="lengths")
    for start in range(0, BARS * width, width):
        counts = [sum(start < length <= start + width for length in values) for values in lengths.values()]
        shares = [count / max(1, len(values)) for count, values in zip(counts, lengths.values(), strict=True)]
        bars = (f"{count:>6} {'█' * round(20 * share)}" for count, share in zip(counts, shares, strict=True))
        table.add_row(f"{start + 1}-{start + width}", *bars)
    return table
