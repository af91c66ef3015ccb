"""Photographs from files and folders, data sets, samples that come along, and drawn shapes."""

from torchsaliency.data.opening import open_data
from torchsaliency.data.photos import PHOTO_SUFFIXES, Photo, find_photos, open_photo, to_rgb
from torchsaliency.data.samples import SamplePhoto, sample_paths, sample_photo, sample_photos
from torchsaliency.data.sets import (
    VOID,
    DataSet,
    Picture,
    Sample,
    correct,
    misclassified,
    select,
)
from torchsaliency.data.shapes import Shapes, backgrounds, shapes

__all__ = [
    "PHOTO_SUFFIXES",
    "VOID",
    "DataSet",
    "Photo",
    "Picture",
    "Sample",
    "SamplePhoto",
    "Shapes",
    "backgrounds",
    "correct",
    "find_photos",
    "misclassified",
    "open_data",
    "open_photo",
    "sample_paths",
    "sample_photo",
    "sample_photos",
    "select",
    "shapes",
    "to_rgb",
]
