"""The command line that the scripts of all stages share."""

import json
from argparse import SUPPRESS, Action, ArgumentParser
from pathlib import Path

from sparsepo.methods.plugins import load_plugins_of_job
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.settings import StageSettings

HELP = {
    "cache": "cached outputs of the reference",
    "checkpoint": "folder of checkpoints, from which a killed job resumes",
    "code-versions": "of each run, as JSON",
    "config": "of the task as JSON, for the record",
    "iteration": "number of the round, from 1",
    "judge-cache": "folder that keeps the answers of a judge",
    "kind": "states, logps or weights~READING~ACTIVATION_SITES",
    "out": "the file to write, or the folder of several",
    "policy": "model folder of the policy",
    "reference": "model folder of the reference",
    "result-cache": "file that keeps finished parts, from which a killed job resumes",
    "runs": "folder of the runs of a task",
    "validation": "prompts or pairs to validate on",
}
TYPES = {"code-versions": json.loads, "config": json.loads, "iteration": int, "kind": str}
RENAMED = {"kept": "result-cache", "code": "code-version", "points": "frontier", "answers": "judge-cache"}
"""Options that had another name in earlier versions."""


class _Renamed(Action):
    def __call__(self, parser, namespace, values, option_string=None):
        raise UserError(f"{option_string} is called --{RENAMED[self.dest]} now")


class _Settings(Action):
    def __call__(self, parser, namespace, values, option_string=None):
        namespace.settings = self.const.parse("".join(values))


def stage_parser(description: str | None, settings: type[StageSettings], usage: str) -> ArgumentParser:
    """A parser of `--settings`, `--code-version`, and the options of a usage line, most of which take a path.

    Of `pairs scores... [prompts]` the first takes one, the second one or more, and the third may be left out.
    The plugins of the config are imported first, as settings may name their methods.
    A script takes one option for each named input and output of its rule, see rules/common.smk.
    """
    load_plugins_of_job()
    parser = ArgumentParser(description=description, allow_abbrev=False)
    about = "what this stage reads of the config, as JSON; a long one in parts"
    parser.add_argument("--settings", action=_Settings, nargs="+", const=settings, required=True, help=about)
    parser.add_argument("--code-version", default="", help="hash of the code; results of another one are not resumed")
    for word in usage.split():
        name, is_optional = word.strip("[]."), word.startswith("[")
        several = {"nargs": "*" if is_optional else "+", "default": []} if "..." in word else {}
        kind = TYPES.get(name, Path)
        parser.add_argument(f"--{name}", type=kind, required=not is_optional, help=HELP.get(name), **several)
    for name in RENAMED:
        parser.add_argument(f"--{name}", action=_Renamed, nargs="*", help=SUPPRESS)
    return parser
