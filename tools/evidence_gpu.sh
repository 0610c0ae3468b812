#!/usr/bin/env bash
# Paper 4's networks on a GPU that is at hand for minutes: seed by seed, cut off in time.
#
#     MEDROBUST_DATA=... bash tools/evidence_gpu.sh DIR [SECONDS]
#
# The images (consep_patches, 18 MB) travel as they are. DIR then holds seed-N.tar for each seed that
# was finished: records and weights of its networks, some 14 MB. Unpack it in the DIR of
# `tools/evidence.py queue`, which goes on with the others; a seed is never shared by two machines.
# Paper 2 needs ImageNet weights and gigabytes of images, and stays where they are.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
work=$(mktemp -d)
export PYTHONPATH="$here" MEDROBUST_HOME="${MEDROBUST_HOME:-$work/home}"
timeout "${2:-540}" python3 "$here/tools/evidence.py" queue --paper 4 --out "$work" || echo "ended: $?"
cd "$work"
mkdir -p records started  # find fails where nothing was begun
for seed in 0 1 2 3 4 5 6 7 8 9; do
    records=$(find records started -name "4-$seed-*.json")
    [ "$(grep -c ^records <<< "$records")" = 7 ] || continue
    networks=$(grep -h '"folder"' records/4-"$seed"-*.json | cut -d '"' -f 4)
    # shellcheck disable=SC2086  # names without spaces
    tar cf "$out/seed-$seed.tar" $records $(for name in $networks; do
        echo "paper4/$name/record.json paper4/$name/weights.safetensors"
    done)
done
ls -l "$out"
