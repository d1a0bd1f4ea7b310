"""Write, check and look at a config, watch what runs, talk to policies and publish them. Snakemake runs the jobs."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from sparsepo.cli.templates import TEMPLATES, write_template
from sparsepo.runtime.entry_point import run_main


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `run` is the function of the verb. A verb imports what it needs when it runs."""
    parser = argparse.ArgumentParser(prog="sparsepo", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="init | check | show | watch | track | chat | card | push")

    init = verbs.add_parser("init", help="write a config to start from")
    what = init.add_mutually_exclusive_group(required=True)
    what.add_argument("template", nargs="?", choices=TEMPLATES, help="the kind of data")
    what.add_argument("--list", action="store_true", help="list the templates")
    init.set_defaults(run=run_init)

    check = verbs.add_parser("check", help="check a config and its data: warnings, and what differences it can show")
    check.set_defaults(run=run_check)
    show = verbs.add_parser("show", help="show the first pairs as tokens, with lengths, what is dropped and why")
    for verb in (check, show):
        verb.add_argument("config", type=Path, nargs="+", help="config files; a later one replaces values")
    show.add_argument("--task", help="one task of the config; all without it")
    show.add_argument("--count", type=int, default=3, help="number of pairs (default: 3)")
    show.add_argument("--all", action="store_true", help="all pairs")
    show.add_argument(
        "--json", action="store_true", help="token ids and texts as JSON; several tasks: an object by task"
    )
    show.set_defaults(run=run_show)

    watch = verbs.add_parser("watch", help="show what is done, running, queued or failed and why, and the time left")
    watch.add_argument("results", type=Path, help="the folder of the results; logs/ is expected beside it")
    watch.add_argument(
        "--every", type=positive_seconds, default=5.0, metavar="SECONDS", help="between two looks (default: 5)"
    )
    watch.add_argument("--once", action="store_true", help="print one view, as where the output is no terminal")
    watch.set_defaults(run=run_watch)

    track = verbs.add_parser("track", help="send curves and tables to trackers; a second call sends what is new")
    track.add_argument("config", type=Path, nargs="+", help="config files; a later one replaces values")
    track.add_argument("--results", type=Path, default=Path("results"), help="folder of the results (default: results)")
    track.add_argument("--follow", type=int, metavar="PID", help="send until this process has ended, as of Snakemake")
    track.add_argument(
        "--overrides", type=json.loads, default={}, metavar="JSON", help="values that replace those of the files"
    )
    track.set_defaults(run=run_track)

    chat = verbs.add_parser("chat", help="talk to trained policies, side by side")
    chat.add_argument(
        "policies", type=Path, nargs="+", metavar="RUN", help="folders of policies, as in results/<task>/runs/"
    )
    chat.add_argument(
        "--max-new-tokens", type=positive_count, default=128, help="tokens of an answer at most (default: 128)"
    )
    chat.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    chat.set_defaults(run=run_chat)

    card = verbs.add_parser("card", help="print the model card of a finished run")
    card.add_argument("--write", action="store_true", help="write it as README.md into the folder of the run")
    card.set_defaults(run=run_card)
    push = verbs.add_parser("push", help="upload the policy of a finished run to a repository of the hub")
    for verb in (card, push):
        verb.add_argument("folder", type=Path, metavar="RUN", help="results/<task>/runs/<method>/<parameters>/seed~<n>")
    push.add_argument("--to", required=True, metavar="ORG/NAME", help="the repository; a new one is private")
    push.add_argument("--public", action="store_true", help="a repository that everybody can read")
    push.add_argument("--merge", action="store_true", help="plain weights: the adapter merged into its base")
    push.set_defaults(run=run_push)
    return parser.parse_args(arguments)


def positive_seconds(text: str) -> float:
    """A positive number of the command line."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, not {text}")
    return value


def positive_count(text: str) -> int:
    """A whole number above 0 of the command line."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return value


def run_init(options: argparse.Namespace) -> None:
    if options.list:
        for name, description in TEMPLATES.items():
            print(f"{name:8} {description}")
        return
    written = write_template(options.template, Path.cwd())
    print(f"wrote {' and '.join(written)}")
    workflow = Path(__file__).parents[3] / "Snakefile"
    where = f"-s {workflow} " * (workflow.is_file() and not Path("Snakefile").exists())
    print(f"next: edit it, then: sparsepo check {written[0]}; snakemake {where}--cores 2 --configfile {written[0]}")


def run_check(options: argparse.Namespace) -> None:
    from sparsepo.preview.cli import check

    check(options.config)


def run_show(options: argparse.Namespace) -> None:
    from sparsepo.preview.cli import show

    show(options.config, options.task, None if options.all else options.count, as_json=options.json)


def run_watch(options: argparse.Namespace) -> None:
    from sparsepo.monitor.cli import watch

    watch(options.results, options.every, once=options.once)


def run_track(options: argparse.Namespace) -> None:
    from sparsepo.monitor.tracking import track

    track(options.config, options.overrides, options.results, options.follow)


def run_chat(options: argparse.Namespace) -> None:
    from sparsepo.cli.chat import chat

    chat(options.policies, options.max_new_tokens, options.seed)


def run_card(options: argparse.Namespace) -> None:
    from sparsepo.cli.card import model_card, read_run, write_card

    if options.write:
        print(f"wrote {write_card(options.folder)}")
    else:
        print(model_card(read_run(options.folder)), end="")


def run_push(options: argparse.Namespace) -> None:
    from sparsepo.cli.push import push

    print(f"uploaded to {push(options.folder, options.to, merge=options.merge, public=options.public)}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    options.run(options)


def entry() -> None:
    """The console script `sparsepo`."""
    run_main(main)
