"""Photographs from files and folders, and the samples that come with the installation."""

from torchsaliency.data.photos import PHOTO_SUFFIXES, find_photos, open_photo
from torchsaliency.data.samples import SamplePhoto, sample_paths, sample_photo, sample_photos

__all__ = [
    "PHOTO_SUFFIXES",
    "SamplePhoto",
    "find_photos",
    "open_photo",
    "sample_paths",
    "sample_photo",
    "sample_photos",
]
