"""The book has every page, its links stay within it, and it asks no other server."""

import json
import posixpath
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from shared import the_only

from lib.files import ROOT

sys.path.append(str(ROOT / "ci/book"))
import gather

SHOWN = (".py", ".css", ".js", ".html", ".svg")  # what may ask a server


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The folder that Sphinx reads, without the reference of lib that it adds."""
    folder = tmp_path_factory.mktemp("book")
    gather.main(folder)
    return folder


def markdown(path):
    """The text of a page, or of the Markdown cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return re.sub(r"(?ms)^```.*?^```$", "", text)
    cells = json.loads(text)["cells"]
    return "\n".join(
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
    )


def list_pages(folder):
    pages = [*folder.rglob("*.md"), *folder.rglob("*.ipynb")]
    return sorted(path.relative_to(folder).as_posix() for path in pages)


def test_every_page_is_in_the_sidebar_once(book):
    sidebar = re.findall(r" </(\S+)>", (book / gather.HOME).read_text("utf-8"))
    pages = [posixpath.splitext(page)[0] for page in list_pages(book)]
    assert sorted([*sidebar, "index"]) == sorted([*pages, "autoapi/lib/index"])
    named = [path.stem for path in sorted(ROOT.glob("notebooks/*.ipynb"))]
    assert [name.split("/")[1] for name in sidebar if "notebooks/" in name] == named
    assert {f"docs/{path.stem}" for path in ROOT.glob("docs/*.md")} <= set(sidebar)


def test_links_lead_to_pages_and_files_of_the_book(book):
    links = []
    for page in list_pages(book):
        text = markdown(book / page)
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", text):
            assert link.startswith("/"), (page, link)
            is_code = re.match("/autoapi/(.+)/index.rst", link)
            target = ROOT / f"{is_code[1]}.py" if is_code else book / link[1:]
            assert target.is_file(), (page, link)
            links.append(link)
    assert len(links) > 100


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("](../README.md)", "](/index.md)"),
        ("](running.md#jupyterlab)", "](/docs/running.md#jupyterlab)"),
        ("](../results)", "](/results/README.md)"),
        ("](../ci/params)", "](/ci/params/README.md)"),
        ("](../lib/models/mf.py)", "](/autoapi/lib/models/mf/index.rst)"),
        ("](https://onnx.ai/x.md)", "](https://onnx.ai/x.md)"),
        ("](#add-a-notebook)", "](#add-a-notebook)"),
        ("`rows[0](windows)`", "`rows[0](windows)`"),
    ],
)
def test_a_link_of_the_repository_becomes_one_of_the_book(link, expected):
    assert gather.redirect_links(link, "docs/page.md") == expected


def test_a_notebook_has_one_title_and_keeps_its_outputs(book):
    for page in list_pages(book):
        if page.endswith(".ipynb"):
            assert len(re.findall(r"(?m)^# ", markdown(book / page))) == 1, page
            shown, original = (
                [cell.get("outputs") for cell in json.loads(path.read_text())["cells"]]
                for path in (book / page, ROOT / page)
            )
            assert shown == original, f"{page}: outputs"


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """What Sphinx reads from conf.py; MathJax need not be installed."""
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: package)
    return runpy.run_path(str(ROOT / "ci/book/conf.py"))


def test_the_book_executes_nothing_and_asks_no_other_server(settings):
    assert settings.get("nb_execution_mode") == "off"
    assert settings.get("nb_ipywidgets_js") == {}  # the default asks one
    copied = [Path(path).name for path in settings["html_static_path"]]
    assert settings["mathjax_path"] in copied
    for name in settings["html_css_files"]:
        assert (ROOT / "ci/book/static" / name).is_file(), name
    paths = [p for p in (ROOT / "ci/book").rglob("*") if p.suffix in SHOWN]
    assert paths
    for path in paths:
        links = re.findall(r"https?://\S+|//\w+\.\S+", path.read_text("utf-8"))
        asked = [x for x in links if not x.startswith("http://www.w3.org/")]
        assert not asked, f"{path.relative_to(ROOT)} asks another server"


def test_warnings_fail_the_build():
    lines = (ROOT / "ci/book.sh").read_text("utf-8").replace("\\\n", " ").splitlines()
    command = the_only((x for x in lines if " -m sphinx " in x), "a call of Sphinx")
    assert "--fail-on-warning" in shlex.split(command, comments=True)
    assert "set -euo pipefail" in lines  # so that the failure is that of the command
