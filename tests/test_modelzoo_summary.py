"""The summary of a published params file: published keys, measured values, or NA."""

import json
import os
import platform
import re
import subprocess
import sys

import execute
import modelzoo_summary
import pytest
import yaml

from lib.files import ROOT

KEYS = "Network RankSize BatchSize DeviceType CaseName ActualFPS TrainingTime "
KEYS = (KEYS + "TrainAccuracy ActualLoss E2ETrainingTime").split()


def record(folder, model="stamp", **changes):
    """Writes a record as notebooks 03 and 04 leave it; returns its path."""
    stamp = model == "stamp"
    found = {
        "model": model,
        "variant": "modelzoo",
        "parameters": {"batch_size": 128 if stamp else 512, "fixes": ""},
        "device": {"kind": "cpu", "workers": 1},
        "history": [{"epoch": 1, "loss": 10.5}, {"epoch": 2, "loss": 9.123456}],
        "metrics": {"hr_at_20": 0.1} if stamp else {"rmse": 0.98765},
        "timing": {
            "examples_per_second": 2560.0,
            "ms_per_step": 50.0,
            "epoch_s": [7.0, 2.5],
            "started_at": "2026-01-01T00:00:00.000+00:00",
            "finished_at": "2026-01-01T00:00:20.000+00:00",
        },
        **changes,
    }
    path = folder / "3" / "a-run" / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return path


def read(path):
    return dict(line.split(" = ") for line in path.read_text().splitlines())


def test_every_published_file_has_its_case():
    files = {path.stem for path in (ROOT / "ci" / "params").glob("*_1p.yaml")}
    assert set(modelzoo_summary.CASES) == files
    for name in files:
        text = (ROOT / "ci" / "params" / f"{name}.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(text)["variant"] == "modelzoo"


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        (
            "stamp_performance_1p",
            "stamp",
            {
                "CaseName": "STAMP_ID2628_for_TensorFlow2.X_bs128_1p_perf",
                "TrainingTime": "2.500",
                "TrainAccuracy": "9.1235",
                "ActualLoss": "9.1235",
            },
        ),
        (
            "mf_full_static_1p-seed=2",
            "mf",
            {
                "CaseName": "MF_ID2624_for_TensorFlow2.X_bs512_1p_acc",
                "TrainingTime": "0.200000",
                "TrainAccuracy": "0.9877",
                "ActualLoss": "9.123456",
            },
        ),
    ],
)
def test_a_published_run_leaves_the_published_keys(
    tmp_path, capsys, name, model, expected
):
    log = modelzoo_summary.write(name, record(tmp_path, model), 25.4)
    values = read(log)
    assert list(values) == KEYS
    common = {"ActualFPS": "2560.00", "E2ETrainingTime": "25", "RankSize": "1"}
    common["DeviceType"] = platform.machine()
    for key, value in {**common, **expected}.items():
        assert values[key] == value
    assert log == tmp_path / "3" / f"{values['CaseName']}.log"
    losses = tmp_path / "3" / f"train_{values['CaseName']}_loss.txt"
    assert len(losses.read_text().splitlines()) == 2
    assert losses.read_text().splitlines()[-1] == values["ActualLoss"]
    assert "Final Performance images/sec : 2560.00" in capsys.readouterr().out


def test_several_workers_and_an_interruption_show(tmp_path):
    path = record(tmp_path, device={"kind": "npu", "workers": 8})
    values = read(modelzoo_summary.write("stamp_full_1p-seed=0", path, 12.0))
    assert values["RankSize"] == "8"
    assert values["CaseName"].endswith("_bs128_8p_acc")
    # The run began 20 s before its end, this attempt 12 s: nobody timed the whole.
    assert values["E2ETrainingTime"] == "NA"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("stamp_paper", {}),
        ("03_stamp", {}),
        ("stamp_full_1p", {"variant": "paper"}),
        ("stamp_full_1p", {"parameters": {"batch_size": 128, "fixes": "mask"}}),
    ],
)
def test_other_runs_leave_none(tmp_path, name, changes):
    path = record(tmp_path, **changes)
    assert modelzoo_summary.write(name, path, 25.0) is None
    failed_or_not_the_first_worker = None
    write = modelzoo_summary.write
    assert write("stamp_full_1p", failed_or_not_the_first_worker, 25.0) is None
    assert [entry.name for entry in (tmp_path / "3").iterdir()] == ["a-run"]


def row(path, **changes):
    return {"name": "a", "seconds": 3.0, "failure": None, "record": path, **changes}


def test_the_table_shows_the_speed_and_a_card_that_was_not_used(tmp_path, capsys):
    fallback = {"kind": "cpu", "workers": 1, "fallback": "no libascend.so"}
    for device, loud in ((fallback, True), ({"kind": "cpu", "fallback": None}, False)):
        execute.print_table(
            [row(record(tmp_path, device=device)), row(None, failure="x")]
        )
        said = capsys.readouterr().out
        assert re.search(r"^a +3\.0 +2,560 +50\.000  hr_at_20 0\.1000$", said, re.M)
        assert re.search(r"^a +3\.0 +FAILED$", said, re.M)
        sentence = "!!! a WAS COMPUTED ON THE CPU, NOT ON AN NPU: no libascend.so"
        assert (sentence in said) == loud
    # Records of the release before have no ms_per_step; data notebooks have no device.
    old = record(tmp_path, device=None, timing={"examples_per_second": 10.0})
    execute.print_table([row(old)])
    assert re.search(r"^a +3\.0 +10 +hr_at_20", capsys.readouterr().out, re.M)


def test_the_job_of_a_published_file_ends_with_its_rate_and_its_summary(tmp_path):
    text = (ROOT / "ci/params/stamp_performance_1p.yaml").read_text(encoding="utf-8")
    (tmp_path / "stamp_performance_1p.yaml").write_text(text)
    settings = {"data_path": "sample", "epochs": 2, "steps_per_epoch": 3}
    settings.update(embed_dim=8, output_dir=tmp_path)
    command = [
        sys.executable,
        "ci/execute.py",
        "--executed",
        str(tmp_path / "executed"),
    ]
    command += ["--params", str(tmp_path / "stamp_performance_1p.yaml")]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ASCEND_DEVICE_ID": "3"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    case = "STAMP_ID2628_for_TensorFlow2.X_bs128_1p_perf"
    values = read(tmp_path / "3" / f"{case}.log")
    assert list(values) == KEYS
    assert f"Final Performance images/sec : {values['ActualFPS']}" in done.stdout
    found = json.loads((tmp_path / "3" / "latest" / "result.json").read_text())
    assert all(row["val_loss"] > 0 for row in found["history"])
    losses = (tmp_path / "3" / f"train_{case}_loss.txt").read_text().splitlines()
    assert losses == [f"{row['loss']:.4f}" for row in found["history"]]
    rate, pace = (found["timing"][k] for k in ("examples_per_second", "ms_per_step"))
    assert f"{rate:,.0f}" in done.stdout
    assert f"{pace:.3f}" in done.stdout
    log = (tmp_path / "3" / "train_3.log").read_text()  # known before the run
    assert len(re.findall(r"(?m)^epoch \d/2 .* examples/s \d+  ms/step \d", log)) == 2
