"""HAM10000's outlines: beside their images, decoded on demand, and no part of the identity."""

import shutil

import numpy as np
import pytest
from PIL import Image

from medrobust_utils.core.errors import DataError
from medrobust_utils.data import decoding, ham10000

FOLDER = "ham10000/HAM10000_segmentations_lesion_tschandl"


@pytest.fixture
def outlined(ham_root):
    """The HAM10000 tree with an outline an image: a rectangle whose place tells the image."""
    folder = ham_root / FOLDER
    folder.mkdir()
    for number in range(60):
        pixels = np.zeros((30, 40), np.uint8)
        pixels[6 + number % 10 : 24, 8 + number // 10 : 32] = 255
        Image.fromarray(pixels).convert("1").save(folder / f"ISIC_{number:07d}_segmentation.png")
    return ham_root


def expected(name, size):
    number = int(name.split("_")[1])
    rows, columns = ((np.arange(size) + 0.5) * side // size for side in (30, 40))
    inside = ((rows >= 6 + number % 10) & (rows < 24))[:, None] & (
        (columns >= 8 + number // 10) & (columns < 32)
    )
    return inside.astype(np.uint8)


def test_each_image_has_its_own_outline_at_its_own_size(outlined):
    images = ham10000.read(outlined, 24)
    assert len(images.masks) == 60 and images.masks.shape == (60, 24, 24)
    masks = images.masks[np.arange(60)]
    assert masks.dtype == np.uint8 and masks.shape == (60, 24, 24)
    assert (masks == [expected(name, 24) for name in images.ids]).all()


def test_outlines_follow_their_images_when_duplicates_go(outlined):
    table = (outlined / "ham10000/HAM10000_metadata.csv").read_text().splitlines()[1:]
    classes = [line.split(",")[2] for line in table]
    second = next(i for i in range(2, 30) if classes[i] == classes[0])
    part = outlined / "ham10000/HAM10000_images_part_1"
    shutil.copy(part / "ISIC_0000000.jpg", part / f"ISIC_{second:07d}.jpg")
    images = ham10000.read(outlined, 24)
    assert len(images) == len(images.masks) == 59
    assert f"ISIC_{second:07d}" not in images.ids
    for row in (0, second, 58):
        assert (images.masks[row] == expected(images.ids[row], 24)).all()


def test_outlines_change_neither_pixels_nor_order_nor_checksum(outlined, monkeypatch):
    with_outlines = ham10000.read(outlined, 24)
    shutil.rmtree(outlined / FOLDER)
    monkeypatch.setattr(decoding, "decode", lambda *a: pytest.fail("decoded the images again"))
    without = ham10000.read(outlined, 24)
    assert without.masks is None
    assert without.checksum == with_outlines.checksum and without.ids == with_outlines.ids
    assert without.census == with_outlines.census
    assert (without.images[:] == with_outlines.images[:]).all()
    assert (without.groups == with_outlines.groups).all()


def test_an_image_without_outline_is_named(outlined):
    (outlined / FOLDER / "ISIC_0000011_segmentation.png").unlink()
    with pytest.raises(DataError, match="1 images have no outline.*ISIC_0000011.*Unpack"):
        ham10000.read(outlined, 24)
