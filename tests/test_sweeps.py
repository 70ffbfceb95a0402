"""A sweep says how far it is, ends at once when told, and takes no data for others."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import execute
import nbformat
import plan
import psutil
import pytest
import yaml

from lib.files import ROOT


class Terminal:
    """A command that runs in a terminal; Ctrl-C reaches all of its foreground."""

    def __init__(self, *command):
        self.pid, self.master = pty.fork()
        if not self.pid:
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, *command])
        self.written = ""

    def read(self, seconds):
        """Reads what is written for some seconds; False when the command has ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.written += os.read(self.master, 4096).decode(errors="replace")
                except OSError:
                    return False
        return True

    def family(self):
        return psutil.Process(self.pid).children(recursive=True)


def is_kernel(process):
    try:
        return "ipykernel_launcher" in process.cmdline()
    except psutil.Error:
        return False


def is_at_work(process):
    """Whether it has not ended; a zombie only waits to be counted."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_ctrl_c_ends_every_run_and_starts_none(tmp_path):
    """Two of five runs are at work; what they started ends with them."""
    long = {"notebook": "03_stamp", "epochs": 100_000, "seed": [0, 1, 2, 3, 4]}
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump({**long, "output_dir": str(tmp_path / "out")}))
    terminal = Terminal(
        *(str(ROOT / "ci/execute.py"), "--params", str(sweep), "--jobs", "2"),
        *("--executed", str(tmp_path / "executed")),
    )
    family = []
    try:
        for _ in range(90):
            assert terminal.read(1), terminal.written
            family = terminal.family()
            if sum(map(is_kernel, family)) == 2:
                break
        else:
            pytest.fail(f"no two kernels at work: {terminal.written}")
        os.write(terminal.master, b"\x03")
        pressed = time.monotonic()
        while terminal.read(0.2):
            waited = time.monotonic() - pressed  # 2 s; more on a busy machine
            assert waited < 60, terminal.written
        _, status = os.waitpid(terminal.pid, 0)
        assert os.WEXITSTATUS(status) == 1
        _, alive = psutil.wait_procs(family, timeout=1)
        assert not list(filter(is_at_work, alive))
        started = re.findall(r"\[(\d) of 5\] sweep-seed=\d", terminal.written)
        assert sorted(started) == ["1", "2"]
        assert "the same command leaves out the runs" in terminal.written
        assert "Traceback" not in terminal.written
    finally:
        for process in family:
            if is_at_work(process):
                process.send_signal(signal.SIGKILL)


def run_sweep(path, output, *options):
    command = [sys.executable, str(ROOT / "ci/execute.py"), "--params", str(path)]
    command += ["--set", f"output_dir={output}", "--executed", str(output / "executed")]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_sweep_counts_its_runs_and_runs_again_on_a_replaced_file(tmp_path):
    clicks = tmp_path / "clicks.csv"
    lines = [
        f"{session},{item % 7},{86400 * (session % 20) + item}"
        for session in range(60)
        for item in range(session % 5, session % 5 + 4)
    ]
    clicks.write_text("\n".join(["session,item,time", *lines]) + "\n")
    path = tmp_path / "small.yaml"
    values = {"notebook": "03_stamp", "data_path": str(clicks), "batch_size": 16}
    values |= {"epochs": 1, "embed_dim": 4, "with_baselines": False, "seed": [0, 1]}
    path.write_text(yaml.safe_dump(values))
    first = run_sweep(path, tmp_path / "out", "--jobs", "2")
    assert "[1 of 2] small-seed=0" in first
    assert re.search(r"1 of 2 done, about 0:\d\d:\d\d left", first)
    for seed in (0, 1):  # the lines of both runs, told apart
        assert re.search(rf"(?m)^\[small-seed={seed}\] epoch 1/1  loss ", first)
    again = run_sweep(path, tmp_path / "out")
    assert again.count("has a record already") == 2
    stamp = clicks.stat()
    clicks.write_text("\n".join(["session,item,time", *lines[:-4]]) + "\n")
    os.utime(clicks, (stamp.st_atime, stamp.st_mtime))  # not even its date tells
    replaced = run_sweep(path, tmp_path / "out", "--set", "seed=[0]")
    assert "has a record already" not in replaced
    names = {json.loads(p.read_text())["run"] for p in tmp_path.rglob("result.json")}
    assert len(names) == 3


def test_inputs_are_hashed_by_content_wherever_they_lie(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clicks.csv").write_text("1")
    one, other = ({"data_path": str(tmp_path / name)} for name in "ab")
    same = plan.hash_inputs(one)
    assert plan.hash_inputs(other) == same
    assert plan.hash_inputs({**one, "output_dir": str(tmp_path), "epochs": 3}) == same
    assert plan.hash_inputs({"data_path": f"{one['data_path']}/*.csv"}) == same
    (tmp_path / "b" / "clicks.csv").write_text("2")
    assert plan.hash_inputs(other) != same


def test_lines_of_one_of_several_runs_have_its_name(capsys):
    execute.Prefixed("[a] ").write("one\ntwo\n")
    assert capsys.readouterr().out == "[a] one\n[a] two\n"


def test_what_a_run_writes_to_its_error_stream_is_shown(tmp_path, monkeypatch, capsys):
    """Such as the line that no NPU opened, and what the vendor's C++ says."""
    code = (
        "import os, sys\nsys.stderr.write('!!! warned\\n'); os.write(2, b'from C\\n')"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / "x.ipynb")
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # kernels do not capture C under pytest
    files = tmp_path / "x.ipynb", {}, tmp_path / "copy.ipynb"
    execute.execute_notebook(execute.Job("x", *files, False, False, "", "[a] "))
    said = capsys.readouterr().out
    assert "[a] !!! warned" in said
    assert "[a] from C" in said
