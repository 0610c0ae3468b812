"""Models normalise inside, start where they say, and refuse weights that do not fit."""

import json

import keras_weights as weights
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from medrobust_utils import models
from medrobust_utils.core.errors import ContractError, DataError

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_normalisation_is_timms_own_and_lives_inside():
    model = models.build("vit_tiny_patch16_224", 4, start="scratch", options={"img_size": 32})
    config = model.backbone.pretrained_cfg
    assert config["mean"] == (0.5, 0.5, 0.5)  # not ImageNet's usual numbers
    logits = model.eval()(IMAGES)
    assert torch.allclose(logits, model.backbone((IMAGES - 0.5) / 0.5)) and logits.shape == (2, 4)
    gray = IMAGES[:, :1]  # becomes three channels
    assert torch.allclose(model(gray), model(gray.expand(-1, 3, -1, -1)), atol=1e-5)


def build(folder, monkeypatch, name, state, **facts):
    """A model of ``name`` where ``folder`` has a file with ``state`` and ``facts``."""
    metadata = {"medrobust": json.dumps(facts)} if facts else None
    save_file(state, folder / f"{name}.safetensors", metadata=metadata)
    monkeypatch.setenv("MEDROBUST_WEIGHTS", str(folder))
    return models.build(name, 5, start="imagenet")


def test_weights_of_a_folder_are_taken_and_the_head_is_fresh(tmp_path, monkeypatch):
    state = timm.create_model("resnet18").state_dict()
    model = build(tmp_path, monkeypatch, "resnet18", state)
    assert model.start == "imagenet" and not model.warnings
    body = {k: v for k, v in model.backbone.state_dict().items() if not k.startswith("fc.")}
    assert len(body) == len(state) - 2 and all(torch.equal(v, state[k]) for k, v in body.items())
    assert model.backbone.fc.weight.shape == (5, 512)


def test_a_file_may_bring_its_own_normalisation_and_strides(tmp_path, monkeypatch):
    facts = {"mean": [0.4, 0.4, 0.4], "std": [1 / 255] * 3, "strides": "v1"}
    state = timm.create_model("resnet50").state_dict()
    model = build(tmp_path, monkeypatch, "resnet50", state, **facts)
    assert model.mean.flatten().tolist() == pytest.approx([0.4] * 3)
    block = model.backbone.layer3[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    # one unit of noise is the same change of the image whatever the normalisation
    pixels = model.noise_unit * model.std
    assert pixels.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_without_weights_the_start_is_random_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDROBUST_WEIGHTS", str(tmp_path))
    model = models.build("resnet18", 2, start="imagenet")
    assert model.start == "scratch" and "no ImageNet weights" in model.warnings[0]


def test_bad_requests_and_files_are_explained(tmp_path, monkeypatch):
    with pytest.raises(ContractError, match="no architecture"):
        models.build("resnet999", 2, start="scratch")
    with pytest.raises(ContractError, match="imagenet or scratch"):
        models.build("resnet18", 2, start="hub")
    with pytest.raises(ContractError, match="resnet18.safetensors.*does not fit"):
        build(tmp_path, monkeypatch, "resnet18", {"conv1.weight": torch.zeros(1)})
    monkeypatch.setenv("MEDROBUST_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="not a folder"):
        models.build("resnet18", 2, start="imagenet")


def keras_tensors(rng):
    """Random tensors named and shaped as Keras names its ResNet-50's."""
    tensors, state = {}, timm.create_model("resnet50").state_dict()

    def add(source, norm, conv, bn):
        o, i, h, w = state[f"{conv}.weight"].shape
        tensors[f"{source}/kernel"] = rng.normal(size=(h, w, i, o)).astype("f4")
        tensors[f"{source}/bias"] = rng.normal(size=o).astype("f4")
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            tensors[f"{norm}/{part}"] = rng.uniform(0.5, 1.5, o).astype("f4")

    add("conv1", "bn_conv1", "conv1", "bn1")
    for stage, letters in {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}.items():
        for number, letter in enumerate(letters):
            names = ["branch2a", "branch2b", "branch2c"] + (["branch1"] if number == 0 else [])
            for part, name in enumerate(names, 1):
                block = f"layer{stage - 1}.{number}"
                conv, bn = (
                    (f"{block}.conv{part}", f"{block}.bn{part}")
                    if part < 4
                    else (f"{block}.downsample.0", f"{block}.downsample.1")
                )
                add(f"res{stage}{letter}_{name}", f"bn{stage}{letter}_{name}", conv, bn)
    tensors["fc1000/kernel"] = rng.normal(size=(2048, 1000)).astype("f4")
    tensors["fc1000/bias"] = rng.normal(size=1000).astype("f4")
    return tensors


def test_keras_weights_fill_timms_resnet50_and_fold_bias_and_epsilon():
    keras = keras_tensors(np.random.default_rng(0))
    backbone = timm.create_model("resnet50").eval()
    backbone.load_state_dict(weights.to_timm(keras), strict=True)
    x = torch.rand(1, 3, 16, 16)
    ours = backbone.bn1(backbone.conv1(x))
    kernel = torch.from_numpy(keras["conv1/kernel"].transpose(3, 2, 0, 1).copy())
    plain = torch.conv2d(x.flip(1), kernel, torch.from_numpy(keras["conv1/bias"]), 2, 3)
    m, v, g, b = (
        torch.from_numpy(keras[f"bn_conv1/{k}"]).view(1, -1, 1, 1)
        for k in ("moving_mean", "moving_variance", "gamma", "beta")
    )
    assert torch.allclose(ours, (plain - m) / (v + 1e-3).sqrt() * g + b, atol=1e-4)


def test_tensorflow_js_shards_are_joined(tmp_path):
    values = np.arange(10, dtype="<f4")
    raw = values.tobytes()
    (tmp_path / "shard1").write_bytes(raw[:18])  # a cut inside a number
    (tmp_path / "shard2").write_bytes(raw[18:])
    entries = [{"name": "a", "shape": [2, 3]}, {"name": "b", "shape": [4]}]
    manifest = {"weightsManifest": [{"paths": ["shard1", "shard2"], "weights": entries}]}
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    tensors = weights.read_tensors(tmp_path)
    assert tensors["a"].tolist() == values[:6].reshape(2, 3).tolist()
    assert tensors["b"].tolist() == values[6:].tolist()
