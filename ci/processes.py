"""Worker processes of one job: all are started, watched, and ended together.

What a worker prints is in ``output/<device id>/worker_<device id>.log``. The link
``train_<device id>.log`` beside it, which led to the log of the newest single run,
leads there from then on; a single run turns it back, so neither overwrites the other.
"""

import os
import signal
import subprocess
import sys
import time

import psutil  # comes with ipykernel

from lib import files
from lib.files import ROOT

LINES_SHOWN = 30  # of the log of a worker that failed
PATIENCE_S = 3  # for others that fail with it


def run(workers):
    """Starts all; when one fails, ends the others and shows logs. Returns success."""
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
            known = log.with_name(log.name.replace("worker", "train"))
            if known.is_file() and not known.is_symlink():  # an earlier release's
                known.unlink()
            files.link(known, log.name)
            started.append((name, log, process))
            print(f"{name}: process {process.pid}, log {os.path.relpath(log, ROOT)}")
        while not any(p.poll() for _, _, p in started):
            if all(p.poll() == 0 for _, _, p in started):
                print("\n".join(read_log(started[0][1])))
                return True
            time.sleep(0.2)
        time.sleep(PATIENCE_S)  # one that dies takes others with it: show them all
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint")
        return False
    finally:
        for _, _, process in started:
            if process.poll() is None:
                end(process)
    for name, log, process in started:
        if process.returncode and process.returncode != -signal.SIGTERM:
            print("\n".join(read_log(log)[-LINES_SHOWN:]))
            how = f"exit status {process.returncode}"
            if process.returncode < 0:
                how = f"killed by {signal.Signals(-process.returncode).name}"
            print(f"\nFAILED: {name} ({how}); its log ends above.")
    print("All workers were ended. Start again to go on from the last checkpoint.")
    return False


def make_environment(env):
    """This environment without another job's words to its workers; and ``env``."""
    mine = ("TF_CONFIG", "CHIEF_DEVICE_ID", "RANK_", "CM_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(mine)}
    return {**kept, **env}


def end(process):
    """Ends a worker with its kernel, which is a session of its own."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    for child in family:
        child.terminate()
    _, alive = psutil.wait_procs(family, timeout=5)
    for child in alive:
        child.kill()
    process.kill()
    process.wait()


def read_log(log):
    """The lines of a log, without papermill's progress bar."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line and not line.startswith("Executing:")]
