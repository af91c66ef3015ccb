"""The page of the app under attack: paths, addresses, hostile files and names, many visitors."""

from __future__ import annotations

import contextlib
import html.parser
import http.server
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections import Counter
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

import torchsaliency
from torchsaliency.pages.app import App
from torchsaliency.pages.jobs import Choice, Limits, Shown
from torchsaliency.pages.service import Service

KIND = "app"
SECRET = b"what no visitor may read"
HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)", "</title><iframe src=javascript:alert(1)>", "{{7*7}}", "&lt;b&gt;",
    "]]><![CDATA[<b>", "javascript:alert(1)", "\u202egnp.exe",
]  # fmt: skip


PROGRAM = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, COUNT),
    ).eval()


build.classes = CLASSES
"""


class Page:
    """A plain client of a served page."""

    def __init__(self, address):
        self.address = address

    def ask(self, path, data=None, **headers):
        """Return the status and the body."""
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except urllib.error.URLError as error:
            assert isinstance(error.reason, ConnectionError)  # cut off
            return 0, b""

    def post(self, path, value):
        return self.ask(path, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def upload(self, content, name="photo.png"):
        """Send a file, and return where it lies, or the status."""
        border = uuid.uuid4().hex
        named = name.replace('"', "%22")
        head = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{named}"\r\n'
        body = f"{head}\r\n".encode() + content + f"\r\n--{border}--\r\n".encode()
        kind = f"multipart/form-data; boundary={border}"
        code, answer = self.ask("gradio_api/upload", body, **{"Content-Type": kind})
        return json.loads(answer)[0] if code == 200 else code

    def call(self, name, *values, session=None):
        """Return what a call gives, or the words of its error."""
        given = {"data": values, **({"session_hash": session} if session else {})}
        code, answer = self.post(f"gradio_api/call/{name}", given)
        if code != 200:
            return None, "refused"
        event, error = json.loads(answer)["event_id"], None
        _, answer = self.ask(f"gradio_api/call/{name}/{event}")
        *_, last = answer.decode().strip().split("\n\n")
        kind, _, found = last.partition("\ndata: ")
        found = json.loads(found)
        if kind == "event: error":
            found, error = None, str(found)
        return found, error

    def explain(self, photo, methods=("gradcam",), layer="", text="", target=None, **more):
        second = more.get("second")
        masking = more.get("masking", "mean")
        return self.call(
            "explain", file(photo), [*methods], None, target, layer, masking, False, second, text,
            session=more.get("session"),
        )  # fmt: skip


def file(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def png(size=(40, 30), seed=0):
    buffer = io.BytesIO()
    draw = np.random.default_rng(seed)
    Image.fromarray(draw.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page in a process of its own, as its user starts it, whose network has hostile classes."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.png").write_bytes(SECRET)
    (folder / "temporary").mkdir()
    (folder / "net.py").write_text(
        PROGRAM.replace("COUNT", str(len(HOSTILE))).replace("CLASSES", repr(HOSTILE))
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "temporary")}
    environment.pop("GRADIO_TEMP_DIR", None)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "torchsaliency", "app", "--model", "net.py:build",
             "--port", str(port), "--max-megabytes", "1", "--max-pixels", "1000000"],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
        found = Page(f"http://127.0.0.1:{port}/")
        found.secret, found.process = folder / "secret.png", process
        for _ in range(400):
            with contextlib.suppress(OSError):
                if found.ask("")[0] == 200:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield found
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def photo(page):
    return page.upload(png())


def still_works(page, photo):
    found, error = page.explain(photo)
    assert error is None
    return "1 map is ready" in found[0]


def paths_of(page):
    secret = str(page.secret)
    return [
        secret, f"file://{secret}", f"/{secret}", secret.replace("/", "%2f"),
        "../" * 12 + secret[1:], "..%2f" * 12 + secret[1:], "%2e%2e/" * 12 + secret[1:],
        "....//" * 12 + secret[1:], f"/proc/self/root{secret}", "/proc/self/environ",
        torchsaliency.__file__, secret + "%00.png", f"{secret}/.",
    ]  # fmt: skip


def test_no_file_is_reachable_by_its_path(page, tally):
    doors = ["gradio_api/file=", "gradio_api/file/", "file=", "static/", "assets/", "svelte/"]
    for door in doors:
        for path in paths_of(page):
            code, content = page.ask(door + path)
            assert code >= 400 or b"<!doctype html>" in content[:200].lower(), (door, path)
            assert SECRET not in content
            assert b"PATH=" not in content
    tried = len(doors) * len(paths_of(page))
    tally(KIND, "paths of the server, by address", tried, tried, "403 or 404, no content")


def test_no_file_is_reachable_as_an_upload(page, photo, tally):
    for path in paths_of(page):
        found, error = page.call("classify", file(path))
        assert found is None, path
        assert "\\" not in path or SECRET.decode() not in error
        found, error = page.explain(photo, second=file(path))
        assert found is None, path
    tried = 2 * len(paths_of(page))
    tally(KIND, "paths of the server, in place of an upload", tried, tried, "an error, no content")
    assert still_works(page, photo)


def test_no_address_is_fetched(page, photo, tally):
    asked = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        own = f"127.0.0.1:{server.server_address[1]}"
        addresses = [
            f"http://{own}/a.png", f"HTTP://{own}/a.png", f"http://me:secret@{own}/a.png",
            "https://huggingface.co/a.png", "http://example.com/a.png", "http://[::1]/a.png",
            "http://169.254.169.254/latest/meta-data", "ftp://example.com/a.png",
        ]  # fmt: skip
        for address in addresses:
            given = file(address)
            for values in (
                [given, ["gradcam"], None, None, "", "mean", False, None, ""],
                [file(photo), ["gradcam"], None, None, "", "mean", False, given, ""],
                [file(photo), ["gradcam"], None, None, given, "mean", False, None, ""],
                [file(photo), ["gradcam"], None, None, "", "mean", False, None, given],
            ):
                found, error = page.call("explain", *values)
                assert found is None, address
                assert "address was given" in error or not address.startswith("http")
            code, content = page.ask(f"gradio_api/file={address}")
            assert code in (403, 404), address
            assert SECRET not in content
        server.shutdown()
    assert asked == []
    tried = 5 * len(addresses)
    tally(KIND, "web addresses in place of an upload, or by `/file=`", tried, tried, "not fetched")
    assert still_works(page, photo)


def test_other_pages_are_refused(page, photo, tally):
    own = page.address.removeprefix("http://").rstrip("/")
    port = own.partition(":")[2]
    for headers in (
        {"Origin": "https://example.com"}, {"Origin": "null"}, {"Host": "example.com"},
        {"Host": f"example.com:{port}"}, {"Origin": f"http://127.0.0.1.example.com:{port}"},
    ):  # fmt: skip
        for path, data in (("config", None), ("gradio_api/call/stop", b'{"data": []}')):
            code, content = page.ask(path, data, **headers)
            assert code == 403, headers
            assert b"components" not in content
    assert page.ask("config", Origin=f"http://{own}", Host=f"localhost:{port}")[0] == 200
    tally(KIND, "requests of other pages, by their origin or a host's name", 10, 10, "403")
    assert still_works(page, photo)


def hostile_files():
    whole, archive, bomb = png(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(10_000_000))
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    wide = bytearray(whole)
    wide[16:24] = b"\x7f\xff\xff\xff\x7f\xff\xff\xff"
    return {
        "empty": b"", "text": b"no photograph", "cut": whole[:60], "head": whole[:8],
        "zip": archive.getvalue(), "bomb": bomb.getvalue(), "wide": bytes(wide),
        "gif": b"GIF89a" + b"\xff" * 4 + bytes(30), "pickle": pickle.dumps(Path("a")),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "html": b"<!doctype html><script>alert(1)</script>", "shell": b"#!/bin/sh\ntouch owned\n",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "zeros": bytes(90_000),
        "noise": np.random.default_rng(0).bytes(90_000), "pdf": b"%PDF-1.4\n",
    }  # fmt: skip


def test_hostile_files(page, photo, tally):
    files = hostile_files()
    for name, content in files.items():
        place = page.upload(content, f"{name}.png")
        for found, error in (page.call("classify", file(place)), page.explain(place)):
            assert found is None, name
            assert str(page.secret.parent) not in error
            assert "Traceback" not in error
    tally(KIND, "files that are no photograph, damaged, or bombs", len(files), len(files),
          "one sentence")  # fmt: skip
    assert still_works(page, photo)


def test_oversized_files_are_refused_while_they_are_sent(page, photo, tally):
    sizes = (1_000_001, 3_000_000, 30_000_000)
    for size in sizes:
        assert page.upload(bytes(size)) in (0, 400, 413)
    kept = [one for one in page.secret.parent.rglob("*") if one.is_file()]
    assert max(one.stat().st_size for one in kept) <= 1_000_000
    tally(
        KIND, "files above the limit of bytes", len(sizes), len(sizes), "refused while it is sent"
    )
    assert still_works(page, photo)


class Elements(html.parser.HTMLParser):
    """Counts elements, and gathers attributes that run something."""

    def __init__(self, text):
        super().__init__()
        self.count, self.scripts = Counter(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.count[tag] += 1
        self.scripts += [name for name, value in attrs if name.startswith("on")]
        self.scripts += [value for _, value in attrs if (value or "").startswith("javascript:")]


def test_scripts_in_names_are_text(page, tally):
    plain = Elements(page.explain(page.upload(png(), "photo.png"))[0][1])
    assert plain.scripts == []
    for name in HOSTILE:
        found, error = page.explain(page.upload(png(), f"{name}.png"))
        assert error is None, name
        shown = Elements(found[1])
        assert (shown.count, shown.scripts) == (plain.count, []), name
    for name in HOSTILE:
        for given in ({"layer": name}, {"methods": [name]}, {"text": name}, {"masking": name}):
            found, error = page.explain(page.upload(png()), **given)
            assert found is None, given
            if "layer" in given:  # gradio answers the others, to who sent them
                assert not Elements(error).count, given
    place = page.upload(png())
    for target in range(len(HOSTILE)):
        found, error = page.explain(place, target=target)
        assert error is None
        shown = Elements(found[1])
        assert (shown.count, shown.scripts) == (plain.count, []), HOSTILE[target]
    tried = 6 * len(HOSTILE)
    tally(
        KIND, "scripts in names of files, classes, layers, methods and words", tried, tried, "text"
    )


def test_values_that_no_part_of_the_page_sends(page, photo, tally):
    good = [file(photo), ["gradcam"], None, None, "", "mean", False, None, ""]
    wrong = [
        (1, []), (1, ["nope"]), (1, ["gradcam"] * 40), (1, "gradcam"), (1, None), (2, 99), (3, -1),
        (3, "circle"), (3, 1e300), (4, "nope"), (4, "x" * 5000), (4, ["a"]), (5, "nope"),
        (5, None), (7, 5), (8, "w" * 5000), (0, 3), (0, []), (0, {"path": ""}), (0, {"a": 1}),
    ]  # fmt: skip
    for place, value in wrong:
        values = [*good[:place], value, *good[place + 1 :]]
        found, error = page.call("explain", *values)
        assert found is None, (place, value)
        assert "Traceback" not in error
    for data in (b"", b"{", b"[]", b'{"data": 3}', b'{"data": []}', b"\xff", b"[" * 100_000):
        page.ask("gradio_api/call/explain", data, **{"Content-Type": "application/json"})
    tried = len(wrong) + 7
    tally(KIND, "values that no part of the page sends", tried, tried, "an error")
    assert still_works(page, photo)


def at_once(count, work):
    found = []
    threads = [threading.Thread(target=lambda: found.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_ten_clients_at_once(page, photo, trials, tally):
    rounds = trials(1, 5)
    for _ in range(rounds):
        found = at_once(10, lambda: page.explain(photo))
        assert len(found) == 10
        assert all(error is None for _, error in found)
        assert len({given[1] for given, _ in found}) == 1
    tally(KIND, "ten clients at once", 10 * rounds, 10 * rounds, "all have the same map")


@pytest.fixture(scope="module")
def app():
    """The page's functions, without a server."""
    network = torchsaliency.load_model("builtin/shapes_cnn")
    return App(Service(network, limits=Limits(waiting=2)))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    path.write_bytes(png())
    return str(path)


def visitor(name):
    return gr.Request(session_hash=name)


def parts(picture, *methods, second=None):
    return picture, [*methods], None, None, "", "mean", False, second, ""


def begin(work):
    """Run work in a thread, and return where its result will be."""
    found = []

    def run():
        try:
            found.append(work())
        except gr.Error as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def wait_for(condition):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < 60
        time.sleep(0.002)


def test_clients_beyond_those_that_may_wait_are_refused(app, picture, tally):
    with app.service.line.turn(app.service.make_job()):
        waiting = [begin(lambda name=name: app.classify(picture, visitor(name))) for name in "abc"]
        wait_for(lambda: len(app.service.line) == 4)
        with pytest.raises(gr.Error, match="2 visitors wait already"):
            app.classify(picture, visitor("d"))
    for thread, found in waiting:
        thread.join(60)
        assert "Ready" in found[0][1]
    tally(KIND, "clients beyond those that may wait", 1, 1, "one sentence")


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("way", ["stop", "leave", "another job"])
@pytest.mark.parametrize("state", ["running", "waiting"])
def test_work_ends(app, picture, state, way, second, tally):
    given = parts(picture, "gradcam", "rise", "sscam", second=picture if second else None)
    line, end = app.service.line, None
    with contextlib.ExitStack() as held:
        if state == "waiting":
            held.enter_context(line.turn(app.service.make_job()))
        thread, found = begin(lambda: [*app.explain(visitor("a"), *given)])
        wait_for(lambda: len(line) == 1 + (state == "waiting"))
        if way == "another job":
            end = begin(lambda: [*app.explain(visitor("a"), *parts(picture, "gradcam"))])
        else:
            getattr(app, way)(visitor("a"))
        thread.join(10)
    assert not thread.is_alive()
    status, *rest = found[0][-1]
    assert "Stopped" in status
    assert not any(isinstance(one, Shown) for one in rest)
    assert ("Waiting: the network has another job" in found[0][0][0]) == (state == "waiting")
    if end is not None:
        end[0].join(60)
        assert "1 map is ready" in end[1][0][-1][0]
    assert "Ready" in app.classify(picture, visitor("b"))[1]
    tally(KIND, "jobs that are stopped, left or replaced", 1, 1, "the next visitor is served")


def test_a_generator_that_is_closed_stops_its_work(app, picture, tally):
    steps = app.explain(visitor("a"), *parts(picture, "gradcam", "rise"))
    next(steps)
    next(steps)
    steps.close()  # as gradio does, where the visitor left
    assert len(app.service.line) == 0
    assert app._jobs == {}
    tally(KIND, "jobs that are stopped, left or replaced", 1, 1, "the next visitor is served")


def test_jobs_end_with_their_time(app, picture, tally):
    hasty = App(Service(app.service.network, limits=Limits(seconds=0.0)))
    (shown,) = app.service.explain(picture, Choice())
    for found in (
        hasty.classify(picture, visitor("a")),
        [*hasty.explain(visitor("a"), *parts(picture, "gradcam"))][-1],
        hasty.contrast(picture, 1, ["gradcam"], "", "mean", visitor("a")),
        hasty.score(shown, visitor("a")),
    ):
        assert "Stopped after the time" in str(found)
    assert len(hasty.service.line) == 0
    tally(KIND, "jobs whose time is over", 4, 4, "one sentence")


def test_a_new_photo_takes_the_place_of_one_that_is_still_classified(app, picture, tally):
    with app.service.line.turn(app.service.make_job()):
        first = begin(lambda: app.classify(picture, visitor("a")))
        wait_for(lambda: len(app.service.line) == 2)
        second = begin(lambda: app.classify(picture, visitor("a")))
        first[0].join(10)
        assert "choices" not in str(first[1][0][0])  # the classes of the first one never come
    second[0].join(60)
    assert "Ready" in second[1][0][1]
    tally(KIND, "jobs that are stopped, left or replaced", 1, 1, "the next visitor is served")


def test_files_are_deleted(page, photo, tally):
    """The last test of the file: the page ends."""
    temporary = page.secret.parent / "temporary"
    assert page.explain(photo, session="mine")[1] is None
    found, error = page.call("download", session="mine")
    assert error is None
    assert zipfile.is_zipfile(found[0]["path"])
    folders = [one for one in temporary.iterdir() if "torchsaliency" in one.name]
    assert len(folders) == 1, folders  # the page's: that in which the ZIP was made is gone
    assert Path(found[0]["path"]).is_relative_to(folders[0])
    page.process.terminate()
    page.process.wait(30)
    left = [one for one in temporary.rglob("*") if one.is_file()]
    assert left == []
    tally(KIND, "files of visitors after the app ended", 2, 2, "deleted")
