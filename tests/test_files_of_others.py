"""Files as other devices, programs and disks give them: read right, or refused by what is wrong."""

import errno
import os
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from small_trees import dicom as dicom_file

from medrobust_utils import data
from medrobust_utils.core import disk
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import dicom, splits
from medrobust_utils.data.duplicates import near_duplicates
from medrobust_utils.data.phantoms import phantom_set

RAMP = np.tile(np.arange(0, 4096, 64), (64, 1))  # 0 to 4032, as all files of one device
GRAYS = RAMP.astype(float)


def lut(values, bits, first=0):
    item = Dataset()
    item.add_new(0x00283002, "US", [len(values), first, bits])
    item.add_new(0x00283006, "US", [int(v) for v in values])
    return pydicom.Sequence([item])


def window(values, centre, width):
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255


SQUARE = np.rint((np.arange(4096) / 4095) ** 2 * 4095)
CURVE = np.rint(4095 / (1 + np.exp(-(np.arange(4096) - 1000) / 150)))
W = {"WindowCenter": 1000, "WindowWidth": 800}
PAD = np.where(RAMP < 512, -2000, RAMP - 1024)
GRAY_FILES = {
    "plain": ({}, GRAYS / 4095 * 255),
    "window": (W, window(GRAYS, 1000, 800)),
    "several windows": (
        {"WindowCenter": [1000, 40], "WindowWidth": [800, 400]},
        window(GRAYS, 1000, 800),
    ),
    "first window of width 0": (
        {"WindowCenter": [40, 1000], "WindowWidth": [0, 800]},
        window(GRAYS, 1000, 800),
    ),
    "empty window": ({"WindowCenter": None, "WindowWidth": None}, GRAYS / 4095 * 255),
    "exact": (W | {"VOILUTFunction": "LINEAR_EXACT"}, np.clip((GRAYS - 600) / 800, 0, 1) * 255),
    "sigmoid": (
        W | {"VOILUTFunction": "SIGMOID"},
        255 / (1 + np.exp(-4 * (GRAYS - 1000) / 800)),
    ),
    "width 1": ({"WindowCenter": 1000, "WindowWidth": 1}, (GRAYS > 999.5) * 255.0),
    "rescaled": (
        {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400},
        window(GRAYS * 2 - 1024, 40, 400),
    ),
    "weak counts": ({"RescaleSlope": 1 / 1024, "RescaleIntercept": 0}, GRAYS / 4096 * 255),
    "modality LUT": ({"ModalityLUTSequence": lut(SQUARE, 16)}, SQUARE[RAMP] / 4095 * 255),
    "modality LUT, window": (
        {"ModalityLUTSequence": lut(SQUARE, 16)} | W,
        window(SQUARE[RAMP], 1000, 800),
    ),
    "VOI LUT of 12 bits": ({"VOILUTSequence": lut(CURVE, 12)}, CURVE[RAMP] / 4095 * 255),
    "VOI LUT of 12 bits in 16": ({"VOILUTSequence": lut(CURVE, 16)}, CURVE[RAMP] / 4095 * 255),
    "VOI LUT to 8 bits": ({"VOILUTSequence": lut(CURVE // 16, 8)}, CURVE[RAMP] // 16),
    "VOI LUT from 500 on": (
        {"VOILUTSequence": lut(CURVE[500:], 12, first=500)},
        CURVE[np.maximum(RAMP, 500)] / 4095 * 255,
    ),
    "inverted": ({"PhotometricInterpretation": "MONOCHROME1"} | W, 255 - window(GRAYS, 1000, 800)),
}


@pytest.mark.parametrize("kind", GRAY_FILES)
def test_gray_of_a_scanner_is_shown_as_the_standard_says(tmp_path, kind):
    elements, wanted = GRAY_FILES[kind]
    shown = dicom.picture(dicom_file(tmp_path / "x.dcm", RAMP, **elements))
    np.testing.assert_allclose(np.asarray(shown), wanted, atol=1)


def test_padding_is_black_and_leaves_the_contrast_to_the_rest(tmp_path):
    path = dicom_file(tmp_path / "x.dcm", PAD, BitsStored=16, HighBit=15, PixelPaddingValue=-2000)
    shown = np.asarray(dicom.picture(path)).astype(int)
    assert (shown[PAD == -2000] == 0).all()
    wanted = (PAD + 512.0) / (4095 + 512) * 255  # from -512 on, the power of two that holds all
    np.testing.assert_allclose(shown[PAD > -2000], wanted[PAD > -2000], atol=1)


def test_one_bright_pixel_does_not_take_the_contrast_without_a_word(tmp_path):
    for i in range(4):
        stored = np.random.default_rng(i).integers(0, 100, (64, 64))
        stored[0, 0] = 4000
        dicom_file(tmp_path / "ab"[i % 2] / f"{i}.dcm", stored)
    with pytest.raises(DataError, match="keep .* gray levels.*window"):
        data.load(f"folder:{tmp_path}", size=64)


def test_weak_images_are_no_copies_and_share_their_range(tmp_path):
    for i in range(12):
        stored = np.random.default_rng(i).integers(0, 12 + 100 * (i == 3), (64, 64))
        dicom_file(tmp_path / "ab"[i % 2] / f"{i}.dcm", stored, PatientID=f"p{i}")
    found = data.load(f"folder:{tmp_path}", size=64)
    assert len(found) == 12 and found.census["dicom_range"].startswith("0 to 127")


DISC = np.hypot(*(np.mgrid[:64, :64] - 24)) < 10


def rgba(light, alpha):
    return Image.fromarray(np.dstack([light] * 3 + [alpha]).astype(np.uint8))


def palette(*colours):
    image = Image.fromarray(DISC.astype(np.uint8)).convert("P")
    image.putpalette([*colours, *[0] * (768 - len(colours))])
    return image


smooth = Image.fromarray((DISC * 255).astype(np.uint8)).resize((256, 256), Image.Resampling.BICUBIC)
OUTLINES = {
    "0 and 1": Image.fromarray(DISC.astype(np.uint8)),
    "0 and 127": Image.fromarray((DISC * 127).astype(np.uint8)),
    "1 bit": Image.fromarray(DISC),
    "16 bits": Image.fromarray((DISC * 65535).astype(np.uint16)),
    "16 bits, 0 and 1": Image.fromarray(DISC.astype(np.uint16)),
    "palette, dark red": palette(0, 0, 0, 128, 0, 0),
    "palette, white first": palette(0, 0, 0, 255, 255, 255),
    "green": Image.fromarray(np.dstack([DISC * 0, DISC * 200, DISC * 0]).astype(np.uint8)),
    "shape in alpha": rgba(DISC * 0, DISC * 255),
    "white, shape in alpha": rgba(DISC * 0 + 255, DISC * 255),
    "opaque": rgba(DISC * 255, DISC * 0 + 255),
    "gray and alpha": Image.fromarray(np.dstack([DISC * 255, DISC * 255]).astype(np.uint8), "LA"),
}


def outlined(root, mask, size=(64, 64)):
    for i in range(4):
        path = root / "ab"[i % 2] / f"{i}.png"
        for folder in (path.parent, root / "masks" / path.parent.name):
            folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 255, size[::-1], dtype=np.uint8)
        Image.fromarray(noise).save(path)
        mask.save(root / "masks" / path.parent.name / path.name)
    return data.load(f"folder:{root}", size=64)


@pytest.mark.parametrize("kind", OUTLINES)
def test_two_colours_are_an_outline_whatever_they_are(tmp_path, kind):
    np.testing.assert_array_equal(outlined(tmp_path, OUTLINES[kind]).masks[0] > 0, DISC)


def test_smoothed_edges_are_cut_in_the_middle_and_classes_are_refused(tmp_path):
    found = outlined(tmp_path / "smooth", smooth)
    assert (found.masks[0] != DISC).mean() < 0.01
    with pytest.raises(DataError, match="holds 4 values .0, 1, 2, 3.*black and white"):
        outlined(
            tmp_path / "classes", Image.fromarray((np.indices((64, 64))[0] // 16).astype("u1"))
        )


def test_outlines_that_are_all_empty_are_said(tmp_path):
    with pytest.warns(UserWarning, match="all outlines are empty"):
        found = outlined(tmp_path, Image.fromarray(np.zeros((64, 64), np.uint8)))
    assert found.census["outlines_empty"] == 4 and not found.masks[:].any()


@pytest.mark.parametrize("size", [(96, 64), (60, 100), (64, 128)])
def test_an_outline_of_another_shape_is_refused_and_a_smaller_one_fits(tmp_path, size):
    with pytest.raises(DataError, match=f"{size[0]} x {size[1]} pixels, but its image"):
        outlined(tmp_path / "other", Image.new("L", size, 255), (64, 96))
    assert outlined(tmp_path / "half", Image.new("L", (32, 48), 255), (64, 96)).masks[:].all()


PLACES = {
    errno.ENOTCONN: "Connect",
    errno.EIO: "Connect",
    errno.ESTALE: "Connect",
    errno.ETIMEDOUT: "Connect",
    errno.EMFILE: "ulimit",
    errno.ENFILE: "ulimit",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ENOMEM: "memory",
    errno.ENOSPC: "room",
    errno.EDQUOT: "room",
    errno.EROFS: "read-only",
}


@pytest.mark.parametrize("number", PLACES, ids=errno.errorcode.get)
@pytest.mark.parametrize("where", ["png", "dcm", "csv"])
def test_what_is_wrong_with_a_disk_never_advises_to_delete(tmp_path, monkeypatch, number, where):
    names = [f"{i}.{'dcm' if where == 'dcm' else 'png'}" for i in range(4)]
    for i, name in enumerate(names):
        if where == "dcm":
            dicom_file(tmp_path / name, RAMP + i)
        else:
            Image.fromarray((RAMP // 16 + i).astype(np.uint8)).save(tmp_path / name)
    lines = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *lines]))
    real_open, real_io = open, os.open

    def fail(path, *args, **how):
        if str(path).endswith(where):
            raise OSError(number, os.strerror(number), str(path))
        return real_open(path, *args, **how)

    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr("io.open", fail)
    with pytest.raises(DataError, match=PLACES[number]) as caught:
        data.load(f"folder:{tmp_path}", size=32)
    said = str(caught.value).lower()
    assert "not to blame" in said and real_io is os.open
    assert not any(word in said for word in ("delete", "remove", "download", "save it again"))


def test_no_array_is_mapped_on_a_disk_that_cannot_hold_it(tmp_path, home, monkeypatch):
    for i in range(4):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((RAMP // 16 + i).astype(np.uint8)).save(path)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "posix_fallocate", full)
    with pytest.raises(DataError, match="decoded: 0 MB are needed, .* MB are free.*MEDROBUST_HOME"):
        data.load(f"folder:{tmp_path}", size=32)
    assert not list((home / "decoded").iterdir())


def eyes(count, side=128):
    """Photographs of different eyes by one camera: the same field, lighting and surround."""
    drawn = phantom_set("fundus", count, size=side).images.astype(np.float64)
    y, x = np.mgrid[:side, :side] / side - 0.5
    inside = np.hypot(x, y) < 0.46
    light = (1 - 1.2 * (x**2 + y**2))[..., None] * np.array([190.0, 95, 50])
    found = light + (drawn - drawn.mean((1, 2), keepdims=True)) * 0.25
    return np.clip(np.where(inside[..., None], found, 4), 0, 255).astype(np.uint8)


def copies(image, tmp_path):
    """The same picture smaller, and compressed anew."""
    side, whole = image.shape[0], Image.fromarray(image)
    whole.save(tmp_path / "x.jpg", quality=60)
    changed = [
        whole.resize((96, 96), Image.Resampling.BICUBIC).resize((side, side)),
        Image.open(tmp_path / "x.jpg"),
    ]
    return np.stack([np.asarray(one.convert("RGB")) for one in changed])


def test_eyes_of_one_camera_are_no_chain_and_every_copy_is_found(tmp_path):
    different = eyes(120)
    originals = (3, 40, 77)
    images = np.concatenate([different, *(copies(different[i], tmp_path) for i in originals)])
    flat = different.mean(3).reshape(120, -1)
    assert np.mean(np.corrcoef(flat) > 0.99) > 0.3, "they are not alike enough to test anything"
    found = {tuple(pair) for pair in near_duplicates(images)[0].T.tolist()}
    same = [{i, *range(120 + 2 * k, 122 + 2 * k)} for k, i in enumerate(originals)]
    wanted = {(a, b) for group in same for a in group for b in group if a < b}
    assert found == wanted


def test_a_chain_too_large_to_split_is_cut_and_a_patient_column_is_believed(tmp_path):
    """Sixty frames of a slow film: each is like the next, the first is not like the last."""
    scene = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16), dtype=np.uint8))
    film = np.asarray(scene.resize((640, 320), Image.Resampling.BICUBIC))
    (tmp_path / "images").mkdir()
    for i in range(60):
        Image.fromarray(film[:, 2 * i : 2 * i + 320]).save(tmp_path / f"images/{i}.png")
    lines = [f"{i},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *lines]))
    with pytest.warns(UserWarning, match="pairs of near duplicates would chain"):
        found = data.load(f"folder:{tmp_path}", size=64)
    assert found.census["near_duplicate_pairs_not_joined"] > 0
    assert np.bincount(found.groups).max() <= 6
    splits.split_by_group(found, seed=0)
    lines = [f"{line},p{i // 3}" for i, line in enumerate(lines)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label,patient", *lines]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = data.load(f"folder:{tmp_path}", size=64)
    assert len(np.unique(found.groups)) == 20
    assert found.census["near_duplicates_of_different_patients"] > 0


def test_a_telephones_photograph_is_its_first_picture(tmp_path):
    for i in range(4):
        path = tmp_path / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        photo = Image.fromarray(noise)
        photo.save(path, format="MPO", save_all=True, append_images=[photo.resize((20, 15))])
    found = data.load(f"folder:{tmp_path}", size=32)
    assert len(found) == 4 and found.census["files_first_of_several"] == 4


def test_the_ground_truth_of_a_challenge_is_read_as_it_is(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"images/ISIC_{i}.jpg")
    lines = [f"ISIC_{i},{i % 2:.1f},{1 - i % 2:.1f},0.0" for i in range(8)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,MEL,NV,UNK", *lines]))
    found = data.load(f"folder:{tmp_path}", size=32)
    assert found.classes == ("MEL", "NV") and found.targets.sum(0).tolist() == [4, 4]
    assert found.census["columns_left_out"] == ["UNK"]
