"""The pages of docs/ are true to the repository: links lead somewhere, and every test and file that is named exists."""

import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

import sparsepo

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks/results").glob("*.md")),
]


@pytest.fixture(scope="module")
def named_tests():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    return {name for source in sources for name in re.findall(r"^def (test_\w+)\(", source, flags=re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_to_a_file(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_of_the_repository_that_a_page_names_exists(page):
    names = re.findall(r"`([\w./-]+\.(?:py|smk|rst))`", page.read_text(encoding="utf-8"))
    folders = (ROOT, ROOT / "src/sparsepo", page.parent)
    names = [name for name in names if not name.startswith("my_")]  # files of a user
    assert not [name for name in names if not any((folder / name).exists() for folder in folders)]


def test_every_test_that_is_named_exists(named_tests):
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(test_\w+)`", text))
    files = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert len(names) > 30 and not names - named_tests
    assert files and all((ROOT / name).exists() for name in files)


def test_the_generated_pages_of_the_site_have_every_public_name_and_every_key_of_a_config(monkeypatch):
    for name in ("mkdocs", "mkdocs.structure", "mkdocs.structure.files"):  # in the extra `docs`; not needed here
        module = ModuleType(name)
        module.File = module.Files = object
        monkeypatch.setitem(sys.modules, name, module)
    pages = runpy.run_path(str(ROOT / "envs/docs/generated_pages.py"))
    named = set(re.findall(r"^::: sparsepo\.[\w.]+\.(\w+)$", pages["api"](), flags=re.M))
    assert named == set(sparsepo.__all__) and "register_mask" in named
    assert "| `modules_to_save` |" in pages["configuration"]() and "](methods.md)" in pages["home"]()
