"""Freed memory that stays: once a process, if the user did not choose otherwise."""

import ctypes
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchsaliency import allocator, explain, tune_allocator

VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(allocator, "_warned", False)


@pytest.fixture
def glibc(monkeypatch):
    calls = []

    def mallopt(name, value):
        calls.append((name, value))
        return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    return calls


def test_both_thresholds_are_set_once(glibc):
    assert tune_allocator()
    assert tune_allocator()
    assert glibc == [(-3, 2**30), (-1, 2**31 - 1)]  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    assert allocator.kept_bytes() == 2**30


@pytest.mark.parametrize("name", VARIABLES)
def test_a_choice_of_the_user_stays(glibc, monkeypatch, caplog, name):
    monkeypatch.setenv(name, "1234")
    with caplog.at_level(logging.INFO, "torchsaliency"):
        assert not tune_allocator()
    assert not glibc
    assert os.environ[name] == "1234"
    assert name in caplog.text


@pytest.mark.parametrize("platform", ["darwin", "win32", "linux"])
def test_another_c_library_is_left_alone(monkeypatch, caplog, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())  # as musl
    with caplog.at_level(logging.INFO, "torchsaliency"):
        assert not tune_allocator()
    assert "C library" in caplog.text
    allocator.warn_of_allocator(2**40)


def test_thresholds_that_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *_: 0))
    assert not tune_allocator()
    assert not allocator.kept_bytes()


class Wide(nn.Module):
    """One layer whose output for an image of 256 pixels a side has 1 MiB."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


@pytest.mark.usefixtures("glibc")
def test_one_warning_a_process_and_only_of_large_layers(recwarn):
    net, images = Wide(), torch.zeros(64, 1, 256, 256)
    explain(net, images[:63], "gradcam", 0, "conv")
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"64 MiB.*tune_allocator"):
        explain(net, images, "gradcam", 0, "conv")
    explain(net, images, "gradcam", 0, "conv")
    assert not recwarn.list


@pytest.mark.usefixtures("glibc")
def test_no_warning_once_it_is_tuned(recwarn):
    tune_allocator()
    allocator.warn_of_allocator(2**40)
    assert not recwarn.list


def test_memory_is_set_without_torch():
    code = "import sys; from torchsaliency.allocator import tune_allocator as t; t()"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
