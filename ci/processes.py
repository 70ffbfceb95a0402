"""Worker processes of one job: all are started, watched, and ended together.

The output of a worker is in ``output/<device id>/worker_<device id>.log``. The link
``train_<device id>.log`` beside it points to the newest log: to this file after a job,
to the run's own log after a single run. Neither overwrites the other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil  # comes with ipykernel

from lib import files
from lib.files import ROOT

Worker = tuple[str, Path, list[str], dict[str, str]]  # name, log, command, variables
LINES_SHOWN = 30  # of the log of a worker that failed
PATIENCE_S = 3  # wait after a failure: other workers often fail because of it
GRACE_S = 2  # from the request to end until a process is killed


def run(workers: Iterable[Worker]) -> bool:
    """Starts all workers; if one fails, ends the others and shows the logs.

    Returns:
        True if all succeeded.
    """
    started = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        for name, log, command, env in workers:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "w", encoding="utf-8") as file:
                process = subprocess.Popen(
                    command,
                    env=make_environment(env),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            train_log = log.with_name(log.name.replace("worker", "train"))
            if train_log.is_file() and not train_log.is_symlink():  # an older release's
                train_log.unlink()
            files.link(train_log, log.name)
            started.append((name, log, process))
            print(f"{name}: process {process.pid}, log {os.path.relpath(log, ROOT)}")
        while not any(p.poll() for _, _, p in started):
            if all(p.poll() == 0 for _, _, p in started):
                print("\n".join(read_log(started[0][1])))
                return True
            time.sleep(0.2)
        time.sleep(PATIENCE_S)  # to show the logs of all workers that fail
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes from the last checkpoint")
        return False
    finally:
        running = [process for _, _, process in started if process.poll() is None]
        end([process.pid for process in running])
        for process in running:
            process.wait()
    for name, log, process in started:
        if process.returncode and process.returncode != -signal.SIGTERM:
            print("\n".join(read_log(log)[-LINES_SHOWN:]))
            how = f"exit status {process.returncode}"
            if process.returncode < 0:
                how = f"killed by {signal.Signals(-process.returncode).name}"
            print(f"\nFAILED: {name} ({how}); its log ends above.")
    print(
        "All workers were ended. Start again to resume from the last checkpoint; on "
        "NPUs, wait ten seconds before."
    )
    return False


def make_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Copies os.environ without another job's or kernel's variables; adds ``env``."""
    of_jobs = ("TF_CONFIG", "CHIEF_FOLDER", "RUN_FOLDER", "RANK_", "CM_")
    of_jobs += ("JPY_SESSION_NAME",)
    others = {k: v for k, v in os.environ.items() if not k.startswith(of_jobs)}
    return {**others, **env}


def end(pids: Iterable[int]) -> None:
    """Ends processes with all that they have started, such as kernels.

    A kernel is in a session of its own, so neither Ctrl-C nor the end of the process
    that started it reaches it.
    """
    family = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            family += [process, *process.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=GRACE_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def read_log(log: Path) -> list[str]:
    """Returns the lines of a log, without papermill's progress bar."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line and not line.startswith("Executing:")]
