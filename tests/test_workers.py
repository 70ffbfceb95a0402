"""Several workers train as one: the same batches, the same steps, the same record."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest

from lib.errors import InputError
from lib.hardware import workers
from lib.hardware.device import Device, select_device
from lib.hardware.tensorflow import tf
from lib.models import optimizers
from lib.records.run import Run
from lib.training import pipeline
from lib.training.schedule import Schedule

ROOT = Path(__file__).resolve().parents[1]

TRAIN = """
import json, os, sys

from lib.data import ratings, sessions
from lib.hardware.device import select_device
from lib.models import mf, stamp
from lib.records.run import Run, describe
from lib.training.fit import fit, set_seed
from lib.training.schedule import Schedule

device = select_device("cpu", "must_keep_origin_dtype")
clicks, stars = sessions.load("sample"), ratings.load("sample")
of_stamp = stamp.STAMP(clicks.n_items, 16, maxlen=10)
of_mf = mf.MF(stars.n_users, stars.n_items, stars.global_mean)
schedule = Schedule(128, 20, 0.02, steps_per_epoch=1, evaluate_every=10)
histories, again = {}, {}
for model, data, evaluate in (
    (of_stamp, clicks, lambda: stamp.evaluate(of_stamp, clicks.test)),
    (of_mf, stars, lambda: mf.evaluate(of_mf, stars.test)),
):
    name = type(model).__name__
    set_seed(0)
    run = Run(name, {"output_dir": sys.argv[1]}, describe(data), device)
    history, _ = fit(model, data.train, schedule, device, run, evaluate)
    histories[name] = history
    again[name] = evaluate() if device.is_chief else None  # waits for nobody
found = {"rank": device.rank, "workers": device.workers, "engine": device.engine}
print(json.dumps({"histories": histories, "again": again, **found}), flush=True)
os._exit(0)  # TensorFlow 2.6 now and then aborts in its threads while Python closes
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(output, size, rank, ports=()):
    env = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
    env.update(PYTHONPATH=str(ROOT), ASCEND_DEVICE_ID=str(rank))
    env.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="2")
    if size > 1:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        task = {"type": "worker", "index": rank}
        env["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def answer(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What one worker says, and what each of two says."""
    folder = tmp_path_factory.mktemp("workers")
    ports = [free_port(), free_port()]
    processes = [start(folder / "two", 2, rank, ports) for rank in (0, 1)]
    two = [answer(process) for process in processes]
    return answer(start(folder / "one", 1, 0)), two, folder


@pytest.mark.parametrize("model", ["STAMP", "MF"])
def test_two_workers_at_half_the_batch_follow_one(trained, model):
    one, two, _ = trained
    expected = [row["loss"] for row in one["histories"][model]]
    assert expected[-1] < expected[0] - 0.01  # they move
    for worker in two:
        found = [row["loss"] for row in worker["histories"][model]]
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("model", "metric"), [("STAMP", "hr_at_20"), ("MF", "rmse")])
def test_every_worker_evaluates_and_finds_the_same(trained, model, metric):
    _, two, folder = trained
    first, second = (worker["histories"][model] for worker in two)
    assert [row["epoch"] for row in first if metric in row] == [10, 20]
    assert second == first
    assert two[0]["again"][model][metric] == first[-1][metric]
    states = (folder / "two" / "0").glob(f"{model}-*/ckpt/*.json")
    assert [json.loads(path.read_text())["history"] for path in states] == [first]


def test_workers_without_a_shared_folder_do_not_resume_apart(trained, tmp_path):
    """The first one finds twenty epochs, the second none: both end, and say why."""
    _, _, folder = trained
    ports = [free_port(), free_port()]
    outputs = [folder / "two", tmp_path / "elsewhere"]
    processes = [start(output, 2, rank, ports) for rank, output in enumerate(outputs)]
    for process, done in zip(processes, (20, 0)):
        _, err = process.communicate(timeout=300)
        assert process.returncode
        assert f"this worker would resume from checkpoint {done}, others from an" in err
        assert "workers on several hosts need an output_dir that all of them" in err


def test_the_first_worker_alone_writes_checkpoints(trained):
    _, two, folder = trained
    assert [(w["rank"], w["workers"]) for w in two] == [(0, 2), (1, 2)]
    assert len(list((folder / "two" / "0").rglob("ckpt/checkpoint"))) == 2
    assert not list((folder / "two" / "1").rglob("ckpt"))
    assert len(list((folder / "two" / "1").rglob("train_1.log"))) == 2
    for rank in "01":
        assert (folder / "two" / rank / "latest" / f"train_{rank}.log").is_file()
        assert not (folder / "two" / rank / f"train_{rank}.log").exists()


def one_of(size, rank=0, kind="npu"):
    """The device of one of several workers."""
    return Device(kind, "", "allow_mix_precision", "float16", "", (), size, rank)


def batches_of(n, schedule, device=None):
    plan = schedule.plan(n, device)
    epochs = range(schedule.epochs)
    dataset = pipeline.batches(lambda index: (index,), plan, epochs, device)
    return [own.numpy() for (own,) in dataset]


def test_the_shares_of_all_workers_are_the_batches_of_one():
    schedule = Schedule(24, epochs=3)
    whole = batches_of(1003, schedule)
    shares = [batches_of(1003, schedule, one_of(4, rank)) for rank in range(4)]
    assert all(len(share) == len(whole) == 123 for share in shares)
    for batch, *parts in zip(whole, *shares):
        assert [len(part) for part in parts] == [6] * 4
        assert sorted(np.concatenate(parts)) == sorted(batch)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(InputError, match="batch_size=30: 4 workers share each batch"):
        batches_of(100, Schedule(30), one_of(4))
    with pytest.raises(InputError, match="4 workers cannot share .*set static=True"):
        batches_of(100, Schedule(32, static=False), one_of(4))


@pytest.mark.parametrize(
    ("scaling", "rate"), [("none", 0.1), ("sqrt", 0.2), ("linear", 0.4)]
)
def test_the_learning_rate_grows_with_the_workers(scaling, rate):
    assert workers.scale_rate(0.1, scaling, 1) == 0.1
    assert workers.scale_rate(0.1, scaling, 4) == pytest.approx(rate)


def test_only_devices_that_train_together_have_an_engine_and_one_of_them_is_chief():
    assert [one_of(1, kind=kind).engine for kind in ("npu", "gpu", "cpu")] == [""] * 3
    assert one_of(2).engine == "hccl"
    assert one_of(2, kind="cpu").engine == one_of(2, kind="gpu").engine == "tensorflow"
    assert [one_of(3, rank).is_chief for rank in range(3)] == [True, False, False]


def test_workers_without_npus_do_not_train_in_float16():
    """Keras' loss scale would let each worker skip different steps."""
    adam = optimizers.make_adam(0.1, 1)
    with pytest.raises(InputError, match="several workers without NPUs cannot train"):
        one_of(2, kind="cpu").scale(adam)
    assert one_of(1, kind="cpu").scale(adam).inner_optimizer is adam


def test_several_tensorflow_workers_take_one_step_a_call():
    schedule = Schedule(10, steps_per_execution=4)
    for device, steps in (
        (None, 4),
        (one_of(1, kind="cpu"), 4),
        (one_of(2), 4),
        (one_of(2, kind="cpu"), 1),
    ):
        assert schedule.plan(100, device).steps_per_call == steps


def test_tensorflow_must_not_have_computed_before_workers_join(monkeypatch):
    tf.constant(0) + 1
    task = {"type": "worker", "index": 0}
    config = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": task}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(InputError, match="names 2 workers.* restart the kernel"):
        select_device("cpu")
    for broken in ("{", '{"cluster": 3}', '{"cluster": {"worker": ["a:1", "b:1"]}}'):
        monkeypatch.setenv("TF_CONFIG", broken)
        with pytest.raises(InputError, match="set it to JSON with cluster.worker"):
            select_device("cpu")


# --- the launcher --------------------------------------------------------------------


def launcher(*arguments, **env):
    """Starts ``ci/run_distributed.py``; its output comes through a pipe."""
    return subprocess.Popen(
        [sys.executable, "ci/run_distributed.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


def params_file(folder, **values):
    lines = "".join(f"{key}: {value}\n" for key, value in values.items())
    path = folder / "params.yaml"
    path.write_text(f"notebook: 03_stamp\nwith_baselines: false\n{lines}")
    return path


def test_a_notebook_that_is_no_worker_is_refused_before_anything_starts(tmp_path):
    params = ROOT / "ci" / "params" / "scale_out.yaml"
    arguments = "--devices", 2, "--params", params, "--set", f"output_dir={tmp_path}"
    job = launcher(*arguments)
    assert "09_scale_out runs as one program" in job.communicate(timeout=120)[0]
    assert job.returncode == 1
    assert not list(tmp_path.iterdir())


def test_a_killed_worker_ends_the_job_and_the_next_start_resumes(tmp_path):
    params = params_file(tmp_path, epochs=25, embed_dim=8, batch_size=1024)
    arguments = "--devices", 2, "--engine", "tensorflow", "--params", params
    arguments += "--set", f"output_dir={tmp_path}"
    job = launcher(*arguments)
    log = tmp_path / "0" / "train_0.log"
    until = time.time() + 240
    while not list(tmp_path.glob("0/*/ckpt/ckpt-2.index")):
        assert job.poll() is None, job.communicate()[0]
        assert time.time() < until, log.read_text()
        time.sleep(0.05)
    kernel_of(tmp_path / "1").kill()
    said = job.communicate(timeout=120)[0]
    assert job.returncode == 1
    assert "FAILED: device " in said
    assert "Start again to resume from the last checkpoint; on NPUs, wait" in said
    assert not list(tmp_path.glob("*/*/result.json"))
    for rank in "01":
        with pytest.raises(AssertionError, match="nobody writes"):
            kernel_of(tmp_path / rank)
    history = json.loads(next(tmp_path.glob("0/*/ckpt/ckpt-*.json")).read_text())
    done = len(history["history"])
    assert 2 <= done < 25

    again = launcher(*arguments)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    assert "hr_at_20" in said
    record = json.loads(next(tmp_path.glob("*/*/result.json")).read_text())
    assert record["history"][:done] == history["history"]
    assert len(record["history"]) == 25
    assert record["device"]["workers"] == 2
    assert record["timing"]["examples_per_second_per_worker"] > 0
    copy = next(tmp_path.glob("1/executed/*.ipynb")).read_text()
    assert f"resumed after epoch {done} of 25" in copy


def test_a_job_and_a_single_run_leave_each_others_output_alone(tmp_path, monkeypatch):
    """Both are found at ``train_0.log``, whichever came last."""
    monkeypatch.setattr(processes.signal, "signal", lambda *_: None)  # pytest's stay

    def single(seed):
        parameters = {"output_dir": str(tmp_path), "seed": seed}
        data = {"name": "toy", "sha256": "", "counts": {}}
        log = Run("03_stamp", parameters, data).folder / "train_0.log"
        log.write_text(f"single {seed}")
        return log

    def job(text):
        command = [sys.executable, "-c", f"print('{text}')"]
        assert processes.run([("device 0", tmp_path / "0/worker_0.log", command, {})])

    known = tmp_path / "0" / "train_0.log"
    first = single(1)
    assert known.read_text() == "single 1"
    job("of a job")
    assert known.read_text() == "of a job\n"
    second = single(2)
    assert known.read_text() == "single 2"
    assert first.read_text() == "single 1"
    assert (tmp_path / "0" / "worker_0.log").read_text() == "of a job\n"
    job("of another")
    assert known.read_text() == "of another\n"
    assert second.read_text() == "single 2"
    known.unlink()
    known.write_text("what an earlier release wrote there")
    job("of a third")
    assert known.read_text() == "of a third\n"


def kernel_of(folder):
    """The process whose log file of a run is open in this folder."""
    import psutil

    for process in psutil.process_iter():
        try:
            files = [file.path for file in process.open_files()]
        except psutil.Error:
            continue
        if any(
            path.startswith(f"{folder}/03_stamp") and path.endswith(".log")
            for path in files
        ):
            return process
    raise AssertionError(f"nobody writes in {folder}")


def dry_run(*arguments, **env):
    job = launcher(*arguments, "--dry-run", **env)
    return job.communicate(timeout=60)[0], job.returncode


@pytest.fixture
def addresses(tmp_path):
    path = tmp_path / "hccn.conf"
    lines = [f"address_{n}=192.0.2.1{n}\nnetmask_{n}=255.255.255.0" for n in range(8)]
    path.write_text("\n".join(lines))
    return path


PARAMS = ("--params", "ci/params/stamp_full_1p.yaml")


def test_a_dry_run_shows_every_npu_with_its_rank(addresses):
    said, status = dry_run(
        "--engine", "npu", "--devices", "4-7", "--addresses", addresses, *PARAMS
    )
    assert status == 0
    lines = [line for line in said.splitlines() if not line.startswith("#")]
    assert len(lines) == 3 * 4  # three seeds
    for rank, line in enumerate(lines[4:8]):
        assert "stamp_full_1p-seed=1.yaml" in line
        assert f"RANK_ID={rank} RANK_SIZE=4 RANK_TABLE_FILE=" in line
        assert (
            f"ASCEND_DEVICE_ID={rank + 4} RUN_FOLDER={rank + 4} CHIEF_FOLDER=4" in line
        )
        assert f"> {ROOT}/output/{rank + 4}/worker_{rank + 4}.log" in line


def test_a_dry_run_shows_the_workers_of_the_second_host():
    said, status = dry_run(
        "--engine", "tensorflow", "--devices", "2", "--hosts", "a:7000,b:8000",
        "--host", "1", *PARAMS,
    )  # fmt: skip
    assert status == 0
    assert '"worker": ["a:7000", "a:7001", "b:8000", "b:8001"]' in said
    assert '"index": 2' in said
    assert '"index": 3' in said
    assert '"index": 0' not in said
    assert "ASCEND_DEVICE_ID=2 CHIEF_FOLDER=0" in said  # separate folders


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--engine", "tensorflow", "--devices", "0,0"], "0,0: the numbers must"),
        (["--set", "epoch=3"], 'unknown parameter "epoch"; known to 03_stamp: '),
        (["--devices", "3-4"], "devices 3, 4: an Ascend 910 server trains on"),
        (
            ["--devices", "3"],
            "devices 0, 1, 2: an Ascend 910 server trains on 1, 2, 4 or 8",
        ),
        (["--devices", "7-8"], "devices 7, 8: an Ascend 910 server trains on"),
        (["--devices", "x"], "--devices x: write a count, or numbers as in 4-7 or 0,1"),
        (["--devices", "2", "--addresses", "none"], "none: cannot be read"),
        (["--devices", "2", "--rank-table", "none"], "none: cannot be read"),
        (["--engine", "tensorflow", "--hosts", "a"], "--hosts a: write host:port"),
    ],
)
def test_a_job_that_cannot_start_is_refused_in_one_line(addresses, arguments, sentence):
    defaults = ["--engine", "npu", "--addresses", addresses]
    said, status = dry_run(*defaults, *arguments, *PARAMS)
    assert status == 1
    assert len(said.splitlines()) == 1
    assert sentence in said
