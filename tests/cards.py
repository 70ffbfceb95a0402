"""Cases that run in new processes, with the stand-in for ``npu_device`` on the path.

What the package changes lasts as long as the process; the workers of a job have one
process each.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.files import ROOT
from lib.hardware.tensorflow import tf

STAND_IN = Path(__file__).parent / "stand_in"
NEEDS = (
    "npu_device, and so its stand-in, imports only with TensorFlow 2.6; the Ascend "
    "stack runs this test"
)
IMPORTS = tf.__version__.startswith("2.6.")
needs_the_card = pytest.mark.skipif(
    not IMPORTS,
    reason=NEEDS,
)
OURS = (
    *("ASCEND_DEVICE_ID", "CHIEF_FOLDER", "RUN_FOLDER", "NPU_LOOP_SIZE", "TF_CONFIG"),
    *("RANK_SIZE", "RANK_ID", "RANK_TABLE_FILE", "CM_WORKER_SIZE"),
)
# What the cases share: answer() prints, sentence_of() returns the text of an error.
START = """
import json, os, sys
from lib.hardware.device import select_device
from lib.errors import InputError

def answer(**values):
    print(json.dumps(values))

def sentence_of(function, *args, kind=InputError, **options):
    try:
        function(*args, **options)
    except kind as error:
        return str(error)
"""


def start(*command, **environment):
    """Starts a command beside the stand-in."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(STAND_IN)])
    return subprocess.Popen(
        [sys.executable, *command],
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def outputs(process):
    """Returns the output of a command on both streams; the command must succeed."""
    said, complained = process.communicate()
    assert process.returncode == 0, said + complained
    return said, complained


def run(code, **environment):
    """Runs a case beside the stand-in and returns its answer."""
    said, complained = outputs(start("-c", START + code, **environment))
    return {**json.loads(said.splitlines()[-1]), "stderr": complained}


def run_job(code, folder, size=2, **environment):
    """Runs a case in every worker of a job; returns their answers, by rank."""
    fabric = folder / "fabric"
    fabric.mkdir(parents=True)
    ranks = [
        start(
            *("-c", START + code),
            **{
                "RANK_SIZE": str(size),
                "RANK_TABLE_FILE": str(folder / "table.json"),
                "RANK_ID": str(rank),
                "ASCEND_DEVICE_ID": str(rank),
                "STAND_IN_FABRIC": str(fabric),
                **environment,
            },
        )
        for rank in range(size)
    ]
    said = [process.communicate() for process in ranks]  # all, before one is judged
    for process, (out, complained) in zip(ranks, said):
        assert process.returncode == 0, out + complained
    return [json.loads(out.splitlines()[-1]) for out, _ in said]
