"""Notes which functions of the project a job calls; lies as sitecustomize.py where the Python of the jobs finds it.

Each process that runs a workflow script writes a JSON file to the folder NOTE_FUNCTIONS: its arguments, and (file,
name) of every top-level function or class whose code was called, but not of what runs while a module is imported.
"""

import atexit
import json
import os
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = (f"{ROOT}/src/sparsepo/", f"{ROOT}/workflow_scripts/")
IS_FUNCTION = 1  # the flag CO_OPTIMIZED; the body of a class is code without it

called = set()
known = {}


def note(frame, event, argument):
    code = frame.f_code
    is_ours = code.co_filename.startswith(PLACES) and code.co_filename.endswith(".py")  # not a template of the page
    if id(code) not in known and is_ours and code.co_flags & IS_FUNCTION and not runs_in_an_import(frame.f_back):
        known[id(code)] = code
        called.add((str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname.split(".")[0]))


def runs_in_an_import(frame):
    while frame and not (frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(PLACES[0])):
        frame = frame.f_back
    return frame is not None


def write():
    sys.settrace(None)
    if Path(sys.argv[0]).parent.name == "workflow_scripts":
        job = {"arguments": sys.argv, "called": sorted(called)}
        (Path(os.environ["NOTE_FUNCTIONS"]) / f"{os.getpid()}.json").write_text(json.dumps(job))


if "NOTE_FUNCTIONS" in os.environ:
    atexit.register(write)
    threading.settrace(note)
    sys.settrace(note)
