"""Photographs from files and folders, samples that come along, and the drawn shapes data."""

from torchsaliency.data.photos import PHOTO_SUFFIXES, find_photos, open_photo
from torchsaliency.data.samples import SamplePhoto, sample_paths, sample_photo, sample_photos
from torchsaliency.data.shapes import Shapes, backgrounds, shapes

__all__ = [
    "PHOTO_SUFFIXES",
    "SamplePhoto",
    "Shapes",
    "backgrounds",
    "find_photos",
    "open_photo",
    "sample_paths",
    "sample_photo",
    "sample_photos",
    "shapes",
]
