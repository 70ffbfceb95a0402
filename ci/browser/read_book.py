"""Opens every page of the book in a browser, and searches it.

Called by test_browser.sh: ``read_book.py CHROMIUM``, the path of a program. Every page
must ask nothing of other servers, log no error, draw its formulas and images, describe
the images, have links that lead somewhere, and fit a window 1,280 pixels wide.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "output" / "book"
WIDTH = 1280  # pixels
SEARCHES = {  # words -> a page that must be among the results
    "attention": "notebooks/03_stamp",
    "factorization": "notebooks/04_mf",
    "npu_device": "docs/ascend",
    "InputError": "autoapi/lib/errors",
}
STATE = """async () => {
  if (document.querySelector(".math")) await MathJax.startup.promise;
  const all = selector => [...document.querySelectorAll(selector)];
  const isRaw = n => n.nodeType === Node.TEXT_NODE && n.data.includes("$");
  const isNamed = e => e.alt && !e.alt.includes("_images/");
  const isWide = e => e.getBoundingClientRect().right > innerWidth;
  return {
    formulas: all(".math").length,
    undrawn: all(".math").filter(e => !e.querySelector("mjx-container svg"))
      .concat(all("mjx-merror, [data-mjx-error]"))
      .concat(all("article :is(p, li, td)").filter(e => [...e.childNodes].some(isRaw)))
      .map(e => e.textContent),
    broken: all("img").filter(e => e.complete && !e.naturalWidth).map(e => e.src),
    unnamed: all(".content img").filter(e => !isNamed(e)).map(e => e.src),
    wide: document.documentElement.scrollWidth > innerWidth
      ? all("article *").filter(isWide).map(e => e.outerHTML.slice(0, 60)).slice(0, 1)
      : [],
    links: all("a[href]").map(e => e.href),
    anchors: all("[id]").map(e => e.id),
  };
}"""


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        """Prints no line for a request."""


@contextmanager
def serve() -> Iterator[str]:
    """Serves the book on this machine; yields its address."""
    handler = partial(Handler, directory=str(BOOK))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def watch(page: Page, address: str, faults: list[str]) -> None:
    """Adds to ``faults`` each error and each request to another server."""

    def hear_request(request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            faults.append(f"asks for {request.url}")

    def hear_console(message) -> None:
        if message.type == "error":
            faults.append(f"logs {message.text}")

    page.on("request", hear_request)
    page.on("console", hear_console)
    page.on("pageerror", lambda error: faults.append(f"fails: {error}"))


def find_faults(state: dict) -> list[str]:
    """The sentences about a page's formulas, images and width."""
    sentences = {
        "undrawn": "does not draw the formula",
        "broken": "does not show",
        "unnamed": "has no alternative text for",
        "wide": f"is wider than {WIDTH} pixels because of",
    }
    return [f"{sentences[key]} {value}" for key in sentences for value in state[key]]


def find_dead_links(states: dict[str, dict], address: str) -> list[str]:
    """The links within the book whose page or anchor does not exist."""
    found = []
    for name, state in states.items():
        for link in sorted(set(state["links"])):
            path, _, anchor = unquote(link).partition("#")
            if not path.startswith(address):
                continue
            target = path[len(address) :].partition("?")[0] or "index.html"
            there = states[target]["anchors"] if target in states else None
            if not (BOOK / target).is_file() or (
                anchor and anchor not in (there or ())
            ):
                found.append(f"{name}: has a dead link to {target}#{anchor}")
    return found


def search(page: Page, address: str, words: str) -> list[str]:
    """The addresses of the pages that the book's search finds."""
    page.goto(f"{address}search.html?q={words}")
    page.locator("#search-results p.search-summary", has_text="found").wait_for()
    return page.eval_on_selector_all("#search-results li a", "l => l.map(a => a.href)")


def main(chromium: str) -> int:
    """Returns the exit status."""
    names = sorted(path.relative_to(BOOK).as_posix() for path in BOOK.rglob("*.html"))
    faults, states, heard = [], {}, []
    options = {"args": ["--no-sandbox"]} if os.geteuid() == 0 else {}
    with serve() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, **options)
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        watch(page, address, heard)
        for name in names:
            page.goto(address + name)
            states[name] = page.evaluate(STATE)
            found = find_faults(states[name]) + heard
            faults += [f"{name}: {fault}" for fault in found]
            heard.clear()
        for words, expected in SEARCHES.items():
            found = search(page, address, words)
            if not any(f"/{expected}" in link for link in found):
                faults.append(f"search: {words} does not find {expected}")
        faults += [f"search: {fault}" for fault in heard]
        faults += find_dead_links(states, address)
    formulas = sum(state["formulas"] for state in states.values())
    print(*faults, f"the book: {len(names)} pages, {formulas} formulas", sep="\n")
    return 1 if faults or not formulas else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
