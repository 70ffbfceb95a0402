"""Fixtures and settings that several test modules share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("cards")  # so its asserts count under python -O too

# The same examples in every run, and no test depends on the speed of the machine.
settings.register_profile(
    "repository", derandomize=True, deadline=None, max_examples=20
)
settings.load_profile("repository")


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
