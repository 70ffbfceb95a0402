"""Prepared data: the format of the folder, and how a damaged one is refused."""

import json

import numpy as np
import pytest

from lib.data import prepared
from lib.errors import InputError

SESSIONS = {
    "train_items": np.array([1, 2, 1], np.int32),
    "train_offsets": np.array([0, 3]),
    "train_days": np.array(["2016-05-01"], "datetime64[D]"),
    "test_items": np.array([2, 1], np.int32),
    "test_offsets": np.array([0, 2]),
    "test_days": np.array(["2016-05-09"], "datetime64[D]"),
    "item_ids": np.array(["chair", "Tisch\u00a0x"]),
}
RECORD = {
    "kind": "sessions",
    "counts": {"items": 2},
    "rules": {"order": "file"},
    "source": {"name": "clicks.csv", "sha256": "0123"},
}


@pytest.fixture
def folder(tmp_path):
    for name, array in SESSIONS.items():
        np.save(tmp_path / f"{name}.npy", array)
    prepared.write_record(tmp_path, RECORD)
    return tmp_path


def test_a_folder_is_read_as_it_was_written(folder):
    assert prepared.is_prepared(folder)
    data = prepared.load(folder, "sessions")
    assert data[1:] == ({"items": 2}, {"order": "file"}, "clicks.csv", "0123")
    assert data.arrays.keys() == SESSIONS.keys()
    for name, array in data.arrays.items():
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, SESSIONS[name])
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[-1]


def change(folder, **entries):
    about = json.loads((folder / "prepared.json").read_text())
    (folder / "prepared.json").write_text(json.dumps({**about, **entries}))


def flip_last_byte(folder):
    file = folder / "train_items.npy"
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


def pickle_ids(folder):
    np.save(folder / "item_ids.npy", SESSIONS["item_ids"].astype(object))
    prepared.write_record(folder, RECORD)  # its hash is right


def widen(folder):
    np.save(folder / "train_items.npy", SESSIONS["train_items"].astype(np.int64))
    prepared.write_record(folder, RECORD)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: change(f, version=2), "has version 2 .* reads version 1"),
        (lambda f: change(f, version=None), "has version None"),
        (lambda f: change(f, kind="ratings"), "'ratings', and sessions are needed"),
        (lambda f: change(f, sha256={}), "damaged .*train_items.npy"),
        (lambda f: change(f, sha256=[]), "damaged"),
        (flip_last_byte, "damaged .*train_items.npy has not the SHA-256"),
        (lambda f: (f / "test_days.npy").unlink(), "damaged .*test_days.npy"),
        (lambda f: (f / "item_ids.npy").write_bytes(b""), "damaged"),
        (pickle_ids, "damaged .*Python objects"),
        (widen, "damaged .*train_items.npy holds int64"),
        (lambda f: (f / "prepared.json").write_text("[1]"), "damaged"),
        (lambda f: (f / "prepared.json").write_text("{"), "damaged"),
        (lambda f: change(f, source=None), "damaged"),
    ],
)
def test_a_folder_of_another_version_or_damaged_is_refused(folder, damage, says):
    damage(folder)
    with pytest.raises(InputError, match=says) as refusal:
        prepared.load(folder, "sessions")
    assert "prepare the data again, with bash ci/prepare.sh." in str(refusal.value)


@pytest.mark.parametrize("dtype", [np.int32, np.float32, "datetime64[D]", "<U3"])
def test_an_array_written_in_pieces_is_the_array(dtype, tmp_path):
    whole = np.arange(1000).astype(dtype)
    pieces = np.split(whole, [0, 1, 1, 600])
    prepared.write_array(tmp_path / "a.npy", pieces, 1000, dtype)
    np.save(tmp_path / "b.npy", whole)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_pieces_of_another_length_are_a_fault(tmp_path):
    with pytest.raises(ValueError, match="3 entries instead of 4"):
        prepared.write_array(tmp_path / "a.npy", [np.arange(3)], 4, np.int64)
