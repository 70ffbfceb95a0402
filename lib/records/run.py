"""The record of a run: where it lives and what it holds."""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from lib import files
from lib.errors import InputError
from lib.files import link, now, read_json, relative
from lib.hardware import workers
from lib.hardware.device import logical_id

SCHEMA = 1
# What result.json holds. All but "timing" is the same when a run is repeated.
KEYS = {
    "schema": int,  # version of this list
    "run": str,  # name of the folder
    "notebook": str,  # that made it
    "model": (str, type(None)),  # "stamp", "mf"; none where nothing was trained
    "variant": (str, type(None)),
    "parameters": dict,  # of the notebook, as checked
    "data": dict,  # name, sha256 and counts of the data set
    "device": (dict, type(None)),  # lib.hardware.device.Device
    "versions": dict,  # of Python and the packages that matter
    "git_commit": (str, type(None)),
    "seed": (int, type(None)),
    "history": list,  # one dict an epoch: epoch, loss and metrics
    "metrics": dict,  # the outcome: name -> number
    "baselines": dict,  # baseline's name -> metrics
    "timing": dict,  # seconds, examples/s, MB, date: what differs from run to run
}
_SILENT = ("output_dir", "label")  # parameters that change nothing that is computed
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "npu_device", "numpy", "pandas")


class Run:
    """One run of a notebook with given parameters on given data.

    Its folder is ``<output_dir>/<device id>/<name>``; the name ends in a hash of the
    parameters and the data, so runs that differ never share a folder, and the same run
    repeated finds its own. Beside it, the link ``latest`` leads to the folder of the
    run that started last, and ``train_<device id>.log`` to the log in there, so both
    paths are known before a run has its name; a file of that name that is no link
    stays. Each of several workers has its own ``latest``, and what it prints in
    ``train_<device id>.log``, see ``ci/processes.py``.

    Where several workers train together, each has its folder, and the first one's
    (``chief_folder``; its number is in ``$CHIEF_DEVICE_ID``, 0 where unset) takes the
    checkpoints and the record.

    Args:
        notebook: name without ending, ``"03_stamp"``.
        parameters: what ``lib.records.parameters.check`` returned.
        data: name, sha256 and counts of the data set, as ``describe`` returns them.
    """

    def __init__(self, notebook, parameters, data):
        self.start_clock()
        self.notebook, self.parameters, self.data = notebook, parameters, data
        self.name = _name_of(notebook, parameters, data, workers.current().size)
        self.device_id = logical_id()
        output = files.resolve(parameters["output_dir"])
        self.folder = output / str(self.device_id) / self.name
        is_chief = workers.current().rank == 0
        first = self.device_id if is_chief else os.environ.get("CHIEF_DEVICE_ID", "0")
        self.chief_folder = output / str(first) / self.name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"output_dir: {self.folder} cannot be made ({error.strerror}): give a "
                "folder that you may write to."
            ) from None
        self.recorded_at()
        link(self.folder.with_name("latest"), self.name)
        if workers.current().size == 1:
            log = f"train_{self.device_id}.log"
            link(self.folder.with_name(log), Path("latest", log))

    def start_clock(self):
        """Says that the run begins now."""
        self.started_at, self._clock, self._earlier_s = now(), time.time(), 0.0

    def continue_clock(self, started_at, wall_s):
        """Says that the run began earlier, in an attempt that was cut off.

        Args:
            started_at: of its first attempt.
            wall_s: seconds that were spent on it, over all attempts so far.
        """
        if started_at != self.started_at:  # else it is this attempt, called again
            self.started_at, self._earlier_s = started_at, wall_s

    def wall_s(self):
        """Seconds spent on the run so far, over all its attempts."""
        return round(self._earlier_s + time.time() - self._clock, 3)

    def recorded_at(self):
        """When the run began that the folder has a record of; None if it has none.

        Raises:
            InputError: the record is of another run: it would be overwritten.
        """
        path = self.chief_folder / "result.json"
        if not path.exists():
            return None
        record = _read(path)
        team = (record["device"] or {}).get("workers", 1)
        of = record["notebook"], record["parameters"], record["data"], team
        if {record["run"], _name_of(*of)} != {self.name}:
            raise InputError(
                f"{path} is the record of another run ({record['run']}): move it away, "
                "or give another output_dir."
            )
        return record["timing"].get("started_at")

    def write(
        self,
        metrics,
        model=None,
        variant=None,
        device=None,
        history=(),
        baselines=None,
        timing=None,
    ):
        """Writes ``result.json`` and returns its path; nothing is left half-written.

        Of several workers the first writes it; the others return where it will be.

        Args:
            metrics: the outcome, name -> number.
            model, variant: what was trained, where something was.
            device: a ``lib.hardware.device.Device``.
            history: one dict an epoch.
            baselines: baseline's name -> metrics.
            timing: measured seconds and rates; the wall time over all attempts (of
                one that was cut off, up to its last checkpoint), the peak memory and
                the dates are added.

        Raises:
            InputError: the record cannot be written; an older one is there still.
        """
        record = {
            "schema": SCHEMA,
            "run": self.name,
            "notebook": self.notebook,
            "model": model,
            "variant": variant,
            "parameters": self.parameters,
            "data": self.data,
            "device": device.record() if device else None,
            "versions": versions(),
            "git_commit": git_commit(),
            "seed": self.parameters.get("seed"),
            "history": list(history),
            "metrics": metrics,
            "baselines": baselines or {},
            "timing": {
                **(timing or {}),
                "wall_time_s": self.wall_s(),
                "peak_memory_mb": peak_memory_mb(),
                "started_at": self.started_at,
                "finished_at": now(),
            },
        }
        check(record, self.folder)
        path = self.chief_folder / "result.json"
        if workers.current().rank == 0:
            files.write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
        return path


def _name_of(notebook, parameters, data, n_workers):
    """The name of a run: the same for the same parameters, data and workers."""
    what = {k: v for k, v in parameters.items() if k not in _SILENT}
    if n_workers > 1:
        what["workers"] = n_workers
    text = json.dumps([notebook, what, data], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    labels = [notebook, what.get("variant"), Path(data["name"]).name, digest]
    return "-".join(label for label in labels if label)


def describe(data):
    """Name, sha256 and counts of a loaded data set, as the record holds them."""
    return {"name": data.name, "sha256": data.sha256, "counts": data.counts()}


def check(record, where):
    """Raises InputError unless ``record`` has the keys and types of ``KEYS``."""
    if not isinstance(record, dict):
        record = {}
    missing = object()
    wrong = [
        key
        for key, kind in KEYS.items()
        if not isinstance(record.get(key, missing), kind)
    ]
    if not wrong:
        tables = {"metrics": [record["metrics"]], "history": record["history"]}
        tables["baselines"] = list(record["baselines"].values())
        wrong = [key for key, rows in tables.items() if not all(map(_is_numbers, rows))]
        if not isinstance(record["data"].get("name"), str):
            wrong.append("data")
        if type((record["device"] or {}).get("workers", 1)) is not int:
            wrong.append("device")
    if wrong or record["schema"] != SCHEMA:
        raise InputError(
            f"{where}: not a record of schema {SCHEMA} (look at "
            f"{', '.join(wrong) or 'schema'}): remove the file, or run its notebook "
            "again."
        )


def _is_numbers(row):
    return isinstance(row, dict) and {type(v) for v in row.values()} <= {int, float}


def folders(text):
    """The folders that ``records`` names: one, or several with commas between."""
    whole = files.resolve(text)
    if whole.is_dir():
        return [whole]
    return [files.resolve(part.strip()) for part in str(text).split(",")]


def load(text):
    """Reads every ``result.json`` below one or several folders.

    Args:
        text: a path, or several with commas between; a relative one starts at the
            repository's root.

    Returns:
        A list of records, ordered by run name.

    Raises:
        InputError: a folder holds no record, or a file that is none.
    """
    paths = set()
    for folder in folders(text):
        found = set(folder.rglob("result.json"))
        if not found:
            raise InputError(
                f'records="{relative(folder)}": no result.json below it; run notebooks 03 and '
                '04, or "bash ci/run.sh", first.'
            )
        paths |= found
    return sorted(map(_read, sorted(paths)), key=lambda record: record["run"])


def _read(path):
    try:
        record = read_json(path)
    except (OSError, ValueError):
        record = None
    check(record, path)
    return record


def versions():
    """Versions of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package.replace("-cpu", "")] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit():
    """The commit that runs, with ``-dirty`` where files differ; None outside git.

    What lies in ``results/`` changes no run and makes none dirty.
    """
    try:
        head = _git("rev-parse", "HEAD")
        differs = _git("diff", "--quiet", "HEAD", "--", ":!results").returncode == 1
    except OSError:
        return None
    commit = head.stdout.strip() if head.returncode == 0 else ""
    return commit + "-dirty" * differs if commit else None


def _git(*words):
    command = ["git", *words]
    return subprocess.run(command, cwd=files.ROOT, capture_output=True, text=True)


def peak_memory_mb():
    """Largest resident size of this process so far, in MB (10^6 bytes)."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 1e6)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * unit / 1e6)
