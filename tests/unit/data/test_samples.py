"""The sample photographs are there, offline."""

from __future__ import annotations

import dataclasses

import pytest

from torchsaliency.data import sample_paths, sample_photo, sample_photos
from torchsaliency.errors import DataError

SIZES = {
    "chelsea": (451, 300),
    "coffee": (600, 400),
    "camera": (512, 512),
    "rocket": (640, 427),
    "china": (640, 427),
    "flower": (640, 427),
}


def test_there_are_six():
    assert list(sample_photos()) == list(SIZES) == list(sample_paths())


@pytest.mark.parametrize("name", SIZES)
def test_each_opens_and_has_its_credit(name):
    photo = sample_photo(name)
    assert photo.open().size == SIZES[name]
    assert photo.path == sample_paths()[name]
    assert photo.credit
    assert photo.licence


def test_unknown_names():
    with pytest.raises(DataError, match="close names are chelsea, china"):
        sample_photo("chelsia")


def test_a_photo_that_did_not_come():
    for missing in ({"package": "a_package_that_is_not_there"}, {"file": "data/none.png"}):
        photo = dataclasses.replace(sample_photo("china"), **missing)
        with pytest.raises(DataError, match="reinstall"):
            photo.open()
