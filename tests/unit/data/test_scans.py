"""Scans are read in one order, whatever the file's, and maps go back in the file's own."""

import nibabel
import numpy as np
import pytest
import torch

from scans import phantom, write_nifti, write_series
from torchsaliency import DataError, InputError, preprocess
from torchsaliency.data import open_scan
from torchsaliency.data.scans import is_scan
from torchsaliency.zoo import ScanPreprocessing

CODES = ["RAS", "LPS", "PIR", "SAL", "ILA"]


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_orientation_is_read_alike_and_written_back(tmp_path, codes, suffix):
    path = tmp_path / f"scan{suffix}"
    affine = write_nifti(path, phantom(), codes)
    scan = open_scan(path)
    np.testing.assert_array_equal(scan.voxels, phantom())
    assert scan.spacing == pytest.approx((1.5, 1.0, 2.0))
    (tmp_path / "map.nii.gz").write_bytes(scan.nifti(torch.from_numpy(scan.voxels)))
    written, original = nibabel.load(tmp_path / "map.nii.gz"), nibabel.load(path)
    np.testing.assert_array_equal(written.affine, affine)
    np.testing.assert_array_equal(written.get_fdata(), original.get_fdata())
    assert written.header.get_xyzt_units()[0] == "mm"


def test_a_smaller_map_is_spread_over_the_scan(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz", phantom(), "LPS")
    scan = open_scan(tmp_path / "scan.nii.gz")
    stored = scan.to_stored_order(torch.tensor([[[0.0]], [[1.0]]]))
    assert stored.shape == scan.stored == (8, 10, 6)
    assert (np.diff(stored[0, 0]) >= 0).all(), "the slices of LPS rise to the head, too"
    assert stored[..., 0].max() == 0
    assert stored[..., -1].min() == 1


def test_channels_and_scaled_values_are_read(tmp_path):
    volume = np.stack([phantom(), -phantom()]).transpose(3, 2, 1, 0)
    image = nibabel.Nifti1Image(volume, np.eye(4))
    nibabel.save(image, tmp_path / "two.nii.gz")
    scan = open_scan(tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(scan.voxels, np.stack([phantom(), -phantom()]))
    assert scan.size == (6, 10, 8)
    header = nibabel.Nifti1Image(phantom().T.astype(np.int16), np.eye(4)).header
    header.set_slope_inter(2, -5)
    stored = nibabel.Nifti1Image(phantom().T.astype(np.int16), np.eye(4), header)
    stored.header.set_slope_inter(2, -5)
    nibabel.save(stored, tmp_path / "scaled.nii")
    np.testing.assert_allclose(open_scan(tmp_path / "scaled.nii").voxels, 2 * phantom() - 5)


def test_a_series_is_the_same_scan(tmp_path):
    write_series(tmp_path / "series", phantom())
    scan = open_scan(tmp_path / "series")
    np.testing.assert_array_equal(scan.voxels, phantom())
    assert scan.spacing == pytest.approx((1.5, 1.0, 2.0))
    assert nibabel.aff2axcodes(scan.affine) == ("L", "P", "S")
    assert scan.affine[:3, 3] == pytest.approx((5, 7, 0))
    assert scan.stored == (8, 10, 6)
    for file in (tmp_path / "series").iterdir():  # as many archives name them
        file.rename(file.with_suffix(""))
    (tmp_path / "series" / "report.txt").write_text("no slice")
    assert is_scan(tmp_path / "series")
    np.testing.assert_array_equal(open_scan(tmp_path / "series").voxels, phantom())


WRONG = {
    "no position": ({"leave_out": ["ImagePositionPatient"]}, "has no ImagePositionPatient"),
    "two series": ({"SeriesInstanceUID": lambda place: f"1.2.{place % 2 + 3}"}, "2 DICOM series"),
    "a slice is missing": (
        {"ImagePositionPatient": lambda place: [0, 0, place + 2 * (place > 3)]},
        "lie 1 to 3 mm apart",
    ),
    "a slice twice": ({"ImagePositionPatient": lambda place: [0, 0, max(place, 1)]}, "lie 0 to"),
    "spacings": ({"PixelSpacing": lambda place: [1, 1 + place % 2]}, "different sizes or spacings"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_series_that_is_no_volume_is_refused(tmp_path, case):
    changes, message = WRONG[case]
    write_series(tmp_path / "series", phantom(), **changes)
    with pytest.raises(DataError, match=message):
        open_scan(tmp_path / "series")


def test_files_that_are_no_scans_are_refused(tmp_path):
    (tmp_path / "text.nii").write_text("no scan")
    (tmp_path / "empty").mkdir()
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((4, 4), np.float32), np.eye(4)), tmp_path / "flat.nii"
    )
    write_nifti(tmp_path / "scan.nii", phantom())
    for name, message in {
        "text.nii": "truncated or damaged",
        "empty": "holds 0 DICOM files",
        "missing.nii": "does not exist",
        "flat.nii": "give a volume",
    }.items():
        with pytest.raises(DataError, match=message):
            open_scan(tmp_path / name)
    with pytest.raises(DataError, match="8x10x6 voxels"):
        open_scan(tmp_path / "scan.nii", max_voxels=100)


# --- preprocessing --------------------------------------------------------------------------------


@pytest.fixture
def scan(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz", phantom(), "LPS")
    return open_scan(tmp_path / "scan.nii.gz")


def test_intensities(scan):
    plain = torch.from_numpy(phantom())
    x = ScanPreprocessing()(scan)
    torch.testing.assert_close(x[0], (plain - plain.mean()) / plain.std(correction=0))
    x = ScanPreprocessing(window=(100, 300), intensity="range", channels=2)(scan)
    torch.testing.assert_close(x, ((plain.clamp(100, 300) - 100) / 200).expand(2, -1, -1, -1))
    assert torch.equal(ScanPreprocessing(intensity="raw")(scan)[0], plain)


def test_sizes_and_the_order_of_sides(scan):
    assert ScanPreprocessing(size=(4, 5, 6))(scan).shape == (1, 4, 5, 6)
    assert ScanPreprocessing(spacing=(1.5, 2, 2))(scan).shape == (1, 6, 5, 8)
    monai = ScanPreprocessing(intensity="raw", axes="xyz")
    x = monai(scan)
    assert x.shape == (1, 8, 10, 6)
    assert torch.equal(monai.place_map(x[0]), torch.from_numpy(phantom()))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of readers that MONAI tries
def test_monai_reads_the_same_in_its_own_order(scan):
    transforms = pytest.importorskip("monai.transforms")
    load = transforms.Compose(
        [
            transforms.LoadImage(image_only=True, ensure_channel_first=True),
            transforms.Orientation("RAS", labels=None),
        ]
    )
    theirs = load(scan.path).as_tensor()
    torch.testing.assert_close(ScanPreprocessing(intensity="raw", axes="xyz")(scan), theirs)


def test_preprocess_reads_scans(tmp_path, scan):
    small = ScanPreprocessing(size=(4, 5, 6))
    x = preprocess([scan, scan.path, str(scan.path)], small)
    assert x.shape == (3, 1, 4, 5, 6)
    assert torch.equal(x[0], small(scan))
    assert torch.equal(x[0], x[2])
    write_nifti(tmp_path / "other.nii", phantom(depth=3))
    with pytest.raises(InputError, match="There are inputs of"):
        preprocess([scan, tmp_path / "other.nii"], ScanPreprocessing())
    with pytest.raises(DataError, match="given to a network of scans"):
        preprocess(torch.rand(3, 8, 8), small)
