"""Watch a sweep in a terminal while it runs: `sparsepo watch results/`.

It works on any machine that sees the folder, reads files and changes none. `sparsepo.monitor.job_state` has the rules.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sparsepo.monitor.job_state import Job, Machine, SnakemakeState, State
from sparsepo.monitor.plan_file import read_plan
from sparsepo.monitor.sweep import Sweep, Task, read_sweep
from sparsepo.report.run_names import parse_run, short_params
from sparsepo.runtime.progress import format_duration

COLOURS = {State.DONE: "green", State.RUNNING: "cyan", State.QUEUED: "", State.STOPPED: "yellow", State.FAILED: "red"}
SNAKEMAKE = {
    SnakemakeState.RUNNING: "Snakemake is running ({process}), for {age}",
    SnakemakeState.ENDED: "Snakemake has ended ({process})",
    SnakemakeState.KILLED: "Snakemake was killed ({process}): run snakemake --unlock, then the same command again",
    SnakemakeState.UNKNOWN: "Snakemake started {age} ago ({process}); whether it is running cannot be seen from here",
}
LOGGED = {"loss": ("loss", 3), "margin": ("reward_margin", 3), "acc.": ("reward_accuracy", 2), "reward": ("reward", 3)}
"""Column -> metric of a status file, and its digits."""
UNKNOWN_TIME = "training: time left is known after the first steps"
SILENT = 600.0  # seconds after which a run that has written nothing is called silent


def view(sweep: Sweep, console: Console, height: int | None) -> RenderableType:
    """The whole view in at most `height` lines; None: in as many as it takes, with error messages in full.

    What has no room is left out in this order: counts of single methods, then runs, with a line that says how many.
    """
    width, running, failed, last = console.width, running_rows(sweep), failed_rows(sweep), summary(sweep)
    if height is None:
        errors = [Text(" ".join(cell.plain for cell in row).rstrip()) for row in failed]
        return Group(*overview(sweep, True), *_section(running, width, None), *errors, *last)
    first = overview(sweep, True)
    if _line_count(console, [*first, *last]) + len(running) + len(failed) > height:
        first = overview(sweep, False)
    room = height - _line_count(console, [*first, *last])
    for_failed = min(len(failed), max(room // 2, room - len(running)))
    sections = _section(running, width, room - for_failed), _section(failed, width, for_failed)
    return Group(*first, *sections[0], *sections[1], *last)


def overview(sweep: Sweep, methods: bool) -> list[RenderableType]:
    """The state of Snakemake, the counts of runs by task (and method), and a line a task with its other stages."""
    process = f"process {sweep.plan.process} on {sweep.plan.host}"
    line = SNAKEMAKE[sweep.snakemake].format(process=process, age=format_duration(sweep.age))
    if sweep.snakemake == SnakemakeState.ENDED and not sweep.is_complete:
        line += "; the same command makes what is left"
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("training runs", no_wrap=True, min_width=24)
    for state, colour in COLOURS.items():
        table.add_column(state, justify="right", header_style=colour)
    table.add_column("of", justify="right")
    for task in sweep.tasks:
        _add_counts(table, task.name, [task])
        for method in dict.fromkeys(run.method for run in task.runs) if methods else ():
            _add_counts(table, f"  {method}", [task], method)
    if len(sweep.tasks) > 1:
        _add_counts(table, "in all", sweep.tasks)
    return [Text(f"{', '.join(sweep.plan.configs)}: {line}"), table, *map(_other_stages, sweep.tasks)]


def _add_counts(table: Table, name: str, tasks: Sequence[Task], method: str = "") -> None:
    counts = {state: sum(task.count(state, method) for task in tasks) for state in State}
    cells = [Text(str(count), style=COLOURS[state] if count else "dim") for state, count in counts.items()]
    table.add_row(name, *cells, str(sum(counts.values())), style="dim" if method else "")


def _other_stages(task: Task) -> Text:
    """The stages beside training: those that are done by name, the others with their counts."""
    done = ", ".join(stage.name for stage in task.stages if stage.done == stage.total)
    others = [f"{stage.name} {stage.done} of {stage.total}" for stage in task.stages if stage.done < stage.total]
    parts = filter(None, (f"{done} done" if done else "", ", ".join(others)))
    return Text(f"{task.name}: {'; '.join(parts) or 'no other stages'}")


def summary(sweep: Sweep) -> list[RenderableType]:
    """The time left, while there is something to wait for."""
    waits = any(task.count(state) for task in sweep.tasks for state in (State.QUEUED, State.RUNNING, State.STOPPED))
    if not waits or sweep.is_over:
        return []
    left = sweep.seconds_left
    return [Text(f"training: about {format_duration(left)} left" if left is not None else UNKNOWN_TIME)]


def running_rows(sweep: Sweep) -> list[list[Text]]:
    """A heading and a row for each run that trains; nothing where none does."""
    named = [item for task in sweep.tasks for item in _named_runs(sweep, task)]
    rows = [_running_row(name, run) for name, run in named if run.state == State.RUNNING]
    heading = ("running", "step", *LOGGED, "left")
    return [[Text(word, style="cyan") for word in heading], *rows] if rows else []


def _running_row(name: str, run: Job) -> list[Text]:
    status, left = run.status, run.seconds_left
    step = "starting" if status is None or status.step is None else f"{status.step}/{status.steps}"
    values = [(status.metrics.get(metric) if status else None, digits) for metric, digits in LOGGED.values()]
    numbers = ["" if value is None else f"{value:.{digits}f}" for value, digits in values]
    is_silent = run.silent >= SILENT
    last = f"silent {format_duration(run.silent)}" if is_silent else "" if left is None else format_duration(left)
    return [Text(name), *map(Text, (step, *numbers)), Text(last, style="yellow" if is_silent else "")]


def failed_rows(sweep: Sweep) -> list[list[Text]]:
    """A heading and a row for each job that failed, with its error; nothing where none did."""
    errors = []
    for task in sweep.tasks:
        errors += [(name, run.error) for name, run in _named_runs(sweep, task) if run.state == State.FAILED]
        for stage in task.stages:
            errors += [(f"{stage.name} of {task.name} {item}".strip(), error) for item, error in stage.errors.items()]
    rows = [[Text(name), Text(error)] for name, error in errors]
    return [[Text("failed", style="red"), Text("")], *rows] if rows else []


def _named_runs(sweep: Sweep, task: Task) -> list[tuple[str, Job]]:
    """Each run, named by its method and the parameters that differ among its runs, after the task if several."""
    parsed = [parse_run(run.item) for run in task.runs]
    all_params = [{**params, "seed": str(seed)} for _, params, seed in parsed]
    values: dict[tuple[str, str], set[str]] = {}
    for run, params in zip(task.runs, all_params, strict=True):
        for name, value in params.items():
            values.setdefault((run.method, name), set()).add(value)
    named = []
    for run, params in zip(task.runs, all_params, strict=True):
        differing = [name for name in params if len(values[run.method, name]) > 1]
        suffix = f" {short_params(params, differing)}" if differing else ""
        named.append((f"{task.name} " * (len(sweep.tasks) > 1) + run.method + suffix, run))
    return named


def shorten(name: str, most: int) -> str:
    """A name of at most `most` characters. A part of its method is left out, as its end tells runs apart."""
    start = max(0, most - 1) // 3
    return name if len(name) <= most else f"{name[:start]}…{name[len(name) - (most - 1 - start) :]}"


def _section(rows: Sequence[Sequence[Text]], width: int, room: int | None) -> list[RenderableType]:
    """A heading and rows below it, in at most `room` lines; None: in as many as there are.

    Names of runs are shortened: to leave the numbers what they need, or an error message half of the line.
    """
    if not rows or (room is not None and room < 2):
        return []
    fits = room is None or len(rows) <= room
    visible = rows if fits else rows[: room - 1]
    widths = [max(len(row[column]) for row in visible) for column in range(1, len(rows[0]))]
    most = width - sum(widths) - len(widths) if len(widths) > 1 else width // 2
    names = [Text(shorten(row[0].plain, most), style=row[0].style) for row in visible]
    longest = max(map(len, names))
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, min_width=longest)
    for _ in widths:
        side = "right" if len(widths) > 1 else "left"
        table.add_column(justify=side, no_wrap=True, overflow="ellipsis", max_width=width - longest - 1)
    for name, row in zip(names, visible, strict=True):
        table.add_row(name, *row[1:])
    return [table] if fits else [table, Text(f"and {len(rows) - len(visible)} more")]


def _line_count(console: Console, parts: Sequence[RenderableType]) -> int:
    return len(console.render_lines(Group(*parts), pad=False))


def follow(results: Path, every: float, console: Console) -> None:
    """Draw again and again until nothing will change or somebody presses Ctrl-C."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            sweep = read_sweep(results, read_plan(results), Machine())
            live.update(view(sweep, console, console.height - 1), refresh=True)
            if sweep.is_over:
                return
            time.sleep(every)


def watch(results: Path, every: float, *, once: bool) -> None:
    """Show a sweep until it is over, or one view: where the output is no terminal, or `once`."""
    console = Console(highlight=False)
    try:
        if console.is_terminal and not once:
            return follow(results, every, console)
        sweep = read_sweep(results, read_plan(results), Machine())
        height = console.height - 1 if console.is_terminal else None
        console.print(view(sweep, console, height), soft_wrap=height is None)
    except KeyboardInterrupt:
        pass
