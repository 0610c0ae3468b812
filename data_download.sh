#!/usr/bin/env bash
# Where the data sets come from, how they must lie, and a download of those that need no account.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: ./data_download.sh [--list] [--dest DIR] [--dry-run] [DATASET ...]

  --list      describe the data sets and the folders the notebooks expect (default)
  --dest DIR  root of the data sets (default: $MEDROBUST_DATA)
  --dry-run   show what would be fetched, and fetch nothing

data sets: ham10000, nih_chestxray14, diabetic_retinopathy, brain_tumor_mri, chest_xray, iq_othnccd,
           busi, pannuke, consep.
A download that broke off goes on when called again.
TEXT
}

fail() {
    echo "data_download.sh: $*" >&2
    exit 1
}

known=(
    ham10000 nih_chestxray14 diabetic_retinopathy brain_tumor_mri chest_xray iq_othnccd busi
    pannuke consep
)

HAM_DOI=doi:10.7910/DVN/DBW86T
HAM_FILES=https://dataverse.harvard.edu/api/datasets/:persistentId/versions/:latest/files
HAM_FILE=https://dataverse.harvard.edu/api/access/datafile

describe_ham10000() {
    cat <<TEXT
ham10000: HAM10000, 10,015 dermatoscopic images of 7 diagnoses (training set of ISIC 2018 task 3)
  publisher  P. Tschandl, Medical University of Vienna, on Harvard Dataverse
             https://doi.org/${HAM_DOI#doi:}
  licence    non-commercial with attribution; read the terms on that page
  size       about 3 GB
  access     no account; ./data_download.sh --dest DIR ham10000
  layout     ${dest:-\$MEDROBUST_DATA}/ham10000/
               HAM10000_metadata.csv
               HAM10000_images_part_1/*.jpg
               HAM10000_images_part_2/*.jpg
             optional, by hand from the same page, for measuring maps against lesions:
               HAM10000_segmentations_lesion_tschandl/*_segmentation.png

TEXT
}

describe_nih_chestxray14() {
    cat <<TEXT
nih_chestxray14: NIH ChestX-ray14, 112,120 frontal chest X-rays of 30,805 patients, 14 findings
  publisher  NIH Clinical Center
             https://nihcc.app.box.com/v/ChestXray-NIHCC
  licence    no restriction; cite Wang et al., CVPR 2017, and name the NIH Clinical Center
  size       about 45 GB
  access     no account; by hand from that page: the folder images/ (images_001.tar.gz to
             images_012.tar.gz), Data_Entry_2017_v2020.csv, train_val_list.txt, test_list.txt.
             Unpack each archive into a folder of its own:
               mkdir -p images_001 && tar -xzf images_001.tar.gz -C images_001
  layout     ${dest:-\$MEDROBUST_DATA}/nih_chestxray14/
               Data_Entry_2017_v2020.csv
               train_val_list.txt
               test_list.txt
               images_001/images/*.png  ...  images_012/images/*.png

TEXT
}

describe_diabetic_retinopathy() {
    cat <<TEXT
diabetic_retinopathy: Diabetic Retinopathy Detection, 35,126 fundus photographs of 17,563 patients
  publisher  EyePACS, on Kaggle (2015)
             https://www.kaggle.com/c/diabetic-retinopathy-detection
  licence    the rules of the competition; read and accept them on that page
  size       about 35 GB (the training part)
  access     a Kaggle account; by hand from that page: train.zip.001 to train.zip.005 (join them,
             then unpack into a folder train) and trainLabels.csv.zip
  layout     ${dest:-\$MEDROBUST_DATA}/diabetic_retinopathy/
               trainLabels.csv
               train/*_left.jpeg, train/*_right.jpeg

TEXT
}

describe_brain_tumor_mri() {
    cat <<TEXT
brain_tumor_mri: Brain Tumor MRI Dataset, 5,712 training slices of three tumours and of none
  publisher  M. Nickparvar, on Kaggle
             https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset
  licence    CC0, says that page; it is drawn from other collections, read their terms
  size       below 1 GB
  access     a Kaggle account; by hand from that page, only the folder Training is read
  layout     ${dest:-\$MEDROBUST_DATA}/brain_tumor_mri/
               Training/{notumor,glioma,meningioma,pituitary}/*.jpg

TEXT
}

describe_chest_xray() {
    cat <<TEXT
chest_xray: Chest X-Ray Images (Pneumonia), 5,856 X-rays of children, with pneumonia and without
  publisher  D. Kermany, K. Zhang and M. Goldbaum, as copied to Kaggle
             https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia
  licence    CC BY 4.0; cite Kermany et al., Cell 2018
  size       about 2 GB
  access     a Kaggle account; by hand from that page. The archive holds the set twice, one copy
             in a folder of the same name: keep one.
  layout     ${dest:-\$MEDROBUST_DATA}/chest_xray/
               {train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg

TEXT
}

describe_iq_othnccd() {
    cat <<TEXT
iq_othnccd: IQ-OTH/NCCD lung cancer dataset, 1,097 CT slices of 110 patients, three classes
  publisher  H. Alyasriy and M. Al-Huseiny, on Mendeley Data and Kaggle
             https://www.kaggle.com/datasets/hamdallak/the-iqothnccd-lung-cancer-dataset
  licence    CC BY 4.0; read the terms on that page
  size       below 1 GB
  access     a Kaggle account; by hand from that page. Lift the three folders out of any folder of
             the same name they come in.
  layout     ${dest:-\$MEDROBUST_DATA}/The IQ-OTHNCCD lung cancer dataset/
               {Normal,Bengin,Malignant} cases/*.jpg          (the publisher's spelling)

TEXT
}

describe_busi() {
    cat <<TEXT
busi: Breast Ultrasound Images Dataset (BUSI), 780 images with outlines, three classes
  publisher  W. Al-Dhabyani et al., Cairo University, as copied to Kaggle
             https://www.kaggle.com/datasets/aryashah2k/breast-ultrasound-images-dataset
  licence    read the terms on that page; cite Al-Dhabyani et al., Data in Brief 2020
  size       below 1 GB
  access     a Kaggle account; by hand from that page
  layout     ${dest:-\$MEDROBUST_DATA}/Dataset_BUSI_with_GT/
               {normal,benign,malignant}/*.png, *_mask.png, *_mask_1.png ...

TEXT
}

describe_pannuke() {
    cat <<TEXT
pannuke: PanNuke, 7,901 fields of 19 tissues in three folds, nuclei of five kinds outlined
  publisher  J. Gamper et al., Tissue Image Analytics Centre, University of Warwick
             https://warwick.ac.uk/fac/cross_fac/tia/data/pannuke
  licence    CC BY-NC-SA 4.0; cite Gamper et al., arXiv 2003.10778
  size       about 37 GB unpacked
  access     no account; by hand from that page: fold_1.zip to fold_3.zip. The copy on Kaggle
             (andrewmvd/cancer-inst-segmentation-and-classification, and two more) is read as
             well, each part in a folder of its own whose name ends in the number of the part:
               Part 1/Images/*.npy, Part 1/Masks/masks.npy
  layout     ${dest:-\$MEDROBUST_DATA}/pannuke/
               Fold 1/images/fold1/images.npy, types.npy      ...  Fold 3/images/fold3/*.npy
               Fold 1/masks/fold1/masks.npy                   ...  Fold 3/masks/fold3/*.npy

TEXT
}

describe_consep() {
    cat <<TEXT
consep: CoNSeP, 41 fields of colorectal tissue (27 to train on, 14 to test), nuclei of seven kinds
  publisher  S. Graham et al., Tissue Image Analytics Centre, University of Warwick
             https://warwick.ac.uk/fac/cross_fac/tia/data/hovernet
  licence    none stated; cite Graham et al., Medical Image Analysis 2019 (HoVer-Net)
  size       below 1 GB
  access     by hand from that page. The kit reads patches of 256 x 256 pixels, 16 from each field
             of 1000 x 1000: rows and columns begin at pixels 0, 256, 512 and 744, so that the
             last overlaps its neighbour by 24. A patch is called <part>_<field>_r<row><column>;
             its label map, a gray PNG, holds the type_map of the publisher's .mat file: 0 for
             background, 1 other, 2 inflammatory, 3 healthy and 4 malignant epithelium,
             5 fibroblast, 6 muscle, 7 endothelium.
  layout     ${dest:-\$MEDROBUST_DATA}/consep_patches/
               {train,test}/images/train_1_r00.jpg ...        (test_1_r00.jpg ...)
               {train,test}/labels/train_1_r00.png ...

TEXT
}

# The repository lists its files itself; their numbers and checksums are read from that list.
# Prints one line per wanted file: id, MD5 ("-" where it is of another form), name.
ham_list() {
    curl --fail --silent --show-error --location "$HAM_FILES?persistentId=$HAM_DOI" | python3 -c '
import json, sys
for entry in json.load(sys.stdin)["data"]:
    file = entry["dataFile"]
    name = file.get("originalFileName") or file["filename"]
    if name.startswith(("HAM10000_images_part_", "HAM10000_metadata")):
        table = "originalFileFormat" in file  # its checksum is of the converted table
        md5 = "-" if table else file.get("md5") or "-"
        print(file["id"], md5, name)
'
}

md5_of() {
    python3 -c '
import hashlib, sys
digest = hashlib.md5()
with open(sys.argv[1], "rb") as file:
    while block := file.read(1 << 20):
        digest.update(block)
print(digest.hexdigest())
' "$1"
}

download_ham10000() {
    local folder=$dest/ham10000 id md5 name stem query part list
    if $dry_run; then
        echo "would read   $HAM_FILES?persistentId=$HAM_DOI"
        echo "would fetch  its files HAM10000_images_part_*.zip and HAM10000_metadata into $folder"
        return
    fi
    list=$(ham_list) || fail "the list of files could not be read; see https://doi.org/${HAM_DOI#doi:}"
    [ -n "$list" ] || fail "the repository lists no HAM10000 files; see https://doi.org/${HAM_DOI#doi:}"
    mkdir -p "$folder"
    while read -r id md5 name; do
        stem=${name%.*}
        case $name in
            *.zip)
                [ -f "$folder/.$stem.complete" ] && continue
                query= ;;
            *)
                [ -f "$folder/HAM10000_metadata.csv" ] && continue
                query='?format=original' ;;
        esac
        part=$folder/$name.part
        echo "$name"
        [ "$md5" != - ] || rm -f "$part" # the small table is not continued but fetched anew
        if [ ! -f "$part" ] || [ "$(md5_of "$part")" != "$md5" ]; then
            curl --fail --location --retry 5 --continue-at - --output "$part" \
                "$HAM_FILE/$id$query" </dev/null
        fi
        if [ "$md5" != - ] && [ "$(md5_of "$part")" != "$md5" ]; then
            rm "$part"
            fail "$name came damaged (MD5) and was removed; call again to fetch it anew"
        fi
        case $name in
            *.zip)
                mkdir -p "$folder/$stem"
                python3 -m zipfile -e "$part" "$folder/$stem"
                touch "$folder/.$stem.complete"
                rm "$part" ;;
            *)
                head -n 1 "$part" | grep -q '^"\{0,1\}lesion_id"\{0,1\},' ||
                    fail "$part is not the table of lesions it should be"
                mv "$part" "$folder/HAM10000_metadata.csv" ;;
        esac
    done <<<"$list"
    echo "ham10000 lies in $folder. Set MEDROBUST_DATA=$dest"
}

dest=${MEDROBUST_DATA:-}
dry_run=false
list=false
by_hand=
wanted=()
while [ $# -gt 0 ]; do
    case $1 in
        --list) list=true ;;
        --dry-run) dry_run=true ;;
        --dest)
            [ $# -gt 1 ] || fail "--dest needs a folder"
            dest=$2
            shift ;;
        -h | --help)
            usage
            exit ;;
        *)
            if ! declare -F "describe_$1" >/dev/null; then
                usage >&2
                fail "unknown: $1"
            fi
            wanted+=("$1") ;;
    esac
    shift
done

if $list || [ ${#wanted[@]} -eq 0 ]; then
    [ ${#wanted[@]} -gt 0 ] || wanted=("${known[@]}")
    for name in "${wanted[@]}"; do "describe_$name"; done
    exit
fi
[ -n "$dest" ] || fail "name a folder: --dest DIR, or set MEDROBUST_DATA"
for name in "${wanted[@]}"; do
    case $name in
        ham10000) download_ham10000 ;;
        *)
            "describe_$name"
            $dry_run || by_hand=$name ;;
    esac
done
[ -z "$by_hand" ] || fail "$by_hand has to be fetched by hand, as described above"
