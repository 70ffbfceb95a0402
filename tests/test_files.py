"""Files and folders are written completely or not at all."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from shared import no_space

from lib import files
from lib.errors import InputError, check_choice
from lib.files import replace_whole


def make(path, content):
    """Writes a file, or a folder with files where ``content`` is a dict."""
    if isinstance(content, dict):
        path.mkdir()
        for name, inside in content.items():
            make(path / name, inside)
    else:
        path.write_text(content)


def tree(folder):
    """All paths below a folder, with the text of files."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


CONTENTS = [("old", "new"), ({"a": "old"}, {"b": "new", "c": {"d": "x"}})]


@pytest.mark.parametrize(("old", "new"), CONTENTS)
def test_a_file_or_folder_is_made_and_replaced(tmp_path, old, new):
    path, expected = tmp_path / "deep" / "x.txt", tmp_path / "expected"
    for content in (old, new):
        with replace_whole(path) as unfinished:
            assert not unfinished.exists()
            assert unfinished.suffix == ".txt"
            make(unfinished, content)
    expected.mkdir()
    make(expected / "x.txt", new)
    assert tree(tmp_path / "deep") == tree(expected)


@pytest.mark.parametrize(("old", "new"), CONTENTS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, InputError])
def test_a_block_that_fails_changes_nothing_and_its_error_is_seen(
    tmp_path, old, new, error
):
    make(tmp_path / "x", old)
    before = tree(tmp_path)

    def fail():
        with replace_whole(tmp_path / "x") as path:
            make(path, new)
            raise error("mine")

    with pytest.raises(error, match="mine"):
        fail()
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("old", "new"), CONTENTS)
@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
def test_a_full_disk_changes_nothing_and_is_one_sentence(
    tmp_path, monkeypatch, old, new, function
):
    make(tmp_path / "x", old)
    before = tree(tmp_path)

    def write():
        with replace_whole(tmp_path / "x") as path:
            if function == "open":
                no_space()
            make(path, new)
            monkeypatch.setattr(files.os, function, no_space)

    with pytest.raises(InputError) as caught:
        write()
    monkeypatch.undo()
    start = f"{tmp_path}/x cannot be written (No space left on device): free some space"
    assert str(caught.value).startswith(start)
    assert tree(tmp_path) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from lib.files import replace_whole
with replace_whole(Path(sys.argv[1], "x")) as path:
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="there, no process can be asked")
def test_the_next_writer_removes_what_a_killed_one_left_and_no_more(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=files.ROOT)
    (tmp_path / "notes.unfinished").write_text("mine")
    assert len(list(tmp_path.iterdir())) == 2
    with replace_whole(tmp_path / "y") as path:
        path.write_text("whole")
        files.write_text(tmp_path / "z", "another writer, while y is unfinished")
    assert {each.name for each in tmp_path.iterdir()} == {"notes.unfinished", "y", "z"}


def test_a_file_takes_no_folders_place_and_a_folder_no_files(tmp_path):
    make(tmp_path / "folder", {"a": "old"})
    make(tmp_path / "file", "old")
    before = tree(tmp_path)
    for name, content in (("folder", "new"), ("file", {"a": "new"})):
        with pytest.raises(InputError), replace_whole(tmp_path / name) as path:
            make(path, content)
        assert tree(tmp_path) == before


def test_of_two_concurrent_writers_one_wins_completely(tmp_path):
    def write(letter):
        files.write_text(tmp_path / "x", letter * 100_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, "abcdefgh" * 8))
    (text,) = tree(tmp_path).values()
    assert text == text[0] * 100_000


def test_a_choice_that_is_not_allowed_is_refused_with_those_allowed():
    check_choice("order", "file", ("timeframe", "file"))
    for value in ("File", None, [], 1):
        with pytest.raises(InputError) as caught:
            check_choice("order", value, ("timeframe", "file"))
        assert str(caught.value) == (
            f'order="{value}": allowed are "timeframe", "file".'
        )
