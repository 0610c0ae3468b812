"""The data sets in their publishers' layouts below ``MEDROBUST_DATA``: a declaration each.

A new set is one more line of SETS and an entry in ``catalogue.yaml``; ``layouts`` says what a
declaration can hold. Only sets that follow neither layout have a function of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from ..core.errors import DataError
from . import medmnist, nuclei
from .imageset import ImageSet
from .layouts import Folders, Table, words

ISIC = (
    "nevus",
    "melanoma",
    "basal cell carcinoma",
    "seborrheic keratosis",
    "actinic keratosis",
    "squamous cell carcinoma",
    "pigmented benign keratosis",
    "solar lentigo",
    "vascular lesion",
    "dermatofibroma",
)
# What the later exports of the archive call the same, in ``diagnosis_3``.
LATER = {
    "melanoma, nos": "melanoma",
    "melanoma invasive": "melanoma",
    "melanoma in situ": "melanoma",
    "melanoma metastasis": "melanoma",
    "solar or actinic keratosis": "actinic keratosis",
    "squamous cell carcinoma, nos": "squamous cell carcinoma",
    "squamous cell carcinoma, invasive": "squamous cell carcinoma",
    "squamous cell carcinoma in situ": "squamous cell carcinoma",
}
VASCULAR = "benign soft tissue proliferations - vascular"  # in ``diagnosis_2``, often without a 3


def _diagnosed(path: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """The lines of the ISIC Archive that have one of the ten diagnoses, and what was counted.

    Exports up to 2024 name one ``diagnosis``, later ones ``diagnosis_1`` to ``_5``. The patient
    decides the group, else the lesion, else the image alone.
    """
    if "diagnosis" not in table and "diagnosis_3" not in table:
        raise DataError(
            f"{path}: neither diagnosis nor diagnosis_3 is among its columns "
            f"{list(table.columns)}. Export the metadata from the archive again."
        )
    label = words(table, "diagnosis")
    label = label.where(label != "", words(table, "diagnosis_3")).replace(LATER)
    vascular = ~label.isin(ISIC) & (words(table, "diagnosis_2") == VASCULAR)
    label = label.mask(vascular, "vascular lesion")
    kept = label.isin(ISIC)
    others = Counter(label[~kept].replace("", "without a diagnosis"))
    table = table[kept].assign(diagnosis=label[kept])
    if table.empty:
        raise DataError(
            f"{path}: no image has one of the ten diagnoses ({', '.join(ISIC)}). Download images "
            "of them."
        )
    patient, lesion = words(table, "patient_id"), words(table, "lesion_id")
    by_patient, by_lesion = patient != "", (patient == "") & (lesion != "")
    # A lesion belongs to one patient: where only some of its lines say whose, all are theirs.
    owner = ("patient " + patient)[by_patient & (lesion != "")].groupby(lesion).last()
    told = ("patient " + patient).where(by_patient, "image " + table["isic_id"])
    told = told.mask(by_lesion, lesion.map(owner).fillna("lesion " + lesion))
    return table.assign(group=told), {
        "grouped_by_patient": int(by_patient.sum()),
        "grouped_by_lesion": int(by_lesion.sum()),
        "grouped_by_image": int((~by_patient & ~by_lesion).sum()),
        "other_diagnoses": sum(others.values()),
        "other_diagnoses_by_name": dict(others.most_common()),
    }


HAM10000 = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
FINDINGS = """Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax
Consolidation Edema Emphysema Fibrosis Pleural_Thickening Hernia"""
NIH = (*FINDINGS.split(), "No Finding")
SETS: dict[str, Folders | Table] = {
    # M. Nickparvar, Kaggle. Chen and Luo (PAKDD 2024) used the folder Training only.
    "brain_mri": Folders(
        "brain_tumor_mri",
        {f"Training/{k}": k for k in ("notumor", "glioma", "meningioma", "pituitary")},
        suffix=".jpg",
        complete=5_712,
    ),
    # Al-Dhabyani et al. 2020. Beside <name>.png lie <name>_mask.png, <name>_mask_1.png and so on.
    "busi": Folders(
        "Dataset_BUSI_with_GT",
        {k: k for k in ("normal", "benign", "malignant")},
        suffix=".png",
        complete=780,
        outline=r"(.+)_mask(?:_\d+)?",
    ),
    # Alyasriy and Al-Huseiny 2020; "Bengin" is the publisher's spelling. The slices are of 110
    # patients, but nothing says whose they are: every split may leak patients.
    "iq_othnccd": Folders(
        "The IQ-OTHNCCD lung cancer dataset",
        {"Normal cases": "normal", "Bengin cases": "benign", "Malignant cases": "malignant"},
        suffix=".jpg",
        complete=1_097,
    ),
    # Kermany et al. 2018, as on Kaggle, its parts as one set; val (16 images) may be absent.
    # Patients may be numbered anew in each part: who shares a number by chance shares a group.
    "kermany": Folders(
        "chest_xray",
        {f"{p}/{k}": k for p in ("train", "val", "test") for k in ("NORMAL", "PNEUMONIA")},
        suffix=".jpeg",
        complete=5_856,
        optional="val/",
        patient=r"(person)(\d+)_(?:bacteria|virus)(?:_\d+){1,2}"
        r"|(?:NORMAL2-)?(IM)-(\d+)(?:-\d+){1,2}",
    ),
    # Tschandl, Rosendahl and Kittler 2018, ISIC 2018 task 3.
    "ham10000": Table(
        "ham10000",
        ("HAM10000_metadata",),
        image="image_id",
        label="dx",
        group="lesion_id",
        files="HAM10000_images_part_*",
        suffix=".jpg",
        classes=HAM10000,
        complete=10_015,
        outlines=("HAM10000_segmentations_lesion_tschandl", "_segmentation"),
    ),
    # The ISIC Archive: the ten diagnoses that paper 1 most likely kept. Never complete: it grows,
    # and nobody knows which images the paper had. Others are counted and left out.
    "isic": Table(
        "isic",
        ("metadata",),
        image="isic_id",
        label="diagnosis",
        group="group",
        files="images*",
        suffix=".jpg .jpeg .png",
        classes=ISIC,
        prepare=_diagnosed,
    ),
    # Wang et al. 2017, ChestX-ray14: 14 findings, and none.
    "nih": Table(
        "nih_chestxray14",
        ("Data_Entry_2017_v2020", "Data_Entry_2017"),
        image="Image Index",
        label="Finding Labels",
        group="Patient ID",
        files="images_*/images",
        suffix=".png",
        classes=NIH,
        complete=112_120,
        channels=1,
        several="|",
        alone="No Finding",
    ),
    # Kaggle's Diabetic Retinopathy Detection (EyePACS 2015).
    "retinopathy": Table(
        "diabetic_retinopathy",
        ("trainLabels",),
        image="image",
        label="level",
        group=re.compile(r"(\d+)_(?:left|right)"),
        files="train",
        suffix=".jpeg",
        classes=("No DR", "Mild", "Moderate", "Severe", "Proliferative DR"),
        complete=35_126,
        numbered=True,
    ),
}
# name -> function of the root of the data sets, the side in pixels, and ``duplicates``: whether
# exact copies stay in. All raise DataError, which names the file, if one is missing, unreadable or
# unknown. Images are gray but for HAM10000, ISIC, retinopathy and the nuclei.
READERS: dict[str, Callable[..., ImageSet]] = {
    **{name: partial(declared.read, name) for name, declared in SETS.items()},
    "consep": nuclei.consep,
    "pannuke": nuclei.pannuke,
    **{name: partial(medmnist.read, name) for name in medmnist.SETS},
}
