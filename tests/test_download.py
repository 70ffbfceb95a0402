"""Downloading MovieLens-1M, from a small server on this machine."""

import contextlib
import hashlib
import io
import random
import re
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lib.data import sources
from lib.errors import InputError
from lib.files import ROOT

FILES = {
    name: random.Random(name).randbytes(90_000) for name in sources.MOVIELENS_FILES
}


def make_archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ml-1m/README", "not needed")
        for name, content in FILES.items():
            archive.writestr(f"ml-1m/{name}", content)
    return buffer.getvalue()


ARCHIVE = make_archive()
DAMAGED = ARCHIVE[:200_000] + b"\0" * 100 + ARCHIVE[200_100:]  # in the last file


class Mirrors(BaseHTTPRequestHandler):
    """A mirror for each path; the server notes the paths that were requested."""

    def do_GET(self):
        self.server.paths.append(self.path)
        self.server.before_reply()
        bodies = {"/wrong": b"something else" * 10_000, "/damaged": DAMAGED}
        body = bodies.get(self.path, ARCHIVE)
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:150_000] if self.path == "/breaks" else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirrors)
    server.paths, server.before_reply = [], lambda: None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "here" / "data"


@pytest.fixture
def fetch(server, data_dir, monkeypatch):
    """Downloads from the mirrors of the given paths; checks that nothing is left."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def fetch(*paths, archive=ARCHIVE, port=server.server_port):
        urls = [f"http://127.0.0.1:{port}{path}" for path in paths]
        sha256 = hashlib.sha256(archive).hexdigest()
        try:
            return sources.fetch_movielens(data_dir, urls, sha256)
        finally:
            assert {path.name for path in data_dir.iterdir()} <= {"ml-1m", "ml-1m.zip"}

    return fetch


def assert_complete(folder):
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_the_three_files_are_unpacked_and_a_second_call_makes_no_request(
    fetch, server, data_dir
):
    folder = fetch("/good")
    assert folder == data_dir / "ml-1m"
    assert_complete(folder)
    (data_dir / "ml-1m.zip").unlink()  # the archive is not needed any more
    assert fetch("/good") == folder
    assert server.paths == ["/good"]


@pytest.mark.parametrize("first", ["/wrong", "/gone", "/breaks"])
def test_the_second_mirror_serves_where_the_first_fails(fetch, server, first):
    assert_complete(fetch(first, "/good"))
    assert server.paths == [first, "/good"]


def test_an_archive_with_another_hash_is_refused_and_not_kept(fetch, data_dir):
    with pytest.raises(InputError, match="/wrong: .*hash.* download ml-1m.zip"):
        fetch("/wrong")
    assert not list(data_dir.iterdir())


def test_when_all_mirrors_fail_one_sentence_says_which_file_to_put_where(
    fetch, server, data_dir
):
    with pytest.raises(InputError) as caught:
        fetch("/gone", "/breaks")
    message = str(caught.value)
    assert "\n" not in message
    assert "/gone: 404" in message
    assert "/breaks: " in message
    advice = re.search("download (.*) by other means and put it into (.*), or", message)
    assert advice.groups() == ("ml-1m.zip", str(data_dir))
    (data_dir / "ml-1m.zip").write_bytes(ARCHIVE)  # as advised
    server.paths.clear()
    assert_complete(fetch("/gone"))
    assert server.paths == []


def test_no_server_at_all_is_refused_and_a_later_call_works(fetch):
    with pytest.raises(InputError, match="could not be downloaded"):
        fetch("/good", port=1)
    assert_complete(fetch("/good"))


def test_a_wrong_archive_from_elsewhere_is_replaced(fetch, data_dir):
    data_dir.mkdir(parents=True)
    (data_dir / "ml-1m.zip").write_bytes(b"no archive")
    assert_complete(fetch("/good"))
    assert (data_dir / "ml-1m.zip").read_bytes() == ARCHIVE


def test_a_process_that_comes_second_takes_the_folder_of_the_first(
    fetch, server, data_dir
):
    def unpack_elsewhere():
        (data_dir / "ml-1m").mkdir()
        for name, content in FILES.items():
            (data_dir / "ml-1m" / name).write_bytes(content)

    server.before_reply = unpack_elsewhere
    assert_complete(fetch("/good"))


def test_unpacking_that_fails_half_way_leaves_no_folder(fetch, data_dir):
    """The first files are sound, so without care they would be taken for the whole."""
    with pytest.raises(zipfile.BadZipFile):
        fetch("/damaged", archive=DAMAGED)
    assert not (data_dir / "ml-1m").exists()
    assert_complete(fetch("/good"))


KILLED = """
import os, pathlib, shutil, sys
from lib.data import sources
def copy_half(source, target, *arguments):
    target.write(source.read(1000))
    target.flush()
    os._exit(9)
shutil.copyfileobj = copy_half
sources.fetch_movielens(pathlib.Path(sys.argv[1]), [sys.argv[2]], sys.argv[3])
"""


def test_a_process_killed_while_it_unpacks_does_no_harm_to_the_next(
    fetch, server, data_dir
):
    url = f"http://127.0.0.1:{server.server_port}/good"
    sha256 = hashlib.sha256(ARCHIVE).hexdigest()
    command = [sys.executable, "-c", KILLED, str(data_dir), url, sha256]
    assert subprocess.run(command, cwd=ROOT).returncode == 9
    (unfinished,) = data_dir.glob("unfinished-*")
    assert [path.stat().st_size for path in unfinished.rglob("*.dat")] == [1000]
    assert not (data_dir / "ml-1m").exists()
    assert_complete(sources.fetch_movielens(data_dir, [url], sha256))
