"""The record of a run: its folder, and the content of its ``result.json``."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from lib import files
from lib.errors import InputError
from lib.files import link, now, read_json, relative
from lib.hardware.device import Device, logical_id, read_cpu
from lib.progress import find_shell
from lib.records import cells

SCHEMA = 1
# The keys of result.json. All but "timing" are the same when a run is repeated.
KEYS: dict[str, Any] = {
    "schema": int,  # version of this list
    "run": str,  # name of the run's folder
    "notebook": str,  # name without ending
    "model": (str, type(None)),  # "stamp", "mf"; None where nothing was trained
    "variant": (str, type(None)),
    "parameters": dict,  # of the notebook, as checked
    "data": dict,  # name, sha256 and counts of the data set
    "device": (dict, type(None)),  # lib.hardware.device.Device
    "versions": dict,  # of Python and the packages that can change a result
    "machine": dict,  # cores, memory, operating system, CPU flags
    "git_commit": (str, type(None)),  # "-dirty" where files differ from it
    "changed_files": list,  # these files
    "seed": (int, type(None)),
    "history": list,  # one dict an epoch: epoch, loss and metrics
    "metrics": dict,  # of the whole run: name -> number
    "baselines": dict,  # baseline's name -> metrics
    "variations": dict,  # of an ablation: name -> metrics
    "timing": dict,  # seconds, examples/s, MB, dates: these differ from run to run
}
# Keys that the first records lack.
_ADDED: dict[str, Any] = {"machine": {}, "changed_files": [], "variations": {}}
_WITHOUT_EFFECT = ("output_dir", "label")  # parameters that change no computation
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "npu_device", "numpy", "pandas")
_FLAGS = {"avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni"}
_FLAGS |= {"amx_bf16", "amx_fp16", "amx_int8", "asimd", "asimdhp", "bf16", "sve"}


class Run:
    """One run of a notebook with certain parameters on certain data.

    Its folder is ``<output_dir>/<device id>/<name>``; the name ends in a hash of the
    parameters and the data, so that different runs never share a folder and a repeated
    run finds its own. Beside it, the link ``latest`` leads to the folder of the run
    that started last, and ``train_<device id>.log`` to the log in there, so both
    paths are known before a run has its name; a file of that name that is no link
    stays. Each of several workers has its own ``latest``, and its output is in
    ``train_<device id>.log``, see ``ci/processes.py``.

    Where several workers train together, each has its folder, and that of the first
    (``chief_folder``; its number is in ``$CHIEF_FOLDER``, 0 where unset) receives
    the checkpoints and the record.

    Args:
        notebook: name without ending, ``"03_stamp"``.
        parameters: from ``lib.records.parameters.check``; ``output_dir`` is needed.
        data: name, sha256 and counts of the data set, from ``describe``.
        device: the ``lib.hardware.device.Device`` that computes, with the number of
            workers and the rank of this one; None where nothing is trained.

    Attributes:
        started_at: when the first attempt began, as ``lib.files.now`` writes it.

    Raises:
        InputError: the folder cannot be made or has the record of another run.
    """

    def __init__(
        self,
        notebook: str,
        parameters: Mapping[str, Any],
        data: Mapping[str, Any],
        device: Device | None = None,
    ) -> None:
        self.start_clock()
        self.parameters, self.data, self.device = dict(parameters), data, device
        self._asked: dict[str, Any] = {
            "notebook": notebook,
            "parameters": self.parameters,
            "data": data,
            "device": device.record() if device else None,
        }
        self.name, self.device_id = _make_name(self._asked), logical_id()
        if "RUN_FOLDER" in os.environ:
            self.device_id = int(os.environ["RUN_FOLDER"])
        rank = device.rank if device else 0
        chief_id = os.environ.get("CHIEF_FOLDER", "0") if rank else self.device_id
        below = str(self.device_id), self.name
        self.folder = files.make_folder("output_dir", parameters["output_dir"], *below)
        self.chief_folder = self.folder.parents[1] / str(chief_id) / self.name
        self.recorded_at()
        link(self.folder.with_name("latest"), self.name)
        if _count_workers(self._asked) == 1:
            log = f"train_{self.device_id}.log"
            link(self.folder.with_name(log), Path("latest", log))

    check_order = staticmethod(cells.check_order)

    def start_clock(self) -> None:
        """Starts the run's time now."""
        self.started_at, self._began_s = now(), time.time()

    def continue_clock(self, started_at: str, wall_s: float) -> None:
        """Adds the time of an interrupted attempt that this one resumes.

        Args:
            started_at: when the first attempt began. Nothing is added where that is
                this attempt, which resumes its own checkpoint.
            wall_s: seconds over all attempts so far.
        """
        if started_at != self.started_at:
            self.started_at, self._began_s = started_at, self._began_s - wall_s

    def wall_s(self) -> float:
        """Seconds that the run has taken so far, over all its attempts."""
        return round(time.time() - self._began_s, 3)

    def recorded_at(self) -> str | None:
        """When the run began whose record the folder has; None if it has no record.

        Raises:
            InputError: the record is of another run: it would be overwritten.
        """
        path = self.chief_folder / "result.json"
        if not path.exists():
            return None
        record = _read(path)
        if {record["run"], _make_name(record)} != {self.name}:
            raise InputError(
                f"{path} is the record of another run ({record['run']}): move it away, "
                "or choose another output_dir."
            )
        return record["timing"].get("started_at")

    def write(
        self,
        metrics: Mapping[str, float],
        model: str | None = None,
        variant: str | None = None,
        history: Sequence[Mapping[str, float]] = (),
        baselines: Mapping[str, Mapping[str, float]] | None = None,
        timing: Mapping[str, Any] | None = None,
        variations: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Path:
        """Writes ``result.json`` atomically and returns its path.

        Of several workers the first writes it; the others return where it will be.

        Args:
            metrics: of the whole run, name -> number.
            model, variant: the trained model, if any.
            history: one dict an epoch.
            baselines: baseline's name -> metrics.
            timing: measured seconds and rates; the wall time over all attempts (an
                interrupted one counts up to its last checkpoint), the peak memory and
                the dates are added.
            variations: of the model in an ablation, name -> metrics.

        Raises:
            InputError: the cell uses results of other parameters, see ``cells``, or the
                record cannot be written; an older one stays.
        """
        self.check_order()
        record = {
            "schema": SCHEMA,
            "run": self.name,
            "model": model,
            "variant": variant,
            **self._asked,
            **describe_origin(),
            "seed": self.parameters.get("seed"),
            "history": list(history),
            "metrics": metrics,
            "baselines": baselines or {},
            "variations": variations or {},
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
        if not (self.device and self.device.rank):
            files.write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
            shell = find_shell()
            if shell:  # for ci/execute.py: metadata of an output that shows nothing
                about = {"record": str(relative(path))}
                shell.display_pub.publish({}, about)
        return path


def _make_name(record: Mapping[str, Any]) -> str:
    """The name of a run: the same for the same parameters, data and workers."""
    asked, data, notebook = record["parameters"], record["data"], record["notebook"]
    identity = {k: v for k, v in asked.items() if k not in _WITHOUT_EFFECT}
    if _count_workers(record) > 1:
        identity["workers"] = _count_workers(record)
    text = json.dumps([notebook, identity, data], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    labels = [notebook, identity.get("variant"), Path(data["name"]).name, digest]
    return "-".join(label for label in labels if label)


def describe(data: Any) -> dict[str, Any]:
    """Name, sha256 and counts of a loaded data set, for the record."""
    return {"name": data.name, "sha256": data.sha256, "counts": data.counts()}


def check(record: Mapping[str, Any], where: Path) -> None:
    """Raises InputError unless a record has the keys and types of ``KEYS``.

    Args:
        record: as read from JSON.
        where: the path that the sentence names.
    """
    wrong = [k for k, kind in KEYS.items() if not isinstance(record.get(k, ...), kind)]
    if not wrong:
        tables = {name: record[name].values() for name in ("baselines", "variations")}
        tables |= {"metrics": [record["metrics"]], "history": record["history"]}
        wrong = [name for name, rows in tables.items() if not all(map(_is_row, rows))]
        kinds = type(record["data"].get("name")), type(_count_workers(record))
        if kinds != (str, int) or record["schema"] != SCHEMA:
            wrong.append("data, device, schema")
    if wrong:
        raise InputError(
            f"{where}: not a record of schema {SCHEMA} (look at {', '.join(wrong)}): "
            "remove the file, or run its notebook again."
        )


def _is_row(row: Any) -> bool:
    """Whether it is a dict of numbers."""
    return isinstance(row, dict) and {type(v) for v in row.values()} <= {int, float}


def _count_workers(record: Mapping[str, Any]) -> Any:
    return (record["device"] or {}).get("workers", 1)


def folders(text: str) -> list[Path]:
    """The folders that ``records`` names: one, or several separated by commas.

    Raises:
        InputError: a name is empty, which would be the whole repository.
    """
    if str(text).strip() and files.resolve(text).is_dir():
        return [files.resolve(text)]
    names = [part.strip() for part in str(text).split(",")]
    if not all(names):
        raise InputError(f'records="{text}": a folder has no name; try "results".')
    return [files.resolve(name) for name in names]


def load(text: str) -> list[dict[str, Any]]:
    """Reads every ``result.json`` below one or several folders.

    Args:
        text: a path, or several separated by commas; a relative one starts at the
            repository's root.

    Returns:
        The records, ordered by run name. The added key ``label`` names the setting:
        the parameter ``label`` or else the folder, ``<experiment> <setting>`` below
        ``results`` and the run's name elsewhere.

    Raises:
        InputError: a folder has no record, or a file is not a record.
    """
    paths: set[Path] = set()
    for folder in folders(text):
        below = set(folder.rglob("result.json"))
        if not below:
            raise InputError(
                f'records="{relative(folder)}": no result.json below it; run notebooks '
                '03 and 04, or "bash ci/run.sh", first.'
            )
        paths |= below
    records = []
    for path in sorted(paths):
        record = _read(path)
        label = record["parameters"].get("label") or record["run"]
        if label == record["run"] and path.parent.name.startswith("seed-"):
            label = " ".join(path.parts[-4:-2]).replace(" default", "")
        records.append({**record, "label": label})
    return sorted(records, key=lambda record: record["run"])


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, ValueError):
        record = None
    record = {**_ADDED, **record} if isinstance(record, dict) else {}
    check(record, path)
    return record


def describe_origin() -> dict[str, Any]:
    """Versions, machine, commit and changed files, for a record.

    The commit has the suffix ``-dirty`` where files differ from it, and is None outside
    git. Files in ``results/`` affect no run, so changes there count for nothing.
    """
    commit, changed = None, []
    with suppress(OSError, subprocess.CalledProcessError):
        commit = _git("rev-parse", "HEAD").strip()
        status = _git("status", "--porcelain", "-z", "--no-renames", "--", ":!results")
        changed = sorted(entry[3:] for entry in status.split("\0") if entry)
        commit += "-dirty" if changed else ""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[package.replace("-cpu", "")] = metadata.version(package)
    name, flags = read_cpu()
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    machine = {"cpu": name, "cores": len(usable(0)), "system": platform.platform()}
    with suppress(AttributeError, OSError, ValueError):  # Windows
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        machine["memory_gb"] = round(memory / 1e9, 1)
    machine["cpu_flags"] = sorted(flags & _FLAGS)
    origin = {"versions": installed, "machine": machine}
    return {**origin, "git_commit": commit, "changed_files": changed}


def _git(*words: str) -> str:
    command, quiet = ["git", "--no-optional-locks", *words], subprocess.DEVNULL
    return subprocess.check_output(command, cwd=files.ROOT, text=True, stderr=quiet)


def peak_memory_mb() -> int:
    """Largest resident size of this process so far, in MB (10^6 bytes)."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
