"""Make a run of its rounds: the policy of the last one, and the logs of all."""

import argparse
import json
import shutil
from pathlib import Path

from sparsepo.data.records import read_rows, write_json, write_records
from sparsepo.runtime.atomic_folder import atomic_folder
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.iterations import join_logs, join_records

LOGS = ("dynamics.jsonl", "frontier.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=Path, nargs="+", required=True, help="folders of the policies, in their order")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with atomic_folder(options.out) as place:
        for path in options.rounds[-1].iterdir():
            if path.is_file() and path.name not in (*LOGS, "run.json"):
                shutil.copyfile(path, place / path.name)
    for name in LOGS:
        write_records(options.out / name, join_logs([read_rows(folder / name) for folder in options.rounds]))
    records = [json.loads((folder / "run.json").read_text()) for folder in options.rounds]
    write_json(options.out / "run.json", join_records(records))


if __name__ == "__main__":
    run_main(main)
