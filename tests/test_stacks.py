"""The same notebook on both stacks: the same data, and metrics within a tolerance.

Each stack sums floats in its own order, and training enlarges the difference.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from shared import the_only

ROOT = Path(__file__).resolve().parents[1]
ASCEND = ROOT / ".venv-ascend" / "bin" / "python"
TOLERANCE = {"unordered": 0, "hr": 0.03, "mrr": 0.02, "rmse": 0.002, "mae": 0.002}

if sys.version_info[:2] == (3, 9):
    pytest.skip("runs on the current stack, against this one", allow_module_level=True)
if not ASCEND.exists():
    pytest.skip("there is no .venv-ascend: see ci/test.sh", allow_module_level=True)


@pytest.mark.parametrize(
    ("number", "setting"), [("03", "with_baselines=false"), ("04", "latent_dim=4")]
)
def test_both_stacks_agree(tmp_path, number, setting):
    records = []
    for name, python in (("ascend", ASCEND), ("current", sys.executable)):
        output = tmp_path / name
        command = [python, "ci/execute.py", "--only", number]
        command += ["--executed", str(output / "executed"), "--set", setting]
        command += ["--set", "precision_mode=must_keep_origin_dtype"]
        command += ["--set", f"output_dir={output}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        path = the_only(output.rglob("result.json"), f"a record of {number} by {name}")
        records.append(json.loads(path.read_text()))
    ascend, current = records
    assert ascend["versions"]["tensorflow"] == "2.6.5"
    assert current["versions"]["tensorflow"] > "2.16"
    assert ascend["data"] == current["data"]
    assert ascend["metrics"].keys() == current["metrics"].keys()
    for metric, value in current["metrics"].items():
        kind = metric.partition("_")[0]
        expected = pytest.approx(value, abs=TOLERANCE[kind])
        assert ascend["metrics"][metric] == expected, metric
