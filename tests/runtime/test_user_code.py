"""Functions of the user are found without running them, and their errors name the user's own file and line."""

import importlib
import subprocess
import sys

import pytest

from sparsepo.runtime.errors import UserError
from sparsepo.runtime.user_code import (
    ALL_COLUMNS,
    find_function,
    import_source,
    load_function,
    parameters_of,
    used_files,
    user_error,
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def write(folder, name, text):
    (folder / name).write_text(text)
    importlib.invalidate_caches()
    return f"{name}:f"


def test_looking_for_a_function_runs_nothing(folder):
    reference = write(folder, "loud.py", "raise SystemExit('ran')\ndef f(): pass\n")
    assert find_function(reference).name == "f"


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        ("def f(): pass", "other.py:f", r"no such file: other.py \(relative to the folder of the config\)"),
        ("def score(): pass", "mine.py:scor", "mine.py has no function 'scor'; allowed: score; did you mean 'score'"),
        ("def f(:", "mine.py:f", "mine.py:1: not valid Python"),
        ("async def f(): pass", "mine.py:f", "mine.py:1: 'f' is asynchronous: write def, not async def"),
        ("", "mine.py", "must be file.py:function or package.module:function, not 'mine.py'"),
        ("", "mine.py:f g", "must be file.py:function"),
        ("", "no.such.module:f", "no module 'no.such.module' is installed"),
    ],
)
def test_what_is_no_function_is_refused(folder, text, reference, message):
    write(folder, "mine.py", text)
    with pytest.raises(UserError, match=message):
        find_function(reference)


@pytest.mark.parametrize(
    ("signature", "columns", "needed"),
    [
        ("prompts, responses", (), ()),
        ("p, r, a, b=1", ("a", "b"), ("a",)),
        ("p, r, *, a, b=None", ("a", "b"), ("a",)),
        ("p, r, **columns", (ALL_COLUMNS,), ()),
        ("*everything, a", ("a",), ("a",)),
    ],
)
def test_columns_are_read_off_the_signature(folder, signature, columns, needed):
    reference = write(folder, "mine.py", f"def f({signature}): pass")
    assert parameters_of(reference, ("prompts", "responses")) == (columns, needed)


@pytest.mark.parametrize("signature", ["r", "responses, prompts", "prompts, keyword, responses", "p, *, responses"])
def test_a_function_without_the_two_parameters_at_their_places_is_refused(folder, signature):
    reference = write(folder, "mine.py", f"def f({signature}): pass")
    with pytest.raises(UserError, match=r"mine.py:1: 'f' must take \(prompts, responses\) in this order, and columns"):
        parameters_of(reference, ("prompts", "responses"))


def test_a_module_of_an_installed_package_needs_no_file_beside_the_config():
    assert load_function("statistics:fmean")([1, 2]) == 1.5


def test_files_that_are_imported_from_the_same_folder_count_in_turn(folder):
    write(folder, "first.py", "import json, second\n")
    write(folder, "second.py", "def g():\n    from third import x\n")
    write(folder, "third.py", "import first\n")
    write(folder, "other.py", "")
    assert {path.name for path in used_files(folder / "first.py")} == {"first.py", "second.py", "third.py"}


def test_two_files_of_one_name_in_two_folders_are_two_modules(folder):
    values = []
    for name in ("a", "b"):
        (folder / name).mkdir()
        write(folder / name, "samename.py", f"def f(): return {name!r}")
        values.append(load_function(f"{name}/samename.py:f")())
    assert values == ["a", "b"]
    write(folder, "json.py", "def f(): return 'mine'")
    assert load_function("json.py:f")() == "mine"
    import json

    assert hasattr(json, "dumps") and sys.modules["json"] is json


def test_a_file_is_imported_once(folder):
    write(folder, "counts.py", "import helper_of_counts\n")
    write(folder, "helper_of_counts.py", "state = []\n")
    module = import_source("counts.py")
    assert import_source(str(folder / "counts.py")) is module
    assert import_source("helper_of_counts.py") is module.helper_of_counts


def test_an_error_names_the_innermost_line_of_the_user(folder):
    reference = write(folder, "raises.py", "import json\n\ndef f(text):\n    return json.loads(text)\n")
    function = load_function(reference)
    with pytest.raises(ValueError) as caught:
        function("{")
    line, traceback = user_error(caught.value)
    assert line.startswith(f"{folder / 'raises.py'}:4: in f: `return json.loads(text)`: JSONDecodeError: Expecting")
    assert traceback.startswith("Traceback of your code") and "test_user_code" not in traceback.split("raises.py")[1]


def test_an_error_of_the_package_is_not_one_of_the_user(folder):
    write(folder, "calm.py", "")
    import_source("calm.py")
    with pytest.raises(ValueError) as caught:
        int("x")
    assert user_error(caught.value) is None


def test_an_error_while_a_file_is_imported_is_one_line(folder, capsys):
    write(folder, "broken.py", "VALUE = 1 / 0\n")
    with pytest.raises(UserError, match=r"broken.py:1: in <module>: `VALUE = 1 / 0`: ZeroDivisionError: division"):
        import_source("broken.py")
    assert "broken.py" in capsys.readouterr().err


def test_a_job_ends_with_one_line_and_the_traceback_of_the_user(folder):
    reference = write(folder, "fails.py", "def f():\n    return {}['key']\n")
    code = (
        "from sparsepo.runtime.entry_point import run_main\nfrom sparsepo.runtime.user_code import load_function\n"
        f"run_main(load_function({reference!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines[-1].endswith("fails.py:2: in f: `return {}['key']`: KeyError: 'key'") and lines[-1].startswith(
        "error:"
    )
    assert not [line for line in lines if "entry_point" in line] and len(lines) <= 6
