"""Servers that misbehave: either the right file or one sentence, and the cache holds no other."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from torchsaliency.errors import CheckpointError
from torchsaliency.zoo import download, load_model
from torchsaliency.zoo.checkpoints import read_checkpoint
from torchsaliency.zoo.download import PublishedFile, cache_folder, fetch_file
from torchsaliency.zoo.sources.ssl import ENCODERS

KIND = "downloads"
with torch.random.fork_rng():
    torch.manual_seed(0)  # every process collects the same tests
    LAYER, OTHER = nn.Linear(400, 200), nn.Linear(400, 200)
PATH = "/authors/weights.pth.tar"


def saved(state: object) -> bytes:
    torch.save(state, buffer := io.BytesIO())
    return buffer.getvalue()


RIGHT = saved({"state_dict": LAYER.state_dict(), "epoch": 800})
CHANGED = saved({"state_dict": OTHER.state_dict(), "epoch": 801})
HTML = b"<!DOCTYPE html><html><body>Please sign in to the wireless network</body></html>"
MD5 = hashlib.md5(RIGHT, usedforsecurity=False).hexdigest()


def is_right(path: Path) -> None:
    """Refuse what does not fit the layer, as the encoders' own check does."""
    read_checkpoint(path).fill(nn.Linear(400, 200))


class Server(http.server.ThreadingHTTPServer):
    """Answers every request as its behaviour says, and counts the requests."""

    daemon_threads = True

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave, self.asked = behave, []
        self.half_sent = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Say nothing of connections that broke: that is what they are for."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.behave(self)

    def log_message(self, *args):
        """Say nothing."""

    def begin(self, code=200, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def drip(self, body, pieces, pause):
        """Send a body slowly."""
        size = -(-len(body) // pieces)
        for number in range(pieces):
            self.wfile.write(body[number * size : (number + 1) * size])
            self.wfile.flush()
            if number >= pieces // 2:
                self.server.half_sent.set()
            time.sleep(pause)

    def reset(self):
        """Break the connection as a crashed machine does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def answer(handler, body=RIGHT, code=200, **headers):
    handler.begin(code, **{"Content_Length": len(body)} | headers)
    handler.wfile.write(body)


def error(code, handler):
    answer(handler, HTML, code, Content_Type="text/html")


def without_length(body, handler):
    handler.begin()
    handler.wfile.write(body)


def chunked(handler, body=RIGHT, size=None, end=b"0\r\n\r\n"):
    handler.protocol_version = "HTTP/1.1"
    handler.begin(Transfer_Encoding="chunked", Connection="close")
    for start in range(0, len(body), 1000):
        piece = body[start : start + 1000]
        handler.wfile.write(f"{size or hex(len(piece))[2:]}\r\n".encode() + piece + b"\r\n")
    handler.wfile.write(end)


def dripping(handler):
    handler.begin(Content_Length=len(RIGHT))
    handler.drip(RIGHT, pieces=10, pause=0.1)


def redirected(where, handler):
    if handler.path == PATH:
        handler.begin(302, Location=where, Content_Length=0)
    else:
        answer(handler)


def to_another_port(handler):
    with Server(answer) as other:
        handler.begin(301, Location=f"{other.address}/moved.pth", Content_Length=0)
        other.handle_request()


def truncated(handler, **headers):
    answer(handler, RIGHT[:5000], **{"Content_Length": len(RIGHT)} | headers)


def hanging(_):
    time.sleep(3)


def hanging_inside(handler):
    handler.begin(Content_Length=len(RIGHT))
    handler.wfile.write(RIGHT[:5000])
    handler.wfile.flush()
    time.sleep(3)


def resetting(handler, sent=RIGHT[:5000]):
    handler.begin(Content_Length=len(RIGHT))
    handler.wfile.write(sent)
    handler.reset()


def speaking_another_protocol(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return exec, (f"open({os.environ.get('TRAP', '/nowhere')!r}, 'w').write('executed')",)


GOOD = {
    "plain": answer,
    "chunked": chunked,
    "compressed on the way": lambda handler: answer(
        handler, gzip.compress(RIGHT), Content_Encoding="gzip"
    ),
    "no length": partial(without_length, RIGHT),
    "another content type": partial(answer, Content_Type="text/html; charset=utf-8"),
    "more bytes than announced": lambda handler: answer(
        handler, RIGHT + b"more", Content_Length=len(RIGHT)
    ),
    "slow": dripping,
    "redirect": partial(redirected, "/elsewhere/file.pth"),
    "redirect to another port": to_another_port,
}

BAD = {
    "404": (partial(error, 404), "answered 404 Not Found"),
    "403": (partial(error, 403), "answered 403 Forbidden"),
    "429": (partial(error, 429), "answered 429"),
    "500": (partial(error, 500), "answered 500"),
    "503": (partial(error, 503), "answered 503"),
    "a web page": (partial(answer, body=HTML), "it is a web page"),
    "a web page of unknown length": (partial(without_length, HTML), "it is a web page"),
    "JSON": (partial(answer, body=b'{"error": "gone"}'), "it is a text"),
    "nothing": (partial(answer, body=b""), "damaged or of another architecture"),
    "no content": (lambda handler: handler.begin(204), "damaged or of another architecture"),
    "random bytes": (partial(answer, body=random.Random(0).randbytes(9000)), "damaged or of"),
    "truncated": (truncated, "the connection broke"),
    "truncated, of unknown length": (partial(without_length, RIGHT[:-5000]), "damaged or of"),
    "truncated before it was sent": (partial(answer, body=RIGHT[:-5000]), "damaged or of"),
    "more bytes, of unknown length": (partial(without_length, RIGHT + b"more"), "damaged or of"),
    "a huge length": (partial(truncated, Content_Length=10**15), "the disk has"),
    "a negative length": (partial(truncated, Content_Length=-5), "a length of '-5'"),
    "a length that is no number": (partial(truncated, Content_Length="many"), "a length of 'many'"),
    "broken chunks": (partial(chunked, size="zz"), "the connection broke"),
    "chunks without an end": (partial(chunked, body=RIGHT[:9000], end=b""), "connection broke"),
    "broken compression": (partial(answer, Content_Encoding="gzip"), "cannot be decompressed"),
    "silence": (hanging, "nothing came for 0.5 seconds"),
    "silence in the middle": (hanging_inside, "nothing came for 0.5 seconds"),
    "a reset in the middle": (resetting, "reset by peer|connection broke"),
    "a reset at once": (lambda handler: handler.reset(), "reset by peer|connection broke"),
    "a redirect to itself": (partial(redirected, PATH), "30 redirects"),
    "a redirect to a file": (partial(redirected, "file:///etc/passwd"), "file:///etc/passwd"),
    "a redirect to FTP": (partial(redirected, "ftp://127.0.0.1/weights.pth"), "ftp://127.0.0.1"),
    "a redirect to nowhere": (partial(redirected, "http://"), "could not be fetched"),
    "another protocol": (speaking_another_protocol, "could not be fetched"),
    "another architecture": (
        partial(answer, body=saved(nn.Linear(3, 2).state_dict())),
        "damaged or of another architecture",
    ),
    "NaN": (
        partial(answer, body=saved({k: v * torch.nan for k, v in LAYER.state_dict().items()})),
        "damaged or of another architecture",
    ),
    "code": (partial(answer, body=pickle.dumps({"state_dict": Trap()})), "damaged or of"),
}


@pytest.fixture(autouse=True)
def on_this_machine_only(monkeypatch, tmp_path):
    """Forbid connections to other machines, and keep the cache in the test's folder."""
    connect = socket.socket.connect

    def local(self, address):
        assert address[0] in {"127.0.0.1", "::1"}, address
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    for name in (*os.environ,):
        if name.lower().endswith("_proxy") or name.startswith("TORCHSALIENCY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TORCHSALIENCY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "TIMEOUT", 0.5)


@pytest.fixture
def serve():
    """Return a function that starts a server."""
    servers = []

    def start(behave):
        servers.append(Server(behave))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(server, hash="", path=PATH):  # noqa: A002 (the field's name)
    return fetch_file(PublishedFile(server.address + path, hash), name="ssl/x", check=is_right)


def files():
    """Return the names of all files in the cache but locks."""
    found = [path for path in cache_folder().rglob("*") if not path.is_dir()]
    return {path.name for path in found if path.suffix != ".lock"}


def assert_right(path):
    assert path.read_bytes() == RIGHT
    assert files() == {path.name, f"{path.name}.json"}
    record = json.loads(path.with_name(f"{path.name}.json").read_bytes())
    assert record["sha256"] == hashlib.sha256(RIGHT).hexdigest()
    assert record["size"] == len(RIGHT)


def assert_refused(match, call):
    with pytest.raises(CheckpointError, match=match) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.endswith(".")
    assert "weights_only" not in message


@pytest.mark.parametrize("behaviour", GOOD)
def test_what_arrives_whole_is_kept(behaviour, serve, tally):
    server = serve(GOOD[behaviour])
    path = fetch(server)
    assert_right(path)
    server.behave = partial(error, 500)
    assert fetch(server) == path
    tally(KIND, "servers with their own way to send the right file", 1, 1, "it is kept")


@pytest.mark.parametrize("behaviour", BAD)
def test_what_is_not_the_file_is_refused_and_not_kept(
    behaviour, serve, tally, monkeypatch, tmp_path
):
    monkeypatch.setenv("TRAP", str(tmp_path / "trap"))
    behave, match = BAD[behaviour]
    server = serve(behave)
    assert_refused(match, lambda: fetch(server))
    assert files() == set()
    assert not (tmp_path / "trap").exists()
    server.behave = answer
    assert_right(fetch(server))
    tally(KIND, "servers that fail or send something else", 1, 1, "refused, nothing kept")


@pytest.mark.parametrize(
    "given", [f"md5:{MD5}", f"md5:{MD5[:8]}", f"sha256:{hashlib.sha256(RIGHT).hexdigest()}"]
)
def test_a_published_hash_is_compared(given, serve, tally):
    assert_refused(
        "begins with .* and not with", lambda: fetch(serve(partial(answer, body=CHANGED)), given)
    )
    assert files() == set()
    assert_right(fetch(serve(answer), given))
    tally(KIND, "files with another hash than published", 1, 1, "refused, nothing kept")


def test_a_file_that_the_publisher_changed_is_refused(serve, tally):
    server = serve(answer)
    path = fetch(server)
    path.unlink()
    server.behave = partial(answer, body=CHANGED)
    assert_refused(f"its SHA-256 is .* as {path}.json says", lambda: fetch(server))
    assert files() == {f"{path.name}.json"}
    path.with_name(f"{path.name}.json").unlink()
    assert fetch(server).read_bytes() == CHANGED
    tally(KIND, "files that changed between two fetches", 1, 1, "refused, nothing kept")


def swap_for_a_link(path):
    path.with_name("elsewhere").write_bytes(CHANGED)
    path.unlink()
    path.symlink_to(path.with_name("elsewhere"))


def flip_a_bit(path):
    body = bytearray(RIGHT)
    body[len(body) // 2] ^= 4
    path.write_bytes(body)


def make_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def make_a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "one bit": flip_a_bit,
    "truncated": lambda path: path.write_bytes(RIGHT[:5000]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(RIGHT + b"x"),
    "another file": lambda path: path.write_bytes(CHANGED),
    "a link to another file": swap_for_a_link,
    "a folder": make_a_folder,
    "a pipe": make_a_pipe,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_cached_file_that_changed_is_named(damage, serve, tally):
    path = fetch(server := serve(answer))
    DAMAGE[damage](path)
    assert_refused(f"The cached file {path} is not the one .* delete it", lambda: fetch(server))
    assert len(server.asked) == 1
    tally(KIND, "files of the cache that changed", 1, 1, "refused by name")


def test_a_link_to_nothing_is_replaced(serve, tally):
    path = fetch(server := serve(answer))
    path.unlink()
    path.symlink_to("nothing")
    assert_right(fetch(server))
    assert not path.is_symlink()
    tally(KIND, "files of the cache that went away", 1, 1, "fetched again")


@pytest.mark.parametrize("record", [None, b"", b"{", b"[]", b'{"sha256": 3}', b"\xff"])
def test_a_lost_record_is_written_anew_for_a_right_file_alone(record, serve, tally):
    path = fetch(server := serve(answer))
    written = path.with_name(f"{path.name}.json")
    for content in (RIGHT, HTML):
        path.write_bytes(content)
        written.unlink()
        if record is not None:
            written.write_bytes(record)
        if content == RIGHT:
            assert_right(fetch(server))
        else:
            assert_refused("it is a web page", lambda: fetch(server))
    assert len(server.asked) == 1
    tally(KIND, "records of hashes that were lost", 1, 1, "written for the right file alone")


def test_a_cache_that_is_a_file(serve, tally, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSALIENCY_CACHE", str(tmp_path / "taken"))
    (tmp_path / "taken").write_text("mine")
    assert_refused("cannot be used .* set TORCHSALIENCY_CACHE", lambda: fetch(serve(answer)))
    assert (tmp_path / "taken").read_text() == "mine"
    tally(KIND, "cache folders that cannot be used", 1, 1, "refused by name")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder without places")
def test_a_cache_that_cannot_be_written(serve, tally, monkeypatch):
    monkeypatch.setenv("TORCHSALIENCY_CACHE", "/proc/torchsaliency")
    assert_refused("cannot be used .* set TORCHSALIENCY_CACHE", lambda: fetch(serve(answer)))
    tally(KIND, "cache folders that cannot be used", 1, 1, "refused by name")


def test_a_full_cache_that_cannot_be_written_is_read(serve, tally, monkeypatch):
    path = fetch(server := serve(answer))
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("the cache is written"))
    assert fetch(server) == path
    tally(KIND, "cache folders that can only be read", 1, 1, "read")


def test_offline(serve, tally, monkeypatch):
    server = serve(answer)
    monkeypatch.setenv("TORCHSALIENCY_OFFLINE", "1")
    assert_refused("TORCHSALIENCY_OFFLINE forbids", lambda: fetch(server))
    assert server.asked == []
    monkeypatch.setenv("TORCHSALIENCY_OFFLINE", "0")
    path = fetch(server)
    monkeypatch.setenv("TORCHSALIENCY_OFFLINE", "1")
    assert fetch(server) == path
    assert len(server.asked) == 1
    tally(KIND, "requests while offline", 2, 2, "the cache, or refused; no connection")


@pytest.mark.parametrize(
    "name", ["ssl/swav", "torchvision/resnet18", "timm/resnet18", "hf/google/vit-base-patch16-224"]
)
def test_offline_no_source_connects(name, tally, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHSALIENCY_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def refuse(*args, **_):
        asked.append(args)
        raise OSError("connected")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert_refused("weights=FILE", lambda: load_model(name))
    assert asked == []
    tally(KIND, "requests while offline", 1, 1, "the cache, or refused; no connection")


@pytest.mark.parametrize("folder", ["", "/", "/mirrors/meta", "/mirrors/meta/"])
def test_a_mirror_takes_the_publishers_place(folder, serve, tally, monkeypatch):
    server = serve(answer)
    monkeypatch.setenv("TORCHSALIENCY_MIRROR", server.address + folder)
    published = replace(ENCODERS["moco_v2"].file, hash=f"md5:{MD5}")
    path = fetch_file(published, name="ssl/moco_v2", check=is_right)
    assert_right(path)
    assert "dl.fbaipublicfiles.com" in path.parts
    where = published.address.removeprefix("https://dl.fbaipublicfiles.com")
    assert server.asked == [folder.rstrip("/") + where]
    tally(KIND, "mirrors", 1, 1, "asked instead of the publisher")


@pytest.mark.parametrize(
    "mirror", ["file:///tmp", "ftp://host", "host", "https://", "http://h?a=b"]
)
def test_other_mirrors_are_refused(mirror, serve, tally, monkeypatch):
    monkeypatch.setenv("TORCHSALIENCY_MIRROR", mirror)
    assert_refused("TORCHSALIENCY_MIRROR is", lambda: fetch(serve(answer)))
    assert files() == set()
    tally(KIND, "mirrors that are no web address", 1, 1, "refused by name")


def test_a_password_of_a_mirror_is_not_printed(serve, tally, monkeypatch):
    server = serve(partial(error, 404))
    private = server.address.replace("http://", "http://me:secret@")
    monkeypatch.setenv("TORCHSALIENCY_MIRROR", private)
    with pytest.raises(CheckpointError, match="answered 404") as caught:
        fetch(server)
    assert "secret" not in str(caught.value)
    tally(KIND, "mirrors with a password", 1, 1, "not printed")


def test_letters_of_all_languages(serve, tally, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHSALIENCY_CACHE", str(tmp_path / "Zwischenspeicher ü 缓存"))
    path = fetch(serve(answer), path="/gewichte/été 重み.pth")
    assert path.name == "été 重み.pth"
    assert_right(path)
    tally(KIND, "names in other alphabets", 1, 1, "the right file")


def test_nobody_listens(tally):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nobody = PublishedFile(f"http://127.0.0.1:{port}{PATH}")
    assert_refused("Connection refused", lambda: fetch_file(nobody, name="x", check=is_right))
    assert files() == set()
    tally(KIND, "servers that fail or send something else", 1, 1, "refused, nothing kept")


def test_threads_at_once(serve, trials, tally):
    rounds = trials(3, 20)
    for number in range(rounds):
        server, found = serve(dripping if number == 0 else answer), []
        threads = [
            threading.Thread(target=lambda: found.append(fetch(server)), daemon=True)  # noqa: B023
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(found) == 8
        assert len(server.asked) == 1
        assert {path.read_bytes() for path in found} == {RIGHT}
    tally(KIND, "8 threads at once", rounds, rounds, "one fetches, all have the right file")


PROCESS = """
import sys
from torchsaliency.errors import CheckpointError
from torchsaliency.zoo.checkpoints import read_checkpoint
from torchsaliency.zoo.download import PublishedFile, fetch_file
print("ready", flush=True)
sys.stdin.readline()
if len(sys.argv) > 2:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    print(fetch_file(PublishedFile(sys.argv[1]), name="x", check=read_checkpoint))
except CheckpointError as error:
    print("refused", error)
"""


def start(server, *words):
    """Start a process that fetches a file when it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, server.address + PATH, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_at_once(serve, tally):
    server = serve(dripping)
    processes = [start(server), start(server)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(found) == 1
    assert_right(Path(found.pop()))
    assert len(server.asked) == 1
    tally(KIND, "2 processes at once", 1, 1, "one fetches, all have the right file")


def test_killed_in_the_middle_and_continued(serve, trials, tally):
    rounds = trials(1, 8)
    for number in range(rounds):
        server = serve(dripping)
        process = start(server)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert server.half_sent.wait(60)
        time.sleep(random.Random(number).uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert files() <= {"weights.pth.part.tar"}
        server.behave = answer
        path = fetch(server)
        assert_right(path)
        path.unlink()
        path.with_name(f"{path.name}.json").unlink()
    tally(KIND, "processes killed in the middle", rounds, rounds, "the next one fetches it whole")


def test_a_full_disk(serve, tally):
    process = start(serve(answer), "9000")
    out = process.communicate("go\n", timeout=60)[0]
    assert out.startswith("refused The weights of x could not be fetched")
    assert "File too large" in out
    assert files() == set()
    tally(KIND, "disks that are full", 1, 1, "refused, nothing kept")


def test_an_interrupt_leaves_nothing(serve, tally):
    def interrupt(*_):
        raise KeyboardInterrupt

    server = serve(answer)
    with pytest.raises(KeyboardInterrupt):
        fetch_file(PublishedFile(server.address + PATH), name="x", check=interrupt)
    assert files() == set()
    assert_right(fetch(server))
    tally(KIND, "interrupts from the keyboard", 1, 1, "passed on, nothing kept")


def test_a_bar_is_drawn_on_a_terminal_alone(serve, tally, monkeypatch, capsys):
    fetch(serve(answer))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(serve(answer))
    assert "100%" in capsys.readouterr().err
    tally(KIND, "progress bars", 2, 2, "drawn on a terminal alone")
