"""Fetching MovieLens-1M, from a small server on this machine."""

import contextlib
import hashlib
import io
import os
import random
import re
import tempfile
import threading
import warnings
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lib.data import sources
from lib.errors import InputError

FILES = {
    name: random.Random(name).randbytes(90_000) for name in sources.MOVIELENS_FILES
}
ROOTED = Path(tempfile.gettempdir(), f"evil-{os.getpid()}.txt")
HOSTILE = ("../evil.txt", str(ROOTED), "ml-1m/../../evil.txt", "ml-1m/evil.txt")
HOSTILE += ("..\\evil.txt", "C:\\evil.txt", "//evil.txt", "ml-1m/ratings.dat/evil.txt")
LINK = 0o120777 << 16  # attributes of a symbolic link
N_SENT = 150_000  # by a mirror that breaks half way


def packed(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in HOSTILE:
            archive.writestr(name, "evil")
        for name in (
            "evil",
            f"ml-1m/{sources.MOVIELENS_FILES[0]}",
        ):  # the file comes again
            link = zipfile.ZipInfo(name)
            link.external_attr = LINK
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that stand there twice
                archive.writestr(link, str(ROOTED))
        for name, content in files.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                archive.writestr(f"ml-1m/{name}", content)
    return buffer.getvalue()


def with_field(archive, offset, value):
    """An archive whose list of contents says something else of ``ratings.dat``."""
    name = b"ml-1m/ratings.dat"
    at = archive.rindex(name, 0, len(archive)) - 46  # the last one is that of the list
    assert archive[at : at + 4] == b"PK\x01\x02"
    return archive[: at + offset] + value + archive[at + offset + len(value) :]


ARCHIVE = packed(FILES)
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()


class Mirrors(BaseHTTPRequestHandler):
    """What each path of the server does; requests are noted as (path, range)."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        self.server.meanwhile()
        body, status = ARCHIVE, 200
        if self.path == "/gone":
            body, status = b"not here", 404
        elif self.path == "/wrong":
            body = b"something else" * 10_000
        elif asked and self.path != "/no-range":
            start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1))
            body, status = (
                (ARCHIVE[start:], 206) if start < len(ARCHIVE) else (b"", 416)
            )
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:N_SENT] if self.path == "/breaks" else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirrors)
    server.requests, server.meanwhile = [], lambda: None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch, capfd):
    """Fetches from the mirrors given, in their order, to ``tmp_path/here/data``."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    data_dir = tmp_path / "here" / "data"
    data_dir.mkdir(parents=True)

    def fetch(*paths, sha256=SHA256, port=server.server_port):
        urls = [f"http://127.0.0.1:{port}{path}" for path in paths]
        try:
            return sources.fetch_movielens(data_dir, urls, sha256)
        finally:
            capfd.readouterr()  # progress bars
            assert not list(data_dir.glob("unfinished-*"))

    return fetch


def assert_complete(folder):
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_three_files_are_unpacked_and_no_hostile_member_is(fetch, tmp_path):
    folder = fetch("/good")
    assert folder == tmp_path / "here" / "data" / "ml-1m"
    assert_complete(folder)
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert not list(tmp_path.rglob("*evil*"))
    assert not ROOTED.exists()
    kept = {path.name for path in (tmp_path / "here" / "data").iterdir()}
    assert kept == {"ml-1m", "ml-1m.zip"}


def test_second_call_makes_no_request(fetch, server):
    first = fetch("/good")
    server.requests.clear()
    assert fetch("/good") == first
    first.with_suffix(".zip").unlink()  # the archive is not needed any more
    assert fetch("/good") == first
    assert server.requests == []


def test_archive_that_is_here_already_is_unpacked_without_a_request(
    fetch, server, tmp_path
):
    (tmp_path / "here" / "data" / "ml-1m.zip").write_bytes(ARCHIVE)
    assert_complete(fetch("/good"))
    assert server.requests == []


def test_process_that_comes_second_takes_the_folder_of_the_first(
    fetch, server, tmp_path
):
    folder = tmp_path / "here" / "data" / "ml-1m"

    def meanwhile():
        folder.mkdir()
        for name, content in FILES.items():
            (folder / name).write_bytes(content)

    server.meanwhile = meanwhile
    assert fetch("/good") == folder
    assert_complete(folder)


@pytest.mark.parametrize("first", ["/wrong", "/gone"])
def test_second_mirror_serves_where_the_first_does_not(fetch, server, first):
    assert_complete(fetch(first, "/good"))
    assert server.requests == [(first, None), ("/good", None)]


def test_broken_download_is_resumed_by_the_next_mirror(fetch, server):
    assert_complete(fetch("/breaks", "/good"))
    (_, nothing), (_, asked) = server.requests
    assert nothing is None
    n_kept = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1))
    assert 0 < n_kept <= N_SENT


def test_broken_download_is_resumed_by_the_next_call(fetch, server):
    with pytest.raises(InputError):
        fetch("/breaks")
    server.requests.clear()
    assert_complete(fetch("/good"))
    ((_, asked),) = server.requests
    assert re.fullmatch(r"bytes=[1-9]\d*-", asked)


def test_download_that_breaks_again_and_again_still_ends(fetch):
    for _ in range(len(ARCHIVE) // (N_SENT // 2)):
        with contextlib.suppress(InputError):
            assert_complete(fetch("/breaks"))
            return
    pytest.fail("no progress from call to call")


def test_mirror_that_cannot_resume_starts_again(fetch):
    assert_complete(fetch("/breaks", "/no-range"))


@pytest.mark.parametrize("surplus", [0, 1000])
def test_part_that_is_as_long_as_the_file_does_no_harm(fetch, tmp_path, surplus):
    part = tmp_path / "here" / "data" / "ml-1m.zip.part"
    part.write_bytes(b"x" * (len(ARCHIVE) + surplus))
    assert_complete(fetch("/good", "/good"))


def test_damaged_part_does_not_stop_a_later_call(fetch, tmp_path):
    part = tmp_path / "here" / "data" / "ml-1m.zip.part"
    part.write_bytes(b"x" * 1000)
    with pytest.raises(InputError):
        fetch("/good")
    assert_complete(fetch("/good"))


def test_all_mirrors_failing_is_one_sentence_that_says_what_to_do(fetch, tmp_path):
    with pytest.raises(InputError) as caught:
        fetch("/gone", "/wrong", "/breaks")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("/gone: ", "/wrong: ", "/breaks: ", "download ml-1m.zip", "unpack it"):
        assert part in message
    assert not (tmp_path / "here" / "data" / "ml-1m").exists()


def test_no_server_at_all_is_an_input_error_and_a_later_call_works(fetch):
    with pytest.raises(InputError, match="could not be fetched"):
        fetch("/good", port=1)
    assert_complete(fetch("/good"))


@pytest.mark.parametrize(
    "archive",
    [
        packed({"ratings.dat": b"1"}),
        b"no archive",
        with_field(ARCHIVE, 24, (2**32 - 2).to_bytes(4, "little")),
        with_field(ARCHIVE, 24, (89_999).to_bytes(4, "little")),
        with_field(ARCHIVE, 8, b"\x01\0"),
        with_field(ARCHIVE, 10, b"\x63\0"),
        ARCHIVE[:100_000] + b"\0" * 100 + ARCHIVE[100_100:],
    ],
    ids=["incomplete", "none", "bomb", "shorter", "encrypted", "unknown", "damaged"],
)
def test_archive_of_another_content_leaves_nothing_half_done(fetch, tmp_path, archive):
    data_dir = tmp_path / "here" / "data"
    (data_dir / "ml-1m.zip").write_bytes(archive)
    with pytest.raises(InputError):
        fetch("/good", sha256=hashlib.sha256(archive).hexdigest())
    assert [path.name for path in data_dir.iterdir()] == ["ml-1m.zip"]
    assert_complete(fetch("/good"))  # the right hash replaces the archive
