"""The command line that the scripts of all stages share."""

from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from sparsepo.runtime.errors import UserError
from sparsepo.workflow.settings import StageSettings

HELP = {
    "checkpoint": "folder of checkpoints, from which a killed job resumes",
    "judge-cache": "folder that keeps the answers of a judge",
    "out": "the file to write, or the folder of several",
    "policy": "model folder of the policy",
    "reference": "model folder of the reference",
    "result-cache": "file that keeps finished parts, from which a killed job resumes",
}
"""What an option says of itself wherever it is used."""
RENAMED = {"kept": "result-cache", "code": "code-version", "points": "frontier", "answers": "judge-cache"}
"""Options that had another name in earlier versions."""


class _Renamed(Action):
    def __call__(self, parser, namespace, values, option_string=None):
        raise UserError(f"{option_string} is called --{RENAMED[self.dest]} now")


def stage_parser(
    description: str | None, settings: type[StageSettings], *paths: str, lists: Sequence[str] = ()
) -> ArgumentParser:
    """A parser of `--settings`, `--code-version`, and required options that take a path, or `lists` of paths.

    A script takes one option for each named input and output of its rule, see rules/common.smk.
    """
    parser = ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "--settings", type=settings.parse, default="{}", help="what this stage reads of the config, as JSON"
    )
    parser.add_argument("--code-version", default="", help="hash of the code; results of another one are not resumed")
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, required=True, help=HELP.get(name))
    for name in lists:
        parser.add_argument(f"--{name}", type=Path, nargs="+", required=True, help=HELP.get(name))
    for name in RENAMED:
        parser.add_argument(f"--{name}", action=_Renamed, nargs="*", help=SUPPRESS)
    return parser
