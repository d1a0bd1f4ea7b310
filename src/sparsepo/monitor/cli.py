"""Watch a sweep in a terminal while it runs: `python -m sparsepo.monitor.cli results/`, from any machine that sees it.

It reads files and changes none. What a state means: `sparsepo.monitor.run_state`.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sparsepo.monitor.plan_file import read_plan
from sparsepo.monitor.progress import Sweep, Task, look
from sparsepo.monitor.run_state import Driver, Run, State, look_around
from sparsepo.report.run_names import parse_run, short_params
from sparsepo.runtime.errors import run
from sparsepo.runtime.progress import duration

COLOURS = {
    State.DONE: "green",
    State.RUNNING: "cyan",
    State.QUEUED: "",
    State.STOPPED: "yellow",
    State.FAILED: "red",
}
SNAKEMAKE = {
    Driver.WORKS: "Snakemake works ({who}), for {age}",
    Driver.ENDED: "Snakemake has ended ({who})",
    Driver.GONE: "Snakemake is gone ({who}): after snakemake --unlock the same command goes on",
    Driver.UNKNOWN: "Snakemake began {age} ago ({who}); whether it works cannot be seen from here",
}
SILENT = 600.0  # seconds without a word of a run that are worth a word


def view(sweep: Sweep, console: Console, height: int | None) -> RenderableType:
    """Everything in at most `height` lines; None: as many as it takes, and each reason whole in a line of its own.

    What has no room is left out in this order: counts of single methods, then runs, with a line that says how many.
    """
    width, running, failed, end = console.width, trainings(sweep), failures(sweep), foot(sweep)
    if height is None:
        reasons = [Text(" ".join(cell.plain for cell in row).rstrip()) for row in failed]
        return Group(*head(sweep, True), *_section(running, width, None), *reasons, *end)
    whole = head(sweep, True)
    start = whole if _lines(console, [*whole, *end]) + len(running) + len(failed) <= height else head(sweep, False)
    room = height - _lines(console, [*start, *end])
    for_failed = min(len(failed), max(room // 2, room - len(running)))
    return Group(*start, *_section(running, width, room - for_failed), *_section(failed, width, for_failed), *end)


def head(sweep: Sweep, methods: bool) -> list[RenderableType]:
    """Who works since when, the counts, and a line a task of its other stages."""
    who = f"process {sweep.plan.process} on {sweep.plan.host}"
    sentence = SNAKEMAKE[sweep.snakemake].format(who=who, age=duration(sweep.age))
    if sweep.snakemake == Driver.ENDED and not sweep.whole:
        sentence += "; the same command makes what is left"
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("training runs", no_wrap=True, min_width=24)
    for state, colour in COLOURS.items():
        table.add_column(state, justify="right", header_style=colour)
    table.add_column("of", justify="right")
    for task in sweep.tasks:
        _count(table, task.name, [task])
        names = dict.fromkeys(run.name.split("/")[0] for run in task.runs) if methods else ()
        for name in names:
            _count(table, f"  {name}", [task], name)
    if len(sweep.tasks) > 1:
        _count(table, "in all", sweep.tasks)
    return [Text(f"{', '.join(sweep.plan.configs)}: {sentence}"), table, *map(_stages, sweep.tasks)]


def _count(table: Table, name: str, tasks: Sequence[Task], method: str = "") -> None:
    counts = {state: sum(task.count(state, method) for task in tasks) for state in State}
    cells = [Text(str(count), style=COLOURS[state] if count else "dim") for state, count in counts.items()]
    table.add_row(name, *cells, str(sum(counts.values())), style="dim" if method else "")


def _stages(task: Task) -> Text:
    """The other stages: those that are over by name, the others with their counts."""
    over = ", ".join(part.name for part in task.parts if part.done == part.of)
    going = ", ".join(f"{part.name} {part.done} of {part.of}" for part in task.parts if part.done < part.of)
    told = "; ".join(filter(None, (f"{over} done" if over else "", going)))
    return Text(f"{task.name}: {told or 'no other stages'}")


def foot(sweep: Sweep) -> list[RenderableType]:
    """What is left in all, while somebody works on it."""
    waits = any(task.count(state) for task in sweep.tasks for state in (State.QUEUED, State.RUNNING, State.STOPPED))
    if not waits or sweep.over:
        return []
    left = "time left is known after the first steps" if sweep.left is None else f"about {duration(sweep.left)} left"
    return [Text(f"training: {left}")]


def trainings(sweep: Sweep) -> list[list[Text]]:
    """A heading and a row for each run that trains; nothing where none does."""
    rows = [
        _cells(name, run, left)
        for task, names in zip(sweep.tasks, _names(sweep), strict=True)
        for name, run, left in zip(names, task.runs, task.lefts, strict=True)
        if run.state == State.RUNNING
    ]
    heading = ("running", "step", "loss", "margin", "acc.", "reward", "left")
    return [[Text(word, style="cyan") for word in heading], *rows] if rows else []


def _cells(name: str, run: Run, left: float | None) -> list[Text]:
    step = "starting" if run.step is None else f"{run.step}/{'?' if run.steps is None else run.steps}"
    values = zip((run.loss, run.margin, run.accuracy, run.reward), (3, 3, 2, 3), strict=True)
    numbers = ["" if value is None else f"{value:.{digits}f}" for value, digits in values]
    silent = run.silent >= SILENT
    last = f"silent {duration(run.silent)}" if silent else "" if left is None else duration(left)
    return [Text(name), *map(Text, (step, *numbers)), Text(last, style="yellow" if silent else "")]


def failures(sweep: Sweep) -> list[list[Text]]:
    """A heading and a row for each job that failed, with its reason; nothing where none did."""
    rows = []
    for task, names in zip(sweep.tasks, _names(sweep), strict=True):
        rows += [(name, run.reason) for name, run in zip(names, task.runs, strict=True) if run.state == State.FAILED]
        rows += [
            (f"{part.name} of {task.name} {item}".strip(), reason)
            for part in task.parts
            for item, reason in part.failed.items()
        ]
    found = [[Text(name), Text(reason)] for name, reason in rows]
    return [[Text("failed", style="red"), Text("")], *found] if found else []


def _names(sweep: Sweep) -> list[list[str]]:
    """A run by its method and what differs among the runs of that; by its task too where there are several."""
    found = []
    for task in sweep.tasks:
        parsed = [parse_run(run.name) for run in task.runs]
        values: dict[tuple[str, str], set[str]] = {}
        for method, params, seed in parsed:
            for name, value in (*params.items(), ("seed", str(seed))):
                values.setdefault((method, name), set()).add(value)
        names = []
        for method, params, seed in parsed:
            every = params | {"seed": str(seed)}
            differ = [name for name in every if len(values[method, name]) > 1]
            told = f" {short_params(every, differ)}" if differ else ""
            names.append(f"{task.name} " * (len(sweep.tasks) > 1) + method + told)
        found.append(names)
    return found


def short(name: str, most: int) -> str:
    """A name of at most so many signs: what leaves stands in its method, as its end tells runs apart."""
    start = max(0, most - 1) // 3
    return name if len(name) <= most else f"{name[:start]}…{name[len(name) - (most - 1 - start) :]}"


def _section(rows: Sequence[Sequence[Text]], width: int, room: int | None) -> list[RenderableType]:
    """A heading and rows below it, in at most `room` lines, None: in as many as there are.

    The name of a run gives way: to numbers as far as they need, to a reason up to half of the line.
    """
    if not rows or (room is not None and room < 2):
        return []
    fits = room is None or len(rows) <= room
    shown = rows if fits else rows[: room - 1]
    others = [max(len(row[place]) for row in shown) for place in range(1, len(rows[0]))]
    most = width - sum(others) - len(others) if len(others) > 1 else width // 2
    names = [Text(short(row[0].plain, most), style=row[0].style) for row in shown]
    longest = max(map(len, names))
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, min_width=longest)
    for _ in others:
        side = "right" if len(others) > 1 else "left"
        table.add_column(justify=side, no_wrap=True, overflow="ellipsis", max_width=width - longest - 1)
    for name, row in zip(names, shown, strict=True):
        table.add_row(name, *row[1:])
    return [table] if fits else [table, Text(f"and {len(rows) - len(shown)} more")]


def _lines(console: Console, parts: Sequence[RenderableType]) -> int:
    return len(console.render_lines(Group(*parts), pad=False))


def follow(results: Path, every: float, console: Console) -> None:
    """Draw again and again until nothing will change or somebody presses Ctrl-C."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            sweep = look(results, read_plan(results), look_around())
            live.update(view(sweep, console, console.height - 1), refresh=True)
            if sweep.over:
                return
            time.sleep(every)


def seconds(text: str) -> float:
    """A positive number of the command line."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, not {text}")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="the folder of the results; logs/ is looked for beside it")
    parser.add_argument("--every", type=seconds, default=5.0, metavar="SECONDS", help="between two looks (5)")
    parser.add_argument("--once", action="store_true", help="one look, as where the output is no terminal")
    options = parser.parse_args()
    console = Console(highlight=False)
    try:
        if console.is_terminal and not options.once:
            return follow(options.results, options.every, console)
        sweep = look(options.results, read_plan(options.results), look_around())
        screen = console.is_terminal
        console.print(view(sweep, console, console.height - 1 if screen else None), soft_wrap=not screen)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    run(main)
