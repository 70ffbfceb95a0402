"""A long computation shows one line, wherever it runs, and leaves no output behind."""

import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from lib import progress
from lib.files import ROOT
from lib.hardware.device import Device
from lib.training import fit as training
from lib.training.checkpoints import Progress
from lib.training.fit import Monitor, Schedule

CPU = Device("cpu", "", "must_keep_origin_dtype", "float32", "")
# Twenty steps of 0.1 s that count as long at once; a cell prints before and after.
WORK = """
import time
from lib import progress
progress.LONG_S = 1.0
print("before")
for _ in progress.track(range(20), "evaluation"):
    time.sleep(0.1)
print("after")
"""
TIMED = """
import time
from lib import progress
progress.LONG_S = 1.0

@progress.timed("reading")
def read():
    time.sleep(2.7)
    return 7

print(read())
"""
LINE = re.compile(r"evaluation: +(\d+)%\|.{10}\| 00:0[0-9] left")


class Clock:
    """Time that passes when a test says so."""

    def __init__(self):
        self.now = 0.0

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr("tqdm.std.time", clock.time)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return clock


def read_terminal(source):
    """What a program writes to a terminal of 80 columns."""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", source]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    environment.pop("JPY_SESSION_NAME", None)
    child = subprocess.Popen(command, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the program has ended
            part = b""
        if not part:
            break
        written += part
    os.close(master)
    assert child.wait() == 0
    return written.decode()


def show(written):
    """The lines that a terminal shows in the end."""
    lines = []
    for line in written.split("\r\n"):
        shown = ""
        for piece in line.split("\r"):  # each begins at the left edge
            shown = piece + shown[len(piece) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


def test_a_terminal_has_one_line_in_place_and_none_in_the_end():
    written = read_terminal(WORK)
    shares = [int(share) for share in LINE.findall(written)]
    assert len(shares) >= 2
    assert shares == sorted(shares)
    assert written.count("\n") == 2  # of what is printed
    assert show(written) == ["before", "after"]


def test_what_is_short_shows_nothing():
    written = read_terminal(WORK.replace("progress.LONG_S = 1.0", ""))
    assert written.split() == ["before", "after"]


def test_a_log_gets_a_line_a_minute(clock, capfd, monkeypatch):
    for prefix in ("", "[seed=1] "):
        monkeypatch.setenv(progress.PREFIX, prefix)
        for _ in progress.track(range(600), "evaluation"):
            clock.now += 1
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 10
        assert lines[2] == f"{prefix}evaluation:  30%|###       | 07:00 left"


def test_training_shows_epoch_share_speed_loss_and_the_time_left(clock, capfd):
    plan = Schedule(10, 7, steps_per_epoch=100).plan(1000)
    monitor = Monitor(plan, CPU, Progress(), lambda *_, **options: None)
    monitor.set_model(SimpleNamespace(trainable_variables=[]))
    for epoch in range(2):
        monitor.on_epoch_begin(epoch)
        for step in range(100):
            clock.now += 1
            monitor.on_train_batch_end(step, {"loss": 5.0 - epoch})
        monitor.on_epoch_end(epoch, {"loss": 5.0 - epoch})
    assert capfd.readouterr().err.splitlines() == [
        "epoch 1 of 7:  60%|######    | 10 examples/s, loss 5.0000, 10:40 left",
        "epoch 2 of 7:  20%|##        | 10 examples/s, loss 4.0000, 09:40 left",
        "epoch 2 of 7:  80%|########  | 10 examples/s, loss 4.0000, 08:40 left",
    ]


def run_cell(source, environment):
    """The outputs of a kernel that runs a cell, as messages."""
    manager, client = start_new_kernel(env={**os.environ, **environment})
    try:
        messages = []
        client.execute_interactive(source, output_hook=messages.append, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return [
        one for one in messages if one["msg_type"] not in ("status", "execute_input")
    ]


@pytest.mark.parametrize(
    ("source", "line"), [(WORK, LINE), (TIMED, re.compile(r"reading: 00:0\d"))]
)
def test_jupyterlab_updates_one_output_in_place_and_empties_it(source, line):
    in_jupyterlab = {"PYTHONPATH": str(ROOT), "JPY_SESSION_NAME": "work.ipynb"}
    messages = run_cell(source, in_jupyterlab)
    shown = [one for one in messages if one["msg_type"] != "stream"]
    assert [one["msg_type"] for one in shown] == [
        "display_data",
        *["update_display_data"] * (len(shown) - 1),
    ]
    assert len({one["content"]["transient"]["display_id"] for one in shown}) == 1
    *lines, last = [one["content"]["data"].get("text/plain") for one in shown]
    assert len(lines) >= 2
    assert all(map(line.fullmatch, lines))
    assert last is None


def test_an_executed_notebook_holds_no_trace_of_it(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cell = nbformat.v4.new_code_cell(WORK)
    NotebookClient(nbformat.v4.new_notebook(cells=[cell])).execute()
    assert {output.output_type for output in cell.outputs} == {"stream"}
    assert "".join(output.text for output in cell.outputs) == "before\nafter\n"


def test_what_nobody_can_measure_shows_how_long_it_takes():
    written = read_terminal(TIMED)
    assert re.findall(r"\rreading: 00:0(\d)", written)[0] == "1"
    assert show(written) == ["7"]
