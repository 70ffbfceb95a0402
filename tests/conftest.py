"""Fixtures and settings that several test modules share."""

import importlib
import os
from pathlib import Path

import pytest
from hypothesis import settings

# So that their asserts count under python -O too.
pytest.register_assert_rewrite("cards", "shared")

# The same examples in every run, and no test depends on the speed of the machine.
settings.register_profile(
    "repository", derandomize=True, deadline=None, max_examples=20
)
settings.load_profile("repository")


@pytest.fixture
def worker(monkeypatch):
    """A function that imports a module of ci/bench by its name."""
    bench = Path(__file__).resolve().parents[1] / "ci" / "bench"
    monkeypatch.syspath_prepend(str(bench))
    return importlib.import_module


@pytest.fixture(scope="session")
def real_data():
    """The folder of the real data sets, for the tests of their published counts."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RECO_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(
            f"NOT CHECKED AGAINST THE REAL DATA: no folder {folder}; set "
            "RECO_REAL_DATA to a folder that holds diginetica/ and ml-1m/"
        )
    return folder
