"""Where a record comes from: code, packages, and what the process used."""

import platform
import subprocess
import sys
from importlib import metadata

from lib import sources

_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "npu_device", "numpy", "pandas")


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
    return subprocess.run(command, cwd=sources.ROOT, capture_output=True, text=True)


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
