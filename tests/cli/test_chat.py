"""`sparsepo chat` on a terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chat_models import save_instruct_model

from sparsepo.cli import chat
from sparsepo.cli.main import main
from sparsepo.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    save_instruct_model(tmp_path / "model")
    return tmp_path / "model"


def test_two_policies_answer_each_line_on_a_terminal_until_its_end(folder):
    import pty

    ours, theirs = pty.openpty()
    code = "from sparsepo.cli.main import entry; entry()"
    command = [sys.executable, "-c", code, "chat", str(folder), str(folder), "--max-new-tokens", "3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    for line in (b"Hello\n", b"Again\n", b"\x04"):
        start = len(said)
        while not said[start:].endswith(b"> "):
            said += os.read(ours, 65536)
        os.write(ours, line)
    assert process.wait(timeout=60) == 0
    os.close(ours)
    assert said.count(f"[{folder}]".encode()) == 4


def test_a_conversation_is_rendered_whole_by_the_chat_template(folder, monkeypatch, capsys):
    from sparsepo.models import loading

    lines, given = iter(["Hello", "Again"]), []
    model = loading.load_model(folder)
    tokenizer = loading.load_tokenizer(folder)
    generate = model.generate
    monkeypatch.setattr(loading, "load_model", lambda _: model)
    monkeypatch.setattr(model, "generate", lambda **how: given.append(how["input_ids"][0]) or generate(**how))
    monkeypatch.setattr(chat, "read_prompt", lambda: next(lines, None))
    main(["chat", str(folder), "--max-new-tokens", "2"])
    first = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(given[0]) == first
    second = tokenizer.decode(given[1])
    assert second.startswith(first) and second.endswith("<|im_start|>user\nAgain<|im_end|>\n<|im_start|>assistant\n")


def test_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        main(["chat", str(tmp_path / "nowhere")])
