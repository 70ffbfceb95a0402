"""Copies what the book shows to a folder, with links that lead to pages of the book.

Called by book.sh: ``gather.py FOLDER``. Needs the standard library alone.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = "index.md"  # README.md in the book
PARAMS = "ci/params/README.md"  # a page that only the book has
CHINESE = "[\u4e00-\u9fff，。：；、（）]"
COPIED = [
    "*.md",
    "docs/*.md",
    "docs/*.png",
    "notebooks/*.ipynb",
    "results/*.md",
    "results/*.csv",
]
COPIED += ["LICENSE", "CITATION.cff", "requirements*.txt", "environment*.yml"]


def list_pages() -> dict[str, list[str]]:
    """``{heading of the sidebar: paths of its pages}``, without the home page.

    The order of docs/ is that of the tables in docs/README.md.
    """
    english, chinese = (
        [
            posixpath.normpath(f"docs/{path}")
            for path in re.findall(r"\]\((\S+md)\)", part)
        ]
        for part in read("docs/README.md").split("\n## 中文")
    )
    notebooks = sorted(path.name for path in ROOT.glob("notebooks/*.ipynb"))
    return {
        "Notebooks": [f"notebooks/{name}" for name in notebooks],
        "Guides": ["docs/README.md", *english, PARAMS, "CHANGELOG.md"],
        "中文": sorted(chinese),
        "Code": ["autoapi/lib/index.rst"],
    }


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def name_entry(path: str) -> str:
    """A page's name in the sidebar: its title, with the number of a notebook."""
    if path.endswith(".rst"):
        return "The packages of lib"
    if path.endswith(".md"):
        title = write_params_page() if path == PARAMS else read(path)
    else:
        number = posixpath.basename(path)[:2]
        title = (
            f"# {number} {''.join(json.loads(read(path))['cells'][0]['source'])[2:]}"
        )
    return title.partition("\n")[0].strip("# ")


def write_contents() -> str:
    """The table of contents, which Sphinx reads from the home page."""
    blocks = []
    for heading, paths in list_pages().items():
        entries = [
            f"{name_entry(path)} </{posixpath.splitext(path)[0]}>" for path in paths
        ]
        options = [f":caption: {heading}", ":hidden:", ":titlesonly:"]
        blocks.append("\n".join(["```{toctree}", *options, "", *entries, "```"]))
    return "\n\n".join(blocks)


def write_params_page() -> str:
    """The files of ci/params on a page, so that links to the folder lead somewhere."""
    files = sorted(ROOT.glob("ci/params/*.yaml"))
    blocks = [f"## {path.name}\n\n```yaml\n{path.read_text()}```\n" for path in files]
    link = "[Running the notebooks](/docs/running.md)"
    start = f"# Params files\n\nThe files of `ci/params`; {link} explains them.\n"
    return "\n".join([start, *blocks])


def redirect_links(text: str, page: str) -> str:
    """Leads links to the README, to a folder and to a module of lib to their pages."""

    def redirect(link: re.Match) -> str:
        path, anchor = link.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        if not (ROOT / target).exists():
            return link.group()  # brackets of code
        if target == "README.md":
            target = HOME
        elif (ROOT / target).is_dir():
            target += "/README.md"
        elif target.startswith("lib/"):
            target = f"autoapi/{posixpath.splitext(target)[0]}/index.rst"
        return f"](/{target}{anchor or ''})"

    return re.sub(r"\]\((?!https?:)([^)#]+)(#[^)]+)?\)", redirect, text)


def write_page(path: str) -> str:
    """The text of a page in the book."""
    if path.endswith(".md"):
        text = redirect_links(read(path), path)
        return re.sub(rf"(?<={CHINESE})\n(?={CHINESE})", "", text)  # no blank between
    notebook = json.loads(read(path))
    for place, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            text = redirect_links("".join(cell["source"]), path)
            cell["source"] = re.sub("(?m)^# ", "## ", text) if place else text
    return json.dumps(notebook)


def main(folder: Path) -> None:
    """Fills a folder with the pages and the files that they link to."""
    for source in sorted(path for glob in COPIED for path in ROOT.glob(glob)):
        path = source.relative_to(ROOT).as_posix()
        target = folder / (HOME if path == "README.md" else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in (".md", ".ipynb"):
            target.write_text(write_page(path), encoding="utf-8")
        else:
            target.write_bytes(source.read_bytes())
    with (folder / HOME).open("a", encoding="utf-8") as home:
        home.write(f"\n{write_contents()}\n")
    (folder / PARAMS).parent.mkdir(parents=True)
    (folder / PARAMS).write_text(write_params_page(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
