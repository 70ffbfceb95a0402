"""Whatever is run in a kernel, in whatever order, a record is that of a fresh run."""

import json
import queue
from contextlib import ExitStack

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from shared import the_only

from lib.files import ROOT

# Sends the signal of JupyterLab's Stop from within a step of an epoch.
STOP = """
import os, signal
from lib.training.fit import Monitor
_end_batch = Monitor.on_train_batch_end

def _stopped(self, batch, logs=None):
    _end_batch(self, batch, logs)
    if self.epoch == {epoch}:
        Monitor.on_train_batch_end = _end_batch
        os.kill(os.getpid(), signal.SIGINT)

Monitor.on_train_batch_end = _stopped
"""
SMALL = {
    "03_stamp": (
        'variant = "normalized"\n'
        'variant_options = {"fixes": "", "scale": 16.0, "dropout": 0.3}\n'
        'scoring = {"evaluate_every": 3, "with_baselines": False, "top_k": 20}\n'
        "steps_per_epoch: int = 8\nepochs: int = 3\nembed_dim: int = 8\n",
        "embed_dim: int = 12\n",
    ),
    "04_mf": (
        'extras = {"columns": "", "top_k": 8, "label": ""}\n'
        "steps_per_epoch = 8\nepochs: int = 3\nlatent_dim = 2\n",
        "latent_dim = 4\n",
    ),
}
NAMES = list(SMALL)


class Kernel:
    """A kernel that runs cells of a notebook, as a person in JupyterLab does."""

    def __init__(self, stack, name, output):
        self.name = f"notebooks/{name}.ipynb"
        self.manager, self.client = start_new_kernel(cwd=str(ROOT / "notebooks"))
        stack.callback(self.manager.shutdown_kernel, now=True)
        stack.callback(self.client.stop_channels)
        book = nbformat.read(ROOT / self.name, as_version=4)
        self.cells = [c.source for c in book.cells if c.cell_type == "code"]
        self.defaults = self.cells[1] + f"\noutput_dir = {str(output)!r}\n"

    def find(self, text):
        found = (n for n, cell in enumerate(self.cells) if text in cell)
        return the_only(found, f"a cell of {self.name} with {text!r}")

    def start(self, source):
        # After an error, a kernel would drop the cells that wait already.
        return self.client.execute(source, allow_stdin=False, stop_on_error=False)

    def wait(self, sent):
        """Waits for a cell; returns its error, empty if it has none."""
        while True:
            answer = self.client.get_shell_msg(timeout=120)
            if answer["parent_header"].get("msg_id") == sent:
                content = answer["content"]
                assert content["status"] != "aborted"
                return f"{content.get('ename', '')}: {content.get('evalue', '')}"

    def run(self, *cells):
        for cell in cells:
            source = cell if isinstance(cell, str) else self.cells[cell]
            error = self.wait(self.start(source))
            if error != ": ":
                return error
        return ""

    def set(self, changes):
        self.cells[1] = self.defaults + changes

    @property
    def check(self):
        return self.find("parameters.check(")

    @property
    def train(self):
        return self.find("history, timing = fit(")

    @property
    def record(self):
        return self.find("path = run.write(")

    def below(self, first=0):
        """The cells that the record needs, from the one numbered ``first`` on."""
        needed = ("import ", "data_path: str", "parameters.check(", "trained.keep(")
        needed += ("source = params.data_path",)
        needed += (
            "hardware = select_device(",
            "model = network(",
            "settings = {",
            "table, costs",
            "table = {}",
        )
        needed += (
            "fit(\n",
            "final = {name",
            "final = stamp.evaluate(",
            "floor = None",
            "vary = ",
            "pieces = {",
        )
        needed += ("path = run.write(",)
        return [
            n
            for n, cell in enumerate(self.cells)
            if n >= first and any(text in cell for text in needed)
        ]


def records(folder):
    """The records below a folder, without what differs from run to run."""
    found = {}
    for path in sorted(folder.rglob("result.json")):
        record = json.loads(path.read_text())
        del record["timing"], record["parameters"]["output_dir"]
        found[record["run"]] = record
    return found


def alike(one, other):
    """Whether two records are the same, to the accuracy of sums in another order."""
    one, other = dict(one), dict(other)
    for key in ("metrics", "history"):
        left, right = one.pop(key), other.pop(key)
        for a, b in zip(*(x if isinstance(x, list) else [x] for x in (left, right))):
            assert a == pytest.approx(b, rel=1e-4)
        assert len(left) == len(right)
    assert one == other
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_that_of_a_fresh_run_whatever_ran_before(name, tmp_path):
    first, second = SMALL[name][0], SMALL[name][0] + SMALL[name][1]
    here = tmp_path / "here"
    with ExitStack() as stack:
        kernel = Kernel(stack, name, here)
        other = Kernel(stack, name, tmp_path / "fresh")
        kernel.set(first)

        def ends_in(settings, *cells):
            """The cells end in the record that a fresh run of the settings gives."""
            assert kernel.run(*cells) == ""
            known = records(here)
            assert alike(known[settings["run"]], settings)

        for changes in (first, second):
            other.set(changes)
            assert other.run(*other.below()) == ""
        fresh = records(tmp_path / "fresh")
        widths = SMALL[name][1].partition(":")[0].partition(" ")[0]
        one, two = sorted(fresh.values(), key=lambda r: r["parameters"][widths])

        train, write = kernel.train, kernel.record
        rest = kernel.below(train)
        ends_in(one, *kernel.below())
        ends_in(one, *rest)  # the training cell again
        for epoch in (1, 2, 3):
            kernel.run(STOP.format(epoch=epoch))
            assert kernel.run(train).startswith("KeyboardInterrupt")
            stale = kernel.run(write)  # the values are those of an earlier run
            assert "which did not finish: run the cells in order" in stale
            ends_in(one, *rest)
        kernel.set(second)  # a changed parameter, and everything below it
        ends_in(two, *kernel.below(1))
        assert alike(records(here)[one["run"]], one)

        kernel.set(first)  # a changed parameter, and some cells left out
        ran = sorted(here.rglob("*"))
        assert kernel.run(1, kernel.check) == ""
        for cell in (train, write):
            sentence = kernel.run(cell)
            assert "before the parameters were last checked: run the cells" in sentence
        assert sorted(here.rglob("*")) == ran
        ends_in(one, *kernel.below(1))
        kernel.run(STOP.format(epoch=1))
        kernel.run(*kernel.below(1))
        ends_in(one, *kernel.below(), *kernel.below())  # all, twice

        # Two kernels at once: the second is refused, and neither record suffers.
        other.defaults = kernel.defaults
        other.set(first)
        assert other.run(*other.below()[:-2]) == ""
        sent = kernel.start(
            "from lib.files import open_log\nimport time\n"
            "with open_log(run.folder / f'train_{run.device_id}.log'):\n"
            "    print('held', flush=True)\n    time.sleep(3)\n"
        )
        wait_for_output(kernel, "held")
        assert "another training is at work in this folder" in other.run(train)
        assert kernel.wait(sent) == ": "
        ends_in(one, *kernel.below())
        assert other.run(*other.below()) == ""
        assert alike(records(here)[one["run"]], one)
        assert set(records(here)) == set(fresh)


def wait_for_output(kernel, text):
    """Waits until a running cell prints a text."""
    while True:
        try:
            message = kernel.client.get_iopub_msg(timeout=60)
        except queue.Empty:
            pytest.fail(f"no cell printed {text}")
        if text in str(message["content"].get("text", "")):
            return
