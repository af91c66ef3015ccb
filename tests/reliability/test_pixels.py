"""A photograph has the same pixels by every door: path, PIL image, array, tensor, data set."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import torchsaliency
from nets import convnet
from torchsaliency import DataError, Preprocessing, explain
from torchsaliency.data import open_data, open_photo, to_rgb
from torchsaliency.zoo import imagenet

H, W = 12, 18
AS_IT_IS = Preprocessing(size=(H, W), resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)

draw = np.random.default_rng(0)
GREY = draw.integers(0, 256, (H, W), dtype=np.uint8)
RGB = draw.integers(0, 256, (H, W, 3), dtype=np.uint8)
RGB[0, 0], RGB[0, 1] = 0, 255
ALPHA = draw.integers(0, 256, (H, W), dtype=np.uint8)
DEEP = np.linspace(0, 65535, H * W).reshape(H, W).astype(np.uint16)
LONG = np.linspace(0, 65535, H * W).reshape(H, W).astype(np.int32)
UNIT = np.linspace(0, 1, H * W, dtype=np.float32).reshape(H, W)
COLOURS = draw.integers(0, 256, (16, 3), dtype=np.uint8)
PLACES = draw.integers(0, 16, (H, W), dtype=np.uint8)
BLACK = (GREY > 128).astype(np.uint8)


def three(grey):
    return np.repeat(np.asarray(grey, float)[..., None], 3, -1)


def over_white(colours, alpha):
    share = np.asarray(alpha, float)[..., None] / 255
    return np.asarray(colours, float) * share + 255 * (1 - share)


def palette(transparency):
    image = Image.frombytes("P", (W, H), PLACES.tobytes())
    image.putpalette(COLOURS.flatten().tolist())
    alphas = np.full(16, 255)
    if isinstance(transparency, bytes):
        alphas[: len(transparency)] = list(transparency)
    elif transparency is not None:
        alphas[transparency] = 0
    return image, over_white(COLOURS[PLACES], alphas[PLACES])


def cmyk():
    image = Image.frombytes("CMYK", (W, H), draw.integers(0, 256, (H, W, 4), np.uint8).tobytes())
    ink = np.asarray(image, float)
    return image, (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255


def keyed(array, key):
    """Return an image in which one colour is transparent, and what it shows."""
    image = Image.fromarray(array)
    clear = (array == np.asarray(key)).reshape(H, W, -1).all(-1)
    shown = three(array / 257 if array.dtype == np.uint16 else array) if array.ndim == 2 else array
    return image, np.where(clear[..., None], 255, shown)


def turned(orientation):
    """Return an image whose EXIF block says that it lies, and what it shows."""
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = orientation
    rows = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.swapaxes(0, 1),
        6: RGB[::-1].swapaxes(0, 1),
        7: RGB[::-1, ::-1].swapaxes(0, 1),
        8: RGB[:, ::-1].swapaxes(0, 1),
    }
    return image, rows[orientation]


def pages(*images):
    first, *rest = (Image.fromarray(one) for one in images)
    return first, images[0], {"save_all": True, "append_images": rest}


STRETCHED = np.linspace(-500, 70_000, H * W).reshape(H, W).astype(np.int32)
TWO_BYTES = DEEP.copy()
TWO_BYTES[3:5] = 771

HELD = {
    "jpg": {"quality": 100, "subsampling": 0},
    "png": {},
    "webp": {"lossless": True},
    "tiff": {},
}

# suffix, (image, what it shows, options of saving), whether its array says the same
KINDS = {
    "grey png": ("png", (Image.fromarray(GREY), three(GREY)), True),
    "RGB png": ("png", (Image.fromarray(RGB), RGB), True),
    "16 bits png": ("png", (Image.fromarray(DEEP), three(DEEP / 257)), True),
    "16 bits tiff": ("tiff", (Image.fromarray(DEEP), three(DEEP / 257)), True),
    "16 bits packed": (
        "tiff",
        (Image.fromarray(DEEP), three(DEEP / 257), {"compression": "tiff_lzw"}),
        True,
    ),
    "int32 tiff": ("tiff", (Image.fromarray(LONG), three(LONG / 257)), True),
    "int32 of any range": (
        "tiff",
        (Image.fromarray(STRETCHED), three((STRETCHED + 500) / 70_500 * 255)),
        True,
    ),
    "float of 0 to 1": ("tiff", (Image.fromarray(UNIT), three(UNIT * 255)), True),
    "float of 0 to 255": ("tiff", (Image.fromarray(UNIT * 255), three(UNIT * 255)), True),
    "float of any range": (
        "tiff",
        (Image.fromarray(UNIT * 3000 - 1000), three(UNIT * 255)),
        True,
    ),
    "float a little over 1": (
        "tiff",
        (Image.fromarray(UNIT * np.float32(1.0005)), three(UNIT * 255)),
        True,
    ),
    "RGBA png": (
        "png",
        (Image.fromarray(np.dstack([RGB, ALPHA])), over_white(RGB, ALPHA)),
        True,
    ),
    "RGBA webp": (
        "webp",
        (
            Image.fromarray(np.dstack([RGB, ALPHA])),
            over_white(RGB, ALPHA),
            {"lossless": True, "exact": True},
        ),
        True,
    ),
    "RGBA tiff": (
        "tiff",
        (Image.fromarray(np.dstack([RGB, ALPHA])), over_white(RGB, ALPHA)),
        True,
    ),
    "LA png": (
        "png",
        (Image.fromarray(np.dstack([GREY, ALPHA])), over_white(three(GREY), ALPHA)),
        True,
    ),
    "palette png": ("png", palette(None), False),
    "palette, one clear": ("png", (*palette(3), {"transparency": 3}), False),
    "palette, some clear": (
        "png",
        (*palette(bytes([0, 90, 255, 0])), {"transparency": bytes([0, 90, 255, 0])}),
        False,
    ),
    "gif": ("gif", palette(None), False),
    "gif, one clear": ("gif", (*palette(3), {"transparency": 3}), False),
    "grey key": ("png", (*keyed(GREY, GREY[2, 2]), {"transparency": int(GREY[2, 2])}), False),
    "RGB key": (
        "png",
        (*keyed(RGB, RGB[2, 2]), {"transparency": tuple(map(int, RGB[2, 2]))}),
        False,
    ),
    "16 bits key": ("png", (*keyed(TWO_BYTES, 771), {"transparency": 771}), False),
    "black and white png": (
        "png",
        (Image.fromarray(GREY > 128), three(BLACK * 255)),
        True,
    ),
    "black and white tiff": (
        "tiff",
        (Image.fromarray(GREY > 128), three(BLACK * 255), {"compression": "group4"}),
        True,
    ),
    "CMYK jpeg": ("jpg", (*cmyk(), {"quality": 100, "subsampling": 0}), False),
    "CMYK tiff": ("tiff", cmyk(), False),
    "bmp": ("bmp", (Image.fromarray(RGB), RGB), True),
    "webp": ("webp", (Image.fromarray(RGB), RGB, {"lossless": True}), True),
    "jpeg": ("jpg", (Image.fromarray(RGB), RGB, {"quality": 100, "subsampling": 0}), True),
    "grey jpeg": ("jpg", (Image.fromarray(GREY), three(GREY), {"quality": 100}), True),
    "pages": ("tiff", pages(RGB, RGB[::-1], RGB[:, ::-1]), True),
    "animated webp": ("webp", (*pages(RGB, RGB[::-1])[:2], {"lossless": True}), True),
    **{
        f"{suffix} held {orientation}": (
            suffix,
            (*turned(orientation), options),
            suffix == "tiff",  # which Pillow turns as it decodes it
        )
        for suffix, options in HELD.items()
        for orientation in range(1, 9)
    },
}


def saved(folder, kind):
    suffix, (image, shown, *options), same_array = KINDS[kind]
    path = folder / f"photo.{suffix}"
    exif = image.getexif()
    image.save(path, **(options[0] if options else {}), **({"exif": exif} if exif else {}))
    return path, np.asarray(shown, float), same_array


def pixels_of(photo):
    """Return what a network without normalisation gets of a photograph, as levels."""
    prepared = Preprocessing(
        size=to_rgb(photo).size[::-1], resize=None, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    return torchsaliency.preprocess(photo, prepared)[0].permute(1, 2, 0).numpy() * 255


def opened_late(path):
    with Image.open(path) as image:
        return pixels_of(image), torchsaliency.preprocess(image)


def opened_early(path):
    with Image.open(path) as image:
        image.load()
    return pixels_of(image), torchsaliency.preprocess(image)


def copied(path):
    with Image.open(path) as image:
        copy = image.copy()
    return pixels_of(copy), torchsaliency.preprocess(copy)


def twice(path):
    image = open_photo(path)
    return pixels_of(image), torchsaliency.preprocess([image])


def of_path(path):
    return pixels_of(path), torchsaliency.preprocess(str(path))


def of_data(path):
    image = open_data(path.parent).picture(0).image
    return pixels_of(image), torchsaliency.preprocess((image,))


def of_array(path):
    with Image.open(path) as image:
        array = np.asarray(image)
    return pixels_of(array), torchsaliency.preprocess(array)


def of_tensor(path):
    with Image.open(path) as image:
        tensor = torch.from_numpy(np.array(image))
    if tensor.ndim == 3:
        tensor = tensor.permute(2, 0, 1)
    return pixels_of(tensor), torchsaliency.preprocess(tensor)


DOORS = (of_path, opened_late, opened_early, copied, twice, of_data)
ARRAYS = (of_array, of_tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_every_door_gives_the_same_pixels(kind, tmp_path, tally):
    path, shown, same_array = saved(tmp_path, kind)
    doors = DOORS + (ARRAYS if same_array else ())
    own, input_ = of_path(path)
    for door in doors:
        pixels, prepared = door(path)
        assert np.abs(pixels - own).max() < 1e-5 * 255, door.__name__
        assert float((prepared - input_).abs().max()) < 1e-5, door.__name__
    assert own.shape == shown.shape
    off = np.abs(own - shown)
    assert off.mean() < 3 if path.suffix == ".jpg" else off.max() <= 1.01
    tally(
        "images", "kinds of file × doors", len(doors), len(doors), "the same pixels, the right ones"
    )


@pytest.fixture(scope="module")
def explanation():
    net, x = convnet(), torch.rand(1, 3, 16, 16)
    return explain(net, x, torchsaliency.create("gradcam"), 0, "relu3")["gradcam"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_overlay_lies_on_the_same_pixels(kind, explanation, tmp_path, tally):
    path, _, same_array = saved(tmp_path, kind)
    expected = np.asarray(open_photo(path))
    with Image.open(path) as image:
        forms = [path, str(path), image, open_photo(path)]
        forms += [np.asarray(image)] if same_array else []
        for form in forms:
            drawn = torchsaliency.overlay(form, explanation, imagenet(16), alpha=0.0)
            assert (np.asarray(drawn) == expected).all()
    tally("images", "kinds of file × doors of overlay", len(forms), len(forms), "the same pixels")


UNITS = RGB.astype(np.float32) / 255
FORMS = {
    "uint8": RGB,
    "uint16": RGB.astype(np.uint16) * 257,
    "uint16, the other end first": (RGB.astype(np.uint16) * 257).astype(">u2"),
    "float32 of 0 to 1": UNITS,
    "float64 of 0 to 1": RGB / 255,
    "float16 of 0 to 255": RGB.astype(np.float16),
    "float32 of 0 to 255": RGB.astype(np.float32),
    "float64 of 0 to 255": RGB.astype(np.float64),
    "a little outside": UNITS * 1.001 - 0.0005,
    "read backwards": RGB[::-1][::-1],
}


@pytest.mark.parametrize("layout", ["HWC", "CHW", "HW", "HW1", "1HW", "HWA", "AHW", "RGBA", "ARGB"])
@pytest.mark.parametrize("form", FORMS)
def test_arrays_and_tensors_of_every_type_and_layout(form, layout, tally):
    colours = FORMS[form]
    clear = np.full((H, W, 1), colours.max(), colours.dtype)  # opaque, so that nothing changes
    made = {
        "HWC": colours,
        "CHW": colours.transpose(2, 0, 1),
        "HW": colours[..., 0],
        "HW1": colours[..., :1],
        "1HW": colours[..., 0][None],
        "HWA": np.concatenate([colours[..., :1], clear], -1),
        "AHW": np.concatenate([colours[..., :1], clear], -1).transpose(2, 0, 1),
        "RGBA": np.concatenate([colours, clear], -1),
        "ARGB": np.concatenate([colours, clear], -1).transpose(2, 0, 1),
    }[layout]
    expected = RGB if "RGB" in layout or "C" in layout else np.repeat(RGB[..., :1], 3, -1)
    before = made.copy()
    forms = [made]
    if made.dtype.isnative:
        tensor = torch.from_numpy(np.ascontiguousarray(made))
        forms += [tensor]
        forms += [tensor.clone().requires_grad_()] if tensor.is_floating_point() else []
    for one in forms:
        opened = np.asarray(to_rgb(one)).astype(int)
        assert opened.shape == (H, W, 3)
        assert np.abs(opened - expected).max() <= (1 if "outside" in form or "A" in layout else 0)
        assert torchsaliency.preprocess(one).shape == (1, 3, 224, 224)
    assert (made == before).all()
    tally(
        "images", "types × layouts of arrays", len(forms), len(forms), "the pixels that are meant"
    )


def test_transparency_of_arrays_lies_on_white():
    expected = np.asarray(to_rgb(Image.fromarray(np.dstack([RGB, ALPHA]))))
    made = np.dstack([RGB, ALPHA])
    for one in (made, made / 255, made.transpose(2, 0, 1), torch.from_numpy(made) / 255):
        assert np.abs(np.asarray(to_rgb(one)).astype(int) - expected).max() <= 1
    assert (np.asarray(to_rgb(np.zeros((5, 6, 2), np.uint8))) == 255).all()


def test_a_shape_that_fits_both_layouts():
    """An array is (H, W, C) and a tensor (C, H, W), as NumPy's and torch's programs have them."""
    cube = draw.integers(0, 256, (3, 7, 3), dtype=np.uint8)
    assert to_rgb(cube).size == (7, 3)
    assert to_rgb(torch.from_numpy(cube)).size == (3, 7)


WRONG = {
    "five channels": np.zeros((8, 8, 5), np.uint8),
    "a line": np.zeros(8, np.uint8),
    "one number": np.array(3.0),
    "no pixels": np.zeros((0, 8, 3), np.uint8),
    "int64": np.zeros((8, 8, 3), np.int64),
    "int32 colours": np.zeros((8, 8, 3), np.int32),
    "int8": np.zeros((8, 8), np.int8),
    "uint32": np.zeros((8, 8), np.uint32),
    "complex": np.zeros((8, 8, 3), complex),
    "words": np.full((8, 8), "x"),
    "objects": np.full((8, 8), None),
    "times": np.zeros((8, 8), "datetime64[s]"),
    "fields": np.zeros((8, 8), [("r", "u1")]),
    "normalised": draw.normal(size=(3, 8, 8)),
    "beyond 255": np.full((8, 8, 3), 300.0),
    "torch.int64": torch.zeros(3, 8, 8, dtype=torch.int64),
    "torch normalised": torch.randn(3, 8, 8),
    "torch meta": torch.zeros(3, 8, 8, device="meta"),
    "torch sparse": torch.zeros(8, 8).to_sparse(),
    "no width": Image.new("RGB", (0, 5)),
    "closed": Image.new("RGB", (5, 5)),
}
WRONG["closed"].close()


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_photograph_costs_one_sentence(case, explanation, tally):
    for door in (
        to_rgb,
        torchsaliency.preprocess,
        lambda photo: torchsaliency.preprocess([RGB, photo]),
        lambda photo: torchsaliency.overlay(photo, explanation),
    ):
        with pytest.raises(DataError) as caught:
            door(WRONG[case])
        assert "\n" not in str(caught.value)
        assert "; " in str(caught.value)
    tally("images", "arrays that are no photograph", 4, 4, "one sentence")


def test_no_photograph_at_all():
    for nothing in ([], ()):
        with pytest.raises(DataError, match="give one, or a list of at least one"):
            torchsaliency.preprocess(nothing)


def test_an_array_with_not_a_number_is_black_there():
    holes = UNITS.copy()
    holes[0, 0], holes[0, 1], holes[0, 2] = np.nan, np.inf, -np.inf
    opened = np.asarray(to_rgb(holes))
    assert (opened[0, :3] == 0).all()
    assert (opened[1:] == RGB[1:]).all()


def test_opened_images_are_left_as_they_were(tmp_path):
    path, _, _ = saved(tmp_path, "jpg held 6")
    with Image.open(path) as image:
        info, exif = dict(image.info), image.getexif()[0x0112]
        first = to_rgb(image)
        assert image.size == (W, H)
        assert image.info == info
        assert image.getexif()[0x0112] == exif == 6
        assert (np.asarray(to_rgb(image)) == np.asarray(first)).all()
    assert first.info == {}
    with Image.open(path) as image:  # what PIL has turned is not turned again
        upright = Image.Image.transpose(image, Image.Transpose.ROTATE_270)
        del upright.getexif()[0x0112]
    assert upright.size == first.size == (H, W)


def test_photographs_open_in_threads_and_leave_the_filters_of_warnings_alone(tmp_path, monkeypatch):
    paths = []
    for number, kind in enumerate(KINDS):
        (folder := tmp_path / str(number)).mkdir()
        paths.append(saved(folder, kind)[0])
    expected = [np.asarray(open_photo(path)) for path in paths]
    before = list(warnings.filters)
    monkeypatch.setattr(
        warnings, "catch_warnings", lambda *_, **__: pytest.fail("filters are the process's")
    )
    gate = threading.Barrier(8)

    def read(_):
        gate.wait()
        return [np.asarray(open_photo(path)) for path in paths]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(read, range(8)):
            assert all((one == own).all() for one, own in zip(found, expected, strict=True))
    monkeypatch.undo()
    assert list(warnings.filters) == before
