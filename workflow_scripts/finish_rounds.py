"""Make a run of its rounds: the policy of the last one, and the logs of all."""

import shutil

from sparsepo.data.records import read_json, read_rows, write_json, write_records
from sparsepo.runtime.atomic_folder import atomic_folder
from sparsepo.runtime.entry_point import run_main
from sparsepo.runtime.files import check_folder
from sparsepo.training.iterations import join_logs, join_records
from sparsepo.workflow.script_options import stage_parser
from sparsepo.workflow.settings import StageSettings

LOGS = ("dynamics.jsonl", "frontier.jsonl")


def main() -> None:
    options = stage_parser(__doc__, StageSettings, "rounds... out").parse_args()
    folders = [weights.parent for weights in options.rounds]
    check_folder(folders[-1])
    with atomic_folder(options.out) as place:
        for path in folders[-1].iterdir():
            if path.is_file() and path.name not in (*LOGS, "run.json"):
                shutil.copyfile(path, place / path.name)
    for name in LOGS:
        write_records(options.out / name, join_logs([read_rows(folder / name) for folder in folders]))
    write_json(options.out / "run.json", join_records([read_json(folder / "run.json") for folder in folders]))


if __name__ == "__main__":
    run_main(main)
