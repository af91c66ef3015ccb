"""Weights files of every kind: each loads exactly or is refused in one sentence; no code runs."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import re
import socket
import sys
import tarfile
import threading
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from torchsaliency.core.runtime import without_warnings
from torchsaliency.errors import CheckpointError
from torchsaliency.zoo import Preprocessing, imagenet, load_model
from torchsaliency.zoo.checkpoints import (
    Note,
    read_checkpoint,
    read_note,
    state_dict_sha256,
    tensors_sha256,
)

KIND = "weights"


class Masked(nn.Module):
    """A buffer that holds infinity, as masks of attention do, and one of whole numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((3,), -torch.inf))
        self.register_buffer("index", torch.arange(3))


def small(classes: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, classes), Masked()
    ).eval()


torch.manual_seed(0)
STATE = small().state_dict()
FLOATS = [key for key, value in STATE.items() if value.is_floating_point()]


def assert_sentence(error: BaseException, most: int = 600) -> None:
    message = str(error)
    assert len(message.splitlines()) == 1, message
    assert message.endswith("."), message
    assert len(message) < most, message
    assert message.isprintable(), message
    assert "weights_only" not in message.lower(), message
    assert "weights only" not in message.lower(), message


def outcome(path: Path) -> str:
    """Load a file and return why it was refused, "" where it was loaded exactly."""
    model = small()
    before = state_dict_sha256(model)
    try:
        read_checkpoint(path).fill(model)
    except CheckpointError as error:
        assert_sentence(error, 600 + len(str(path)))
        assert state_dict_sha256(model) == before
        return str(error)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, STATE[key].to(tensor.dtype)), key
    return ""


def with_values(change, *keys):
    """Return the state with some tensors changed."""
    keys = keys or FLOATS
    return {key: change(value) if key in keys else value for key, value in STATE.items()}


def set_first(number):
    def change(value):
        value = value.clone()
        value.view(-1)[0] = number
        return value

    return change


def with_metadata(versions):
    state = OrderedDict(STATE)
    state._metadata = versions
    return state


def quietly(make, *args):
    with without_warnings():
        return make(*args)


TENSORS = {
    # exact
    "as it is": (STATE, ""),
    "shuffled": (dict(random.Random(1).sample([*STATE.items()], len(STATE))), ""),
    "float64": (with_values(lambda value: value.double()), ""),
    "parameters": (with_values(nn.Parameter, "2.weight"), ""),
    "not contiguous": (with_values(lambda value: value.t().contiguous().t(), "2.weight"), ""),
    "expanded": (with_values(lambda value: value[:1].expand(3), "3.mask"), ""),
    "views of one storage": (
        with_values(lambda value: torch.cat([value, value])[:3], "2.bias"),
        "",
    ),
    "batches counted in fractions": (
        with_values(lambda value: value.double(), "1.num_batches_tracked"),
        "",
    ),
    "batches not counted": ({k: v for k, v in STATE.items() if "num_batches" not in k}, ""),
    "in state_dict": ({"state_dict": STATE, "epoch": 3, "best": 0.5}, ""),
    "in model_state_dict": ({"model_state_dict": STATE, "loss": [1, 2]}, ""),
    "in model": ({"model": STATE, "args": argparse.Namespace(lr=0.1)}, ""),
    "prefix module.": ({f"module.{k}": v for k, v in STATE.items()}, ""),
    "prefix model.": ({f"model.{k}": v for k, v in STATE.items()}, ""),
    "prefixes of compiled parallel training": (
        {"state_dict": {f"module._orig_mod.model.{k}": v for k, v in STATE.items()}},
        "",
    ),
    "layout versions of another kind": (with_metadata({"": {"version": "two"}, 3: 4}), ""),
    "layout versions that are none": (with_metadata(7), ""),
    "a layout version that torch writes": (with_metadata({"1": {"version": 2}}), ""),
    # names and shapes
    "nothing": ({}, "no state dict"),
    "a list": ([1, 2], "no state dict"),
    "a tensor": (torch.zeros(3), "no state dict"),
    "a number": (3, "no state dict"),
    "a list of tensors": ([*STATE.values()], "no state dict"),
    "text": ("weights", "no state dict"),
    "other entries": ({"epoch": 3, "optimizer": {"lr": 0.1}}, "no state dict"),
    "keys that are numbers": (dict(enumerate(STATE.values())), "no state dict"),
    "keys that are bytes": ({k.encode(): v for k, v in STATE.items()}, "no state dict"),
    "keys of two kinds": ({**STATE, 3: torch.zeros(1)}, "no state dict"),
    "a container in a container": ({"checkpoint": {"state_dict": STATE}}, "no state dict"),
    "values that are numbers": ({k: v.tolist() for k, v in STATE.items()}, "no state dict"),
    "a missing tensor": ({k: v for k, v in STATE.items() if k != "2.bias"}, "missing: 2.bias"),
    "a tensor more": ({**STATE, "head.bias": torch.zeros(3)}, "unexpected: head.bias"),
    "upper case": ({k.upper(): v for k, v in STATE.items()}, "missing: .* and 7 more"),
    "a prefix on some": (
        {f"module.{k}" if "0." in k else k: v for k, v in STATE.items()},
        "missing: 0.weight",
    ),
    "a very deep prefix": ({"module." * 10_000 + k: v for k, v in STATE.items()}, "missing"),
    "a very long key": ({**STATE, "k" * 10**6: torch.zeros(1)}, "unexpected: kkk"),
    "a key with line breaks": ({**STATE, "a\nb\x1b[31m": torch.zeros(1)}, r"unexpected: a\?b"),
    "a key that is no text": ({**STATE, "\ud800": torch.zeros(1)}, r"unexpected: \?"),
    "an empty key": ({**STATE, "": torch.zeros(1)}, "unexpected: "),
    "another rank": (with_values(lambda value: value[None], "2.weight"), r"is \(1, 3, 4\) for"),
    "no rank": (with_values(lambda value: value[0], "2.bias"), r"2.bias is \(\) for \(3,\)"),
    "transposed": (with_values(lambda value: value.t(), "2.weight"), r"\(4, 3\) for \(3, 4\)"),
    "flat": (with_values(lambda value: value.flatten(), "0.weight"), r"is \(108,\) for"),
    "no rows": (with_values(lambda value: value[:0], "2.weight"), r"is \(0, 4\) for \(3, 4\)"),
    "more rows than the file holds": (
        with_values(lambda value: value[:1].expand(10**9, 4), "2.weight"),
        r"is \(1000000000, 4\)",
    ),
    # kinds of tensors
    "sparse": (with_values(lambda value: value.to_sparse(), "2.weight"), "are sparse: 2.weight"),
    "compressed sparse": (
        with_values(lambda value: quietly(value.to_sparse_csr), "2.weight"),
        "are sparse: 2.weight",
    ),
    "quantised": (
        with_values(
            lambda value: quietly(torch.quantize_per_tensor, value, 0.1, 0, torch.qint8),
            "2.weight",
        ),
        "are quantised: 2.weight",
    ),
    "meta": (with_values(lambda value: value.to("meta")), "on the meta device, .* and 5 more"),
    "nested": (
        with_values(lambda value: quietly(torch.nested.nested_tensor, [value]), "2.weight"),
        "nested|nothing was loaded",
    ),
    # types
    **{
        f"{dtype}".removeprefix("torch."): (
            with_values(lambda value, dtype=dtype: value.to(dtype), "2.weight"),
            f"2.weight is {dtype}".removeprefix("torch.").replace("torch.", "") + " for float32",
        )
        for dtype in (
            torch.int8,
            torch.uint8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.bool,
            torch.complex64,
            torch.complex128,
            torch.float8_e4m3fn,
            torch.float8_e5m2,
        )
    },
    "all integers": (with_values(lambda value: value.long()), "and 5 more"),
    "an index in fractions": (with_values(lambda value: value.float(), "3.index"), "for int64"),
    # numbers
    "all NaN": (with_values(lambda value: value * torch.nan), "NaN or infinite .* and 5 more"),
    **{
        f"{number} in {key}": (with_values(set_first(number), key), f"numbers in {key};")
        for number in (torch.nan, torch.inf, -torch.inf)
        for key in ("0.weight", "1.bias", "2.bias")
    },
    "NaN in a buffer": (with_values(set_first(torch.nan), "1.running_var"), "in 1.running_var;"),
    "infinity in a buffer": (with_values(set_first(-torch.inf), "3.mask"), ""),
    "larger than float32": (
        with_values(lambda value: set_first(1e300)(value.double()), "2.weight"),
        "infinite numbers in 2.weight;",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_every_kind(name, tmp_path, tally):
    content, expected = TENSORS[name]
    with without_warnings():
        torch.save(content, path := tmp_path / "weights.pth")
    message = outcome(path)
    assert_matches(expected, message)
    tally(KIND, "tensors, names and containers", 1, 1, "loaded exactly, or refused by name")


def assert_matches(expected, message):
    assert re.search(expected, message) if expected else message == "", message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_floating_types_are_converted(dtype, suffix, tmp_path, tally):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in STATE.items()}
    write = save_file if suffix == ".safetensors" else torch.save
    write(state, path := tmp_path / f"weights{suffix}")
    model = small()
    read_checkpoint(path).fill(model)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key].to(tensor.dtype))
    tally(KIND, "float16, bfloat16 and float64 files", 1, 1, "converted")


# --- code -----------------------------------------------------------------------------------------


def runs(function, *args):
    """Return an object whose pickle calls a function."""

    class Trap:
        def __reduce__(self):
            return function, args

    return Trap()


def state_runs(code):
    """Return an object whose pickle runs code where its state is set."""

    class Trap:
        def __reduce__(self):
            return argparse.Namespace, (), code, None, None, exec

    return Trap()


def traps(code):
    return {
        "exec": runs(exec, code),
        "eval": runs(eval, f"exec({code!r})"),
        "os.system": runs(os.system, f"{sys.executable} -c {code!r}"),
        "getattr": runs(getattr, runs(__import__, "os"), "system"),
        "open": runs(open, code.split("'")[1], "w"),
        "partial": runs(partial, exec, code),
        "torch's loader": runs(torch.load, code.split("'")[1]),
        "torch's hub": runs(torch.hub.load, "/nowhere", "x"),
        "numpy's loader": runs(np.load, code.split("'")[1]),
        "a setter of states": state_runs(code),
    }


WRITERS = {
    "zip": torch.save,
    "old": partial(torch.save, _use_new_zipfile_serialization=False),
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
    "pickle 5": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=5)),
    "pickle 0": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
}

PLACES = {
    "alone": lambda trap: trap,
    "as a weight": lambda trap: {**STATE, "2.weight": trap},
    "beside": lambda trap: {"state_dict": STATE, "callback": trap},
    "in a list": lambda trap: {"state_dict": STATE, "hooks": [[trap]]},
    "as a key": lambda trap: {"state_dict": STATE, (trap,): 1},
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("place", PLACES)
def test_no_code_in_a_pickle_runs(writer, place, tmp_path, tally):
    mark = tmp_path / "executed"
    code = f"open('{mark}', 'w').write('executed')"
    held = traps(code)
    for trap in held.values():
        WRITERS[writer](PLACES[place](trap), path := tmp_path / "weights.pth")
        assert outcome(path)
        assert not mark.exists()
    tally(KIND, "pickles that carry code", len(held), len(held), "refused, nothing runs")


def test_modules_and_programs_are_refused(tmp_path, tally):
    path = tmp_path / "weights.pth"
    torch.save(small(), path)
    assert "nothing was loaded" in outcome(path)
    with without_warnings():
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    assert "TorchScript" in outcome(path)
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert "a tar archive" in outcome(path)
    tally(KIND, "pickles that carry code", 3, 3, "refused, nothing runs")


# --- damage ---------------------------------------------------------------------------------------


def write_checked(path):
    """Write a file as `torchsaliency finetune` does."""
    note = Note(("cat", "dog", "cow"), imagenet(), tensors_sha256(STATE))
    save_file(STATE, path, note.metadata())


FORMATS = {
    "weights.pth": lambda path: torch.save(STATE, path),
    "weights.safetensors": write_checked,
}


@pytest.mark.parametrize("name", FORMATS)
def test_flipped_bits(name, tmp_path, trials, tally):
    path = tmp_path / name
    FORMATS[name](path)
    whole, rng = path.read_bytes(), random.Random(0)
    assert outcome(path) == ""
    tried = trials(700, 8 * len(whole))
    refused = 0
    for place in rng.sample(range(8 * len(whole)), tried):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        refused += outcome(path) != ""
    assert refused > tried / 4
    tally(KIND, f"one flipped bit, {path.suffix}", tried, tried, "loaded exactly, or refused")


@pytest.mark.parametrize("name", FORMATS)
def test_every_flipped_bit_of_a_number_is_seen(name, tmp_path, trials, tally):
    path = tmp_path / name
    FORMATS[name](path)
    whole, rng = path.read_bytes(), random.Random(0)
    start = whole.index(STATE["0.weight"].numpy().tobytes())
    tried = trials(30, 70)
    for _ in range(tried):
        content = bytearray(whole)
        content[start + rng.randrange(4 * 108)] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        assert "damaged" in outcome(path) or "checksums do not hold" in outcome(path)
    tally(KIND, f"one flipped bit of a number, {path.suffix}", tried, tried, "refused")


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_overwritten_and_longer_files(name, tmp_path, trials, tally):
    path = tmp_path / name
    FORMATS[name](path)
    whole, rng = path.read_bytes(), random.Random(0)
    tried = trials(30, 70)
    for _ in range(tried):
        place, length = rng.randrange(len(whole)), rng.randrange(1, 200)
        path.write_bytes(whole[:place])
        assert outcome(path)
        path.write_bytes(whole[:place] + rng.randbytes(length) + whole[place + length :])
        outcome(path)
        path.write_bytes(whole[:place] + rng.randbytes(length) + whole[place:])
        outcome(path)
        path.write_bytes(whole + rng.randbytes(length))
        assert outcome(path)
        path.write_bytes(rng.randbytes(length) + whole)
        assert outcome(path)
    tried *= 5
    tally(KIND, f"truncated, overwritten, longer, {path.suffix}", tried, tried, "exact or refused")


@pytest.mark.parametrize("name", ["old.pth", "plain.safetensors"])
def test_formats_without_checksums(name, tmp_path, trials, tally):
    """A flipped bit of a number cannot be seen there; nothing else than a sentence may come."""
    path = tmp_path / name
    if name == "old.pth":
        torch.save(STATE, path, _use_new_zipfile_serialization=False)
    else:
        save_file(STATE, path)
    assert outcome(path) == ""
    whole, rng = path.read_bytes(), random.Random(0)
    tried = trials(30, 70) * 5
    for number in range(tried):
        content = bytearray(whole)
        if number % 3:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(content)
        model = small()
        try:
            read_checkpoint(path).fill(model)
        except CheckpointError as error:
            assert_sentence(error)
        assert all(value.isfinite().all() for value in model.parameters())
    tally(KIND, "damaged files of formats without checksums", tried, tried, "numbers, or refused")


def rezipped(path, change=None, **options):
    """Write a weights file's archive anew."""
    torch.save(STATE, source := path.with_name("source.pth"))
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", **options) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if change is not None:
                content = change(entry.filename.partition("/")[2], content)
            if content is not None:
                new.writestr(entry.filename.replace("source", "weights"), content)


ARCHIVES = {
    "written anew": ({}, ""),
    "compressed": ({"compression": zipfile.ZIP_DEFLATED}, "it is compressed"),
    "without data": ({"change": lambda n, c: None if n.startswith("data/") else c}, "no weights"),
    "without a pickle": ({"change": lambda n, c: None if n == "data.pkl" else c}, "no weights"),
    "an empty pickle": ({"change": lambda n, c: b"" if n == "data.pkl" else c}, "no weights"),
    "an endless pickle": ({"change": lambda n, c: b"N" * 10**5 if n == "data.pkl" else c}, "no w"),
    "a deep pickle": (
        {"change": lambda n, c: b"]" * 10**5 + b"a" * (10**5 - 1) + b"." if n == "data.pkl" else c},
        "no ",
    ),
    "numbers too short": ({"change": lambda n, c: c[:-4] if n == "data/0" else c}, "no weights"),
    "numbers too long": ({"change": lambda n, c: c * 2 if n == "data/0" else c}, "no weights"),
    "another byte order": ({"change": lambda n, c: b"middle" if n == "byteorder" else c}, "no w"),
    "another version": ({"change": lambda n, c: b"99999" if n == "version" else c}, "no weights"),
    "nothing": ({"change": lambda n, c: None}, "no weights"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(name, tmp_path, tally):
    options, expected = ARCHIVES[name]
    rezipped(path := tmp_path / "weights.pth", **options)
    assert_matches(expected, outcome(path))
    tally(KIND, "zip archives that torch did not write", 1, 1, "loaded exactly, or refused")


def test_an_archive_whose_files_are_marked_as_folders(tmp_path, tally):
    """torch returns uninitialised memory for them."""
    FORMATS["weights.pth"](path := tmp_path / "weights.pth")
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"weights/data/0")
    content[entry - 8] |= 0x10
    path.write_bytes(content)
    assert "marked as folders" in outcome(path)
    tally(KIND, "zip archives that torch did not write", 1, 1, "loaded exactly, or refused")


def test_files_without_checksums_that_torch_writes(tmp_path, tally):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, path := tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert outcome(path) == ""
    tally(KIND, "zip archives without checksums", 1, 1, "loaded exactly")


CONTENTS = {
    "nothing": (b"", "is empty"),
    "a text": (b"my weights\n", "it is a text"),
    "a web page": (b"<!doctype html><title>Sign in</title>", "it is a web page"),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
    "JSON": (b'{"state_dict": {}}', "it is a text"),
    "text in another alphabet": ("重み\n".encode() * 1000, "it is a text"),
    "zeros": (bytes(5000), "no weights file"),
    "noise": (random.Random(0).randbytes(5000), "no weights file"),
    "JPEG": (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(300), "no weights file"),
    "gzip": (b"\x1f\x8b\x08" + bytes(300), "no weights file"),
    "the end of an archive": (b"PK\x05\x06" + bytes(18), "no weights file"),
    "the beginning of an archive": (b"PK\x03\x04" + bytes(100), "no weights file"),
    "an empty pickle": (b"\x80\x02.", "no weights file"),
    "a huge header": (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "no weights file"),
    "a header of nothing": (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "no "),
    "a header of another kind": (b"\x02\x00\x00\x00\x00\x00\x00\x00[]", "no weights file"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ""])
@pytest.mark.parametrize("name", CONTENTS)
def test_files_of_other_kinds(name, suffix, tmp_path, tally):
    content, expected = CONTENTS[name]
    (path := tmp_path / f"weights{suffix}").write_bytes(content)
    assert_matches(expected, outcome(path))
    tally(KIND, "files of other kinds", 1, 1, "refused by name")


def test_a_million_keys(tmp_path, trials, tally):
    names = [*map(str, range(trials(150_000, 1_000_000)))]
    torch.save(dict.fromkeys(names, torch.zeros(1)), path := tmp_path / "weights.pth")
    assert f"holds {len(names)} tensors" in outcome(path)
    torch.save(dict.fromkeys(names), path)
    assert "no state dict" in outcome(path)
    path = tmp_path / "weights.safetensors"
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps(dict.fromkeys(names, entry)).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert f"holds {len(names)} tensors" in outcome(path)
    tally(KIND, "files of more than a hundred thousand keys", 3, 3, "refused by name")


# --- paths ----------------------------------------------------------------------------------------


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


PATHS = {
    "missing": (lambda path: None, "does not exist"),
    "a folder": (Path.mkdir, "is a folder"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "link to a file that does not"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
    "a link to a folder": (lambda path: path.symlink_to(path.parent), "is a folder"),
    "a pipe": (os.mkfifo, "is a pipe, a socket or a device"),
    "a socket": (make_socket, "is a pipe, a socket or a device"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a pipe, a socket or a device"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", PATHS)
def test_paths_that_are_no_files(name, suffix, tmp_path, tally, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path has 100 letters at most
    make, expected = PATHS[name]
    make(path := Path(f"weights{suffix}"))
    assert_matches(expected, outcome(path))
    with pytest.raises(CheckpointError, match=expected):
        load_model("builtin/shapes_cnn", weights=path)
    tally(KIND, "paths that are no files", 1, 1, "refused by name")


@pytest.mark.parametrize(
    "path", ["a\0b.pth", "x" * 300 + ".pth", "~nobody_of_this_name/a.pth", "/dev/null/a.pth", ""]
)
def test_impossible_paths(path, tally):
    with pytest.raises(CheckpointError) as caught:
        load_model("builtin/shapes_cnn", weights=path)
    assert str(caught.value).endswith(".")
    tally(KIND, "paths that are no files", 1, 1, "refused by name")


def test_a_file_that_may_not_be_read(tmp_path, tally, monkeypatch):
    FORMATS["weights.pth"](path := tmp_path / "weights.pth")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert "may not be read" in outcome(path)
    tally(KIND, "paths that are no files", 1, 1, "refused by name")


# --- notes ----------------------------------------------------------------------------------------

RIGHT_NOTE = json.loads(Note(("a", "b", "c"), imagenet()).metadata()["torchsaliency"])


def note(**facts):
    return RIGHT_NOTE | facts


def described(**facts):
    return note(preprocessing=RIGHT_NOTE["preprocessing"] | facts)


NOTES = {
    "no JSON": "{",
    "nothing": "",
    "a list": "[]",
    "null": "null",
    "a text": '"cat"',
    "a number": "3",
    "deep": "[" * 100_000,
    "large": json.dumps(note(more="x" * (17 << 20))),
    "no classes": {k: v for k, v in RIGHT_NOTE.items() if k != "classes"},
    "no preprocessing": {k: v for k, v in RIGHT_NOTE.items() if k != "preprocessing"},
    "classes in one text": note(classes="cat"),
    "classes that are numbers": note(classes=[1, 2, 3]),
    "classes that are nothing": note(classes=None),
    "classes by number": note(classes={"0": "cat"}),
    "preprocessing that is a list": note(preprocessing=[]),
    "preprocessing that is nothing": note(preprocessing=None),
    "no size": note(preprocessing={}),
    "a checksum that is none": note(sha256="abc"),
    "a checksum that is a number": note(sha256=3),
    "another checksum": note(sha256="0" * 64),
    **{
        f"{side} {value}": described(**{side: value})
        for side in ("size", "resize")
        for value in (
            [0, 224],
            [-1, 224],
            [224],
            [1, 2, 3],
            [224.5, 224],
            [224.0, 224],
            ["224", "224"],
            [True, True],
            [None, 224],
            [10**5, 10**5],
            [1, 64_000_001],
            [10**30, 1],
            "224",
            224,
        )
    },
    **{
        f"{side} {value}": described(**{side: value})
        for side in ("mean", "std")
        for value in (
            [0.5, 0.5],
            [0.5, 0.5, float("nan")],
            [0.5, 0.5, float("inf")],
            [0.5, 0.5, 10**400],
            ["a", "b", "c"],
            [True, True, True],
            None,
            0.5,
        )
    },
    "std 0": described(std=[0, 0, 0]),
    "std below 0": described(std=[1, 1, -1]),
    "another fit": described(fit="stretch"),
    "a fit that is a list": described(fit=[]),
    "another interpolation": described(interpolation="best"),
    "an interpolation that is a list": described(interpolation=[]),
    "a huge interpolation": described(interpolation="x" * 10**6),
}


@pytest.mark.parametrize("name", NOTES)
def test_garbled_notes_are_refused(name, tmp_path, tally):
    text = NOTES[name] if isinstance(NOTES[name], str) else json.dumps(NOTES[name])
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path, {"torchsaliency": text})
    message = outcome(path)
    assert "cannot be understood" in message or "is damaged" in message
    tally(KIND, "garbled notes", 1, 1, "refused by name")


def test_a_note_of_too_many_classes(tmp_path, tally, monkeypatch):
    monkeypatch.setattr("torchsaliency.zoo.notes._MOST_CLASSES", 2)
    save_file(
        STATE, path := tmp_path / "weights.safetensors", {"torchsaliency": json.dumps(note())}
    )
    assert "more than 2 classes" in outcome(path)
    tally(KIND, "garbled notes", 1, 1, "refused by name")


def test_right_notes_are_read(tmp_path, tally, monkeypatch):
    path = tmp_path / "weights.safetensors"
    large = Preprocessing(size=(8000, 8000), resize=None)
    for one in (
        Note((), large),
        Note(("",) * 1000, imagenet()),
        Note(("猫", "a\nb"), imagenet(), tensors_sha256(STATE)),
    ):
        save_file(STATE, path, one.metadata())
        assert read_note(path) == one
        assert outcome(path) == ""
    for other in ({}, {"format": "pt"}, {"torchsaliency ": "["}):
        save_file(STATE, path, other)
        assert read_note(path) is None
        assert outcome(path) == ""
    save_file(STATE, path, Note((), large).metadata())
    monkeypatch.setenv("TORCHSALIENCY_MAX_PIXELS", "63999999")
    assert "at most 63999999 pixels" in outcome(path)
    for value in ("many", "0", "-3", "1.5"):
        monkeypatch.setenv("TORCHSALIENCY_MAX_PIXELS", value)
        assert f"TORCHSALIENCY_MAX_PIXELS) is {value!r}" in outcome(path)
    tally(KIND, "notes", 6, 6, "read exactly")


def test_a_checksum_is_of_names_types_shapes_and_bytes(tally):
    first = tensors_sha256(STATE)
    assert first == tensors_sha256(dict(reversed(STATE.items())))
    assert first == state_dict_sha256(small_with(STATE))
    others = [
        with_values(set_first(9.0), "2.bias"),
        {f"x{key}": value for key, value in STATE.items()},
        with_values(lambda value: value.double()),
        with_values(lambda value: value.flatten(), "2.weight"),
        {key: value for key, value in STATE.items() if key != "2.bias"},
    ]
    assert len({first, *map(tensors_sha256, others)}) == 6
    kinds = {
        "complex": torch.ones(2, dtype=torch.complex64).conj(),
        "brain": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.ones(0),
        "scalar": torch.tensor(True),
        "view": torch.ones(4, 4).t()[::2],
    }
    assert len(tensors_sha256(kinds)) == 64
    tally(KIND, "checksums of changed tensors", 5, 5, "another checksum")


def small_with(state):
    model = small()
    model.load_state_dict(state)
    return model


def test_threads_read_at_once(tmp_path, trials, tally):
    """torch's list of safe types belongs to the process: a thread must not take another's away."""
    torch.save(
        {"state_dict": STATE, "args": argparse.Namespace()}, path := tmp_path / "weights.pth"
    )
    rounds, failures = trials(10, 100), []

    def read():
        failures.extend(filter(None, (outcome(path) for _ in range(rounds))))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    tally(KIND, "reads by 8 threads at once", 8 * rounds, 8 * rounds, "loaded exactly")


# --- a user's own file ----------------------------------------------------------------------------

NET = "nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())"
USER_FILES = {
    "exits": ("import sys\nsys.exit(7)", "cannot be imported (SystemExit: 7)"),
    "exits hard": ("raise SystemExit", "cannot be imported (SystemExit)"),
    "raises beyond errors": (
        "class Stop(BaseException): pass\nraise Stop('now')",
        "cannot be imported (Stop: now)",
    ),
    "raises GeneratorExit": ("raise GeneratorExit", "cannot be imported (GeneratorExit)"),
    "raises an error without a text": (
        "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
        "cannot be imported (E)",
    ),
    "raises an error of many lines": ("raise ValueError('a\\nb\\nc')", "(ValueError: a)"),
    "raises a long error": ("raise ValueError('x' * 10**6)", "…"),
    "syntax": ("def net(:", "cannot be imported (SyntaxError"),
    "indentation": ("def net():\nreturn 1", "cannot be imported (IndentationError"),
    "zeros": ("\0", "cannot be imported"),
    "recursion": ("def f(): f()\nf()", "cannot be imported (RecursionError"),
    "missing import": ("import a_module_that_is_not_there", "(ModuleNotFoundError"),
    "empty": ("", "has no function 'net'"),
    "no function": ("net = 3", "has no function 'net'"),
    "raises on access": (
        "def __getattr__(name): raise RuntimeError(name)",
        "cannot be imported (RuntimeError",
    ),
    "returns nothing": ("def net(): pass", "returned a NoneType"),
    "returns a class": ("def net(): return nn.Linear", "returned a type"),
    "returns a state dict": ("def net(): return nn.Linear(1, 1).state_dict()", "OrderedDict"),
    "ten arguments": ("def net(a, b, c, d, e, f, g, h, i, j): pass", "net failed (TypeError"),
    "factory exits": ("def net(): exit(3)", "net failed (SystemExit: 3)"),
    "factory raises": ("def net(): raise KeyError('config')", "net failed (KeyError: 'config')"),
    "a builtin": ("net = dict", "returned a dict"),
    "a coroutine": ("async def net(): pass", "net failed|returned a coroutine"),
    "advice of torch": (
        "def net(): raise RuntimeError('Weights only load failed. Set weights_only=False')",
        "net failed (RuntimeError)",
    ),
    "lazy": ("def net(): return nn.LazyLinear(3)", "without values in weight, bias"),
    "meta": ("def net(): return nn.Linear(2, 2, device='meta')", "without values in weight, bias"),
    "classes in one text": (f"def net(): return {NET}\nnet.classes = 'cat'", "cannot be read"),
    "classes in a number": (f"def net(): return {NET}\nnet.classes = 3", "cannot be read"),
    "a configuration of another kind": (
        f"def net(): return {NET}\nnet.pretrained_cfg = 3",
        "cannot be read",
    ),
}


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("name", USER_FILES)
@pytest.mark.filterwarnings("ignore:coroutine", "ignore:Lazy modules")
def test_user_files_that_fail(name, weights, tmp_path, tally):
    text, expected = USER_FILES[name]
    (path := tmp_path / "mine.py").write_text(f"from torch import nn\n{text}\n")
    given = {}
    if weights:
        state = nn.Sequential(nn.Conv2d(3, 2, 3)).state_dict()
        torch.save(state, file := tmp_path / "weights.pth")
        given = {"weights": file}
    with pytest.raises(CheckpointError) as caught:
        load_model(f"{path}:net", **given)
    assert_sentence(caught.value)
    assert any(part in str(caught.value) for part in expected.split("|")), str(caught.value)
    tally(KIND, "a user's files that fail", 1, 1, "one sentence")


@pytest.mark.parametrize("text", ["raise KeyboardInterrupt", "def net(): raise KeyboardInterrupt"])
def test_an_interrupt_passes_through_a_user_file(text, tmp_path, tally):
    (path := tmp_path / "mine.py").write_text(text)
    with pytest.raises(KeyboardInterrupt):
        load_model(f"{path}:net")
    assert "torchsaliency_user_mine" not in sys.modules or "def" in text
    tally(KIND, "interrupts in a user's file", 1, 1, "passed on")


def test_what_a_user_file_prints_does_not_reach_stdout(tmp_path, tally, capsys):
    text = f"from torch import nn\nprint('hello')\ndef net():\n    print('there')\n    return {NET}"
    (path := tmp_path / "mine.py").write_text(text)
    out = sys.stdout
    load_model(f"{path}:net")
    assert sys.stdout is out
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "hello\nthere\n")
    tally(KIND, "what a user's file prints", 1, 1, "goes to stderr")
