"""Data sets, photographs from files and folders, samples that come along, and drawn shapes."""

import importlib
import pkgutil

from torchsaliency.data.adapter import as_dataset
from torchsaliency.data.channels import read_channels, show_channels
from torchsaliency.data.clips import Clip, open_clip
from torchsaliency.data.dataset import (
    VOID,
    DataSet,
    Picture,
    Sample,
    correct,
    misclassified,
    select,
)
from torchsaliency.data.files import PHOTO_SUFFIXES
from torchsaliency.data.folders import image_folder
from torchsaliency.data.opening import open_data, register_dataset
from torchsaliency.data.photos import Photo, find_photos, open_photo, to_rgb
from torchsaliency.data.samples import SamplePhoto, sample_paths, sample_photo, sample_photos
from torchsaliency.data.scans import Scan, open_scan
from torchsaliency.data.shapes import Shapes, backgrounds, shapes

__all__ = [
    "PHOTO_SUFFIXES",
    "VOID",
    "Clip",
    "DataSet",
    "Photo",
    "Picture",
    "Sample",
    "SamplePhoto",
    "Scan",
    "Shapes",
    "as_dataset",
    "backgrounds",
    "correct",
    "find_photos",
    "image_folder",
    "misclassified",
    "open_clip",
    "open_data",
    "open_photo",
    "open_scan",
    "read_channels",
    "register_dataset",
    "sample_paths",
    "sample_photo",
    "sample_photos",
    "select",
    "shapes",
    "show_channels",
    "to_rgb",
]

for _module in pkgutil.iter_modules(__path__):  # importing a kind of data set registers it
    importlib.import_module(f"{__name__}.{_module.name}")
