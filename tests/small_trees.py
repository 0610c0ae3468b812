"""A small valid tree of every data set, in its publisher's layout, drawn by the phantoms.

``BUILDERS`` holds a function for each reader that writes below a root, and ``FOLDERS`` the name
of the folder it writes. Trees are small (a dozen images of 32 pixels), so that thousands can be
copied, damaged and read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from PIL import Image

from medrobust_utils.data import ImageSet
from medrobust_utils.data.medmnist import PARTS, SETS
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.data.readers import ISIC

SIDE = 32
FOLDERS = {
    "ham10000": "ham10000",
    "nih": "nih_chestxray14",
    "retinopathy": "diabetic_retinopathy",
    "brain_mri": "brain_tumor_mri",
    "kermany": "chest_xray",
    "iq_othnccd": "The IQ-OTHNCCD lung cancer dataset",
    "busi": "Dataset_BUSI_with_GT",
    "pannuke": "pannuke",
    "consep": "consep_patches",
    "isic": "isic",
    "breastmnist": "medmnist",
    "own": "own",
}


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, quality=95)


def _draw(folder: Path, modality: str, files: list[str]) -> ImageSet:
    """As many phantoms as ``files``, and those saved below ``folder``."""
    drawn = phantom_set(modality, len(files), size=SIDE)
    for pixels, file in zip(drawn.images, files, strict=True):
        _save(pixels, folder / file)
    return drawn


def ham10000(root: Path, count: int = 12) -> None:
    """Images in two parts, two of a lesion, with their outlines."""
    folder, names = root / FOLDERS["ham10000"], [f"ISIC_{i:07d}" for i in range(count)]
    parts = [f"HAM10000_images_part_{1 + 2 * i // count}" for i in range(count)]
    files = [f"{part}/{name}.jpg" for part, name in zip(parts, names, strict=True)]
    drawn = _draw(folder, "dermatoscopy7", files)
    for name, mask in zip(names, drawn.masks, strict=True):
        place = folder / "HAM10000_segmentations_lesion_tschandl" / f"{name}_segmentation.png"
        _save(mask[..., None] * np.uint8(255), place)
    table = {
        "lesion_id": [f"HAM_{i // 2:07d}" for i in range(count)],
        "image_id": names,
        "dx": [drawn.classes[k] for k in drawn.targets],
        "dx_type": "histo",
        "age": 50.0,
    }
    pd.DataFrame(table).to_csv(folder / "HAM10000_metadata.csv", index=False)


def nih(root: Path) -> None:
    """12 images of 4 patients in two parts."""
    folder, names = root / FOLDERS["nih"], [f"{i // 3:08d}_{i % 3:03d}.png" for i in range(12)]
    files = [f"images_{1 + i // 6:03d}/images/{name}" for i, name in enumerate(names)]
    drawn = _draw(folder, "chest", files)
    labels = ["|".join(np.array(drawn.classes)[row.astype(bool)]) for row in drawn.targets]
    table = {"Image Index": names, "Finding Labels": labels, "Patient ID": np.arange(12) // 3}
    pd.DataFrame(table).to_csv(folder / "Data_Entry_2017_v2020.csv", index=False)


def retinopathy(root: Path) -> None:
    """12 images of 6 patients."""
    folder = root / FOLDERS["retinopathy"]
    names = [f"{10 + i // 2}_{('left', 'right')[i % 2]}" for i in range(12)]
    drawn = _draw(folder, "fundus", [f"train/{name}.jpeg" for name in names])
    table = pd.DataFrame({"image": names, "level": drawn.targets})
    table.to_csv(folder / "trainLabels.csv", index=False)


def brain_mri(root: Path) -> None:
    """Three images of each of the four classes."""
    kinds = {"notumor": "no", "glioma": "gl", "meningioma": "me", "pituitary": "pi"}
    files = [f"Training/{k}/Tr-{kinds[k]}_{i:04d}.jpg" for k in kinds for i in (1, 2, 3)]
    _draw(root / FOLDERS["brain_mri"], "mri", files)


def kermany(root: Path) -> None:
    """Two images of each part and class; the same stem comes twice, in different folders."""
    files = [
        f"{part}/{name}.jpeg"
        for number, part in enumerate(("train", "val", "test"), 1)
        for name in (
            f"NORMAL/IM-000{number}-0001",
            "NORMAL/NORMAL2-IM-0009-0001",
            f"PNEUMONIA/person{number}_bacteria_1",
            f"PNEUMONIA/person{number}_virus_7_2",
        )
    ]
    _draw(root / FOLDERS["kermany"], "chest", files)


def iq_othnccd(root: Path) -> None:
    """Four slices of each class."""
    kinds = ("Normal", "Bengin", "Malignant")
    files = [f"{kind} cases/{kind} case ({i}).jpg" for kind in kinds for i in range(1, 5)]
    _draw(root / FOLDERS["iq_othnccd"], "ct", files)


def busi(root: Path) -> None:
    """Four images of each class with an outline; one has two."""
    place, kinds = root / FOLDERS["busi"], ("normal", "benign", "malignant")
    stems = [f"{kind}/{kind} ({i})" for kind in kinds for i in range(1, 5)]
    drawn = _draw(place, "ultrasound", [f"{stem}.png" for stem in stems])
    for mask, stem in zip(drawn.masks, stems, strict=True):
        _save(mask[..., None] * np.uint8(255), place / f"{stem}_mask.png")
    _save(drawn.masks[5][..., None], place / "benign/benign (2)_mask_1.png")


def pannuke(root: Path) -> None:
    """Three folds of three, four and five images of noise, with all kinds of nuclei."""
    rng = np.random.default_rng(0)
    for number, count in enumerate((3, 4, 5), 1):
        folder = root / FOLDERS["pannuke"] / f"Fold {number}"
        images, masks = (folder / kind / f"fold{number}" for kind in ("images", "masks"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        pixels = rng.integers(0, 256, (count, 16, 16, 3)).astype(np.float64)
        kinds = rng.integers(0, 6, (count, 16, 16, 1))
        np.save(images / "images.npy", pixels)
        np.save(masks / "masks.npy", (kinds == np.arange(6)).astype(np.float64))


def consep(root: Path) -> None:
    """Four training and two test tiles of two patches each, with label maps of noise."""
    place, rng = root / FOLDERS["consep"], np.random.default_rng(0)
    tiles = [f"train_{i}" for i in (1, 2, 3, 4)] + ["test_1", "test_2"]
    names = [f"{tile}_r0{column}" for tile in tiles for column in (0, 1)]
    parts = [name.split("_")[0] for name in names]
    files = [f"{part}/images/{name}.png" for part, name in zip(parts, names, strict=True)]
    _draw(place, "histology", files)
    for file in files:
        labels = rng.integers(0, 8, (SIDE, SIDE, 1)).astype(np.uint8)
        _save(labels, place / file.replace("images", "labels"))


def isic(root: Path) -> None:
    """12 images of the ten diagnoses, two a patient."""
    folder, names = root / FOLDERS["isic"], [f"ISIC_{i:07d}" for i in range(12)]
    _draw(folder, "dermatoscopy10", [f"images/{name}.jpg" for name in names])
    table = {
        "isic_id": names,
        "diagnosis": [ISIC[i % 10] for i in range(12)],
        "patient_id": [f"IP_{i // 2}" for i in range(12)],
        "lesion_id": [f"IL_{i}" for i in range(12)],
    }
    pd.DataFrame(table).to_csv(folder / "metadata.csv", index=False)


def medmnist(
    root: Path, name: str, side: int = 28, counts: Sequence[int] = (20, 6, 8)
) -> dict[str, np.ndarray]:
    """A file of MedMNIST with ``counts`` images a part, no two alike, and what is in it."""
    kind, rng, arrays = SETS[name], np.random.default_rng(0), {}
    for part, count in zip(PARTS, counts, strict=True):
        small = rng.integers(0, 256, (count, 14, 14, kind.channels), np.uint8).squeeze()
        grown = [np.asarray(Image.fromarray(one).resize((side, side))) for one in small]
        arrays[f"{part}_images"] = np.stack(grown)
        labels = (np.arange(count) % len(kind.classes)).astype(np.uint8)[:, None]
        several = rng.integers(0, 2, (count, len(kind.classes)), np.uint8)
        arrays[f"{part}_labels"] = several if kind.several else labels
    path = root / "medmnist" / (f"{name}.npz" if side == 28 else f"{name}_{side}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return arrays


def breastmnist(root: Path) -> None:
    """MedMNIST's file of 28 pixels with six, two and four images."""
    medmnist(root, "breastmnist", counts=(6, 2, 4))


def own(root: Path) -> None:
    """One's own folder: gray PNG of 8 and 16 bits and DICOM, a table with labels and patients."""
    drawn, folder = phantom_set("chest", 12, size=SIDE), root / FOLDERS["own"]
    (folder / "images/more").mkdir(parents=True)
    names = [f"{'more/' if i % 2 else ''}image{i}" for i in range(12)]
    for i, name in enumerate(names):
        pixels, path = drawn.images[i][..., 0], folder / "images" / name
        if i < 4:
            stored = pixels.astype(np.uint16) * 16
            dicom(path.with_suffix(".dcm"), stored, PatientID=path.stem)
        else:
            deep = pixels if i < 8 else pixels.astype(np.uint16) * 257
            Image.fromarray(deep).save(path.with_suffix(".png"))
    table = {"image": names, "label": ["sick", "well", "well"] * 4, "patient": np.arange(12) // 2}
    pd.DataFrame(table).to_csv(folder / "labels.csv", index=False)


def dicom(path: Path, stored: np.ndarray, **elements: object) -> Path:
    """Write gray numbers (H, W) as a file of 12 bits in 16, as scanners do, with ``elements``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    file = pydicom.Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID = meta[2, 2].value, meta[2, 3].value
    file.Rows, file.Columns = stored.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.PixelRepresentation = int(stored.min() < 0)
    file.PixelData = stored.astype("<i2" if stored.min() < 0 else "<u2").tobytes()
    for name, value in elements.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


BUILDERS = {name: globals()[name] for name in FOLDERS}
