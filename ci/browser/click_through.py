"""Runs notebook 08 in a browser, picks an item, undoes it and checks the page.

Called by test_browser.sh: ``click_through.py JUPYTER CHROMIUM``, two paths of programs.
Writes ``output/browser/picker.png``, and on a failure ``output/browser/failure.png``.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Error, Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
NAME = "08_recommend.ipynb"
FOLDER = ROOT / "output" / "browser"
MINUTE = 60_000  # ms
SELECTED = "menu => menu.selectedOptions[0]?.text"
TRACKER = "@jupyterlab/notebook-extension/tracker.jupyterlab-settings"


def main(jupyter: str, chromium: str) -> int:
    """Returns the exit status."""
    copy_without_outputs()
    with start_server(jupyter) as address, sync_playwright() as playwright:
        options = {"args": ["--no-sandbox"]} if os.geteuid() == 0 else {}
        browser = playwright.chromium.launch(executable_path=chromium, **options)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        try:
            click_through(page, address)
        except (AssertionError, Error) as error:
            page.screenshot(path=FOLDER / "failure.png")
            print(f"FAILED: {error}\n  see output/browser/failure.png")
            return 1
    print("the list and the bars follow a pick and undo: see output/browser/picker.png")
    return 0


def copy_without_outputs() -> None:
    """Writes a copy of the notebook without outputs to ``output/browser``."""
    notebook = json.loads((ROOT / "notebooks" / NAME).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / NAME).write_text(json.dumps(notebook, indent=1), encoding="utf-8")


@contextmanager
def start_server(jupyter: str) -> Iterator[str]:
    """Runs JupyterLab with temporary settings; yields the notebook's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "settings", TRACKER)
        settings.parent.mkdir(parents=True)
        # Otherwise the page lacks the cells that are out of sight.
        settings.write_text('{"windowingMode": "none"}')
        command = [jupyter, "lab", "--no-browser", "--allow-root", f"--port={port}"]
        command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={ROOT}"]
        command += [f"--IdentityProvider.token={token}"]
        command += [f"--LabApp.user_settings_dir={folder}/settings"]
        command += [f"--LabApp.workspaces_dir={folder}/workspaces"]
        environment = {**os.environ, "JUPYTER_RUNTIME_DIR": f"{folder}/runtime"}
        environment["JUPYTER_CONFIG_DIR"] = f"{folder}/config"
        environment["JUPYTER_DATA_DIR"] = f"{folder}/data"
        environment["IPYTHONDIR"] = f"{folder}/ipython"
        with open(FOLDER / "server.log", "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            try:
                wait_for(port, process)
                place = f"lab/tree/output/browser/{NAME}?token={token}"
                yield f"http://127.0.0.1:{port}/{place}"
            finally:
                process.terminate()
                process.wait()


def wait_for(port: int, process: subprocess.Popen) -> None:
    """Waits until the server listens on ``port``; exits if it ends before."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit("JupyterLab did not start: see output/browser/server.log")


def click_through(page: Page, address: str) -> None:
    """Runs all cells, picks an item and undoes it; checks what the widget shows."""
    page.goto(address, timeout=2 * MINUTE)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=2 * MINUTE)
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=2 * MINUTE)
    run_all(page)
    kinds = ("error", "stderr")  # a notebook must have neither
    failed = ", ".join(f"[data-mime-type='application/vnd.jupyter.{k}']" for k in kinds)
    page.wait_for_selector(f".widget-dropdown select, {failed}", timeout=10 * MINUTE)
    errors = page.locator(failed)
    assert errors.count() == 0, errors.first.inner_text()[-300:]

    output = page.locator(".widget-vbox .widget-output")
    output.locator("img").wait_for(timeout=MINUTE)
    before, bars = read_output(output)
    choice = page.locator(".widget-dropdown select")
    placeholder = choice.locator("option").first.inner_text()
    asked = choice.evaluate(SELECTED)
    picked = choice.locator("option").nth(7).inner_text().replace("\xa0", " ")
    choice.select_option(index=7)
    (session, *listed), new_bars = wait_for_change(output, bars)
    assert session.endswith(picked), f"picked {picked}, but the page says {session}"
    assert listed, "there are no recommendations"
    assert listed != before[1:], "the recommendations did not change"
    assert new_bars != bars, "the attention bars did not change"
    choice.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    page.locator(".widget-vbox").first.screenshot(path=FOLDER / "picker.png")
    page.screenshot(path=FOLDER / "page.png")
    asked = [asked, choice.evaluate(SELECTED)]  # before the pick and after it
    assert asked == 2 * [placeholder], f"the picker shows {asked}, not {placeholder}"
    page.locator(".widget-button", has_text="undo").click()
    undone, old_bars = wait_for_change(output, new_bars)
    assert (undone, old_bars) == (before, bars), "undo did not bring the session back"


def wait_for_change(output: Locator, bars: str | None) -> tuple[list[str], str | None]:
    """Returns what the widget shows after other bars than these have appeared."""
    shown = read_output(output)
    for _ in range(300):
        if shown[1] not in (None, bars):
            break
        output.page.wait_for_timeout(100)
        shown = read_output(output)
    output.page.wait_for_timeout(500)  # the text and the bars do not come together
    return read_output(output)


def run_all(page: Page) -> None:
    """Clicks until a cell runs: while the kernel starts, JupyterLab may ask for one."""
    running = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
    for _ in range(10):
        question = page.locator(".jp-Dialog .jp-mod-accept")
        if question.count():
            question.first.click()
            page.wait_for_timeout(5000)
        page.locator(".lm-MenuBar-item", has_text="Run").first.click()
        page.wait_for_timeout(1000)
        page.locator(".lm-Menu-item", has_text="Run All Cells").first.click()
        page.wait_for_timeout(5000)
        if running.count():
            return
    raise AssertionError("no cell started to run")


def read_output(output: Locator) -> tuple[list[str], str | None]:
    """Returns the lines of the widget, and its picture or None."""
    lines = output.inner_text().strip().splitlines()
    pictures = output.locator("img")
    picture = pictures.first.get_attribute("src") if pictures.count() else None
    return [line for line in lines if line.strip()], picture


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
