"""Files are UTF-8, whatever the locale of the machine."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "workflow_scripts").glob("*.py"), ROOT / "Snakefile"]
SOURCES += [*(ROOT / "rules").glob("*.smk"), *(ROOT / "benchmarks").glob("*.py")]


def calls_without_encoding(text: str) -> list[int]:
    """Lines that open a text file, or read the output of a process as text, without saying its encoding."""
    lines = []
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        is_method = isinstance(call.func, ast.Attribute)
        owner = getattr(call.func.value, "id", "") if is_method else ""
        given = {keyword.arg for keyword in call.keywords}
        modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        is_binary = any("b" in str(value.value) for value in modes[-1:] if isinstance(value, ast.Constant))
        opens = (name == "open" and owner not in ("os", "ReferenceCache", "webbrowser")) or name == "fdopen"
        reads = is_method and name in ("read_text", "write_text")
        runs = name in ("run", "Popen", "check_output") and given & {"text", "universal_newlines"}
        if (opens and not is_binary or reads or runs) and "encoding" not in given:
            lines.append(call.lineno)
    return lines


def test_a_call_without_an_encoding_is_found():
    assert calls_without_encoding("path.read_text()\nopen('a')\nopen('a', 'rb')\nopen('a', encoding='utf-8')") == [1, 2]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".py"], ids=lambda path: path.name)
def test_every_text_file_is_opened_with_an_encoding(path):
    assert calls_without_encoding(path.read_text(encoding="utf-8")) == []


def test_a_config_is_read_without_the_encoding_of_the_locale(tmp_path):
    code = "from sparsepo.workflow.stages import Stages; Stages.read(['config.yaml'], {}).settings('build_report')"
    config = (ROOT / "config.yaml").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(config + "# β\n", encoding="utf-8")
    options = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning:sparsepo"]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
