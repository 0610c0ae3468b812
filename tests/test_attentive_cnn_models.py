"""The four networks of paper 2: where they are cut, what they count, what they compute."""

import json

import pytest
import timm
import torch
import torch.nn.functional as F
from keras_weights import FACTS
from safetensors.torch import save_file

from medrobust_utils.core.errors import ContractError
from medrobust_utils.models import AttentiveCNN, SoftAttention, build_attentive

INCEPTION = "inception_resnet_v2"
IMAGES = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
SMALL = IMAGES[:, :, :160, :160]
SCRATCH = {"start": "scratch"}


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return build_attentive("resnet50", 7, attention="released", size=224, **SCRATCH).eval()


@pytest.fixture(scope="module")
def inception():
    """The plain network, with seed 5."""
    torch.manual_seed(5)
    return build_attentive(INCEPTION, 7, attention="none", size=299, **SCRATCH).eval()


@pytest.fixture(scope="module")
def small_inception():
    """With attention, at the least size."""
    torch.manual_seed(5)
    return build_attentive(INCEPTION, 7, attention="intended", size=160, **SCRATCH).eval()


def keras_count(module, per_channel, conv_bias):
    """Numbers that Keras would count: its batch norms have ``per_channel`` (moving ones too)."""
    total = 0
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            extra = part.out_channels if conv_bias and part.bias is None else 0
            total += sum(p.numel() for p in part.parameters()) + extra
        elif isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            total += per_channel * part.num_features
        elif isinstance(part, torch.nn.Linear | SoftAttention):
            total += sum(p.numel() for p in part.parameters())
    return total


def test_networks_count_what_keras_counts(resnet, inception):
    how = dict(per_channel=4, conv_bias=True)  # Keras' convolutions have biases
    assert keras_count(resnet.backbone.trunk, **how) == 23_587_712
    assert keras_count(resnet.backbone, **how) == 23_911_319
    assert keras_count(resnet.backbone.attention, **how) == 294_928

    how = dict(per_channel=3, conv_bias=False)  # its batch norms have no gamma
    trunk = inception.backbone.trunk
    attentive = AttentiveCNN(trunk, (192, 8, 8), 7, attention="released", flatten=True)
    assert keras_count(inception.backbone, **how) == 47_550_631
    assert keras_count(attentive, **how) == 47_535_287  # fewer: its head reads pooled maps
    assert keras_count(attentive.attention, **how) == 27_664


@pytest.mark.parametrize(("classes", "share"), [(2, 0.01268), (7, 0.01311)])
def test_attention_adds_1_3_percent_with_two_classes_and_more_with_seven(classes, share):
    plain, attentive = (
        AttentiveCNN(torch.nn.Identity(), (2048, 7, 7), classes, attention=form, flatten=False)
        for form in ("none", "released")
    )
    few, many = (sum(p.numel() for p in net.parameters()) for net in (plain, attentive))
    assert (many - few) / 23_587_712 == pytest.approx(share, abs=1e-5)


def test_resnet50_is_cut_after_its_last_relu(resnet):
    x = resnet.normalise(IMAGES[:1])
    with torch.no_grad():
        tensor = resnet.backbone.trunk(x)
        stages = resnet.backbone.trunk
        y = stages.maxpool(stages.act1(stages.bn1(stages.conv1(x))))
        y = stages.layer4(stages.layer3(stages.layer2(stages.layer1(y))))
    assert tensor.shape == (1, 2048, 7, 7) and torch.equal(tensor, y)
    assert tensor.min() == 0 and 0.01 < (tensor == 0).float().mean() < 0.99
    assert resnet.backbone.head.in_features == 4096  # the mean over places of both branches


def test_inception_is_cut_inside_a_block_and_before_its_relu(inception, small_inception):
    assert inception.backbone.head.in_features == 8 * 8 * 192
    assert small_inception.backbone.head.in_features == 2 * 2 * 384  # of a 3x3 map

    torch.manual_seed(5)
    whole = timm.create_model(INCEPTION).eval()  # the same weights, uncut
    seen = {}
    whole.repeat_2[8].branch0.register_forward_hook(lambda *a: seen.update(branch=a[2]))
    with torch.no_grad():
        x = inception.normalise(SMALL)
        whole.forward_features(x)
        tensor = inception.backbone.trunk(x)
        assert small_inception(SMALL).isfinite().all()
    assert tensor.shape == (2, 192, 3, 3) and (tensor < 0).float().mean() > 0.1
    assert torch.allclose(F.relu(tensor), seen["branch"], atol=1e-6)


def pool_same(x):
    """2x2 maximum with Keras' "same": an odd last row or column stands for itself."""
    odd = [n % 2 for n in x.shape[2:]]
    return F.max_pool2d(F.pad(x, (0, odd[1], 0, odd[0]), value=float("-inf")), 2)


@pytest.mark.parametrize("attention", ["none", "released", "intended", "uniform"])
@pytest.mark.parametrize("flatten", [True, False])
def test_the_head_after_the_trunk(attention, flatten):
    torch.manual_seed(0)
    shape = (8, 4, 5)
    net = AttentiveCNN(torch.nn.Identity(), shape, 3, attention=attention, flatten=flatten).eval()
    t = torch.randn(2, *shape)
    x = t.relu()
    if attention != "none":
        x = torch.cat([pool_same(t), pool_same(net.attention(t)[0])], 1).relu()
        assert x.shape == (2, 16, 2, 3)
    expected = net.head(x.flatten(1) if flatten else x.mean((2, 3)))
    assert torch.allclose(net(t), expected, atol=1e-6) and expected.std() > 0.01


@pytest.mark.parametrize(
    ("attention", "flatten", "drops"),
    [
        ("none", False, False),
        ("released", False, True),
        ("none", True, True),
        ("intended", True, True),
        ("uniform", False, True),
    ],
)
def test_dropout_is_where_the_paper_has_it(attention, flatten, drops):
    net = AttentiveCNN(torch.nn.Identity(), (64, 5, 5), 3, attention=attention, flatten=flatten)
    seen = []
    net.head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.rand(8, 64, 5, 5) + 0.1
    torch.manual_seed(0)
    first, second = net(x), net(x)
    assert torch.equal(first, second) is not drops
    if flatten:
        assert (seen[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    net.eval()
    assert torch.equal(net(x), net(x))


def test_the_attention_map_sums_to_the_number_of_heads(resnet, inception):
    with torch.no_grad():
        x = resnet.normalise(IMAGES)
        maps = resnet.backbone.attention_map(x)
        t = resnet.backbone.trunk(x)
        weighted = resnet.backbone.attention(t)[0]
    assert maps.shape == (2, 7, 7)
    assert torch.allclose(maps.sum((1, 2)), torch.full((2,), 16.0), atol=1e-4)
    assert torch.allclose(weighted, t * maps[:, None], atol=1e-5)
    with pytest.raises(ContractError, match="no attention"):
        inception.backbone.attention_map(SMALL)


def test_building_leaves_the_trunk_as_it_was():
    torch.manual_seed(0)
    model = build_attentive("resnet10t", 3, attention="intended", size=64, **SCRATCH)
    assert all(part.training for part in model.modules())
    torch.manual_seed(0)
    fresh = timm.create_model("resnet10t").state_dict()
    state = model.backbone.trunk.state_dict()
    assert state and all(torch.equal(v, fresh[k]) for k, v in state.items())


@pytest.fixture(scope="module")
def caffe_folder(tmp_path_factory):
    """A ResNet-50 with the facts that belong to Keras' weights."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    state = timm.create_model("resnet50").state_dict()
    metadata = {"medrobust": json.dumps(FACTS)}
    save_file(state, folder / "resnet50.safetensors", metadata=metadata)
    return folder, state


@pytest.mark.parametrize("attention", ["none", "released", "intended"])
def test_every_form_starts_from_keras_weights(caffe_folder, monkeypatch, attention):
    folder, state = caffe_folder
    monkeypatch.setenv("MEDROBUST_WEIGHTS", str(folder))
    model = build_attentive("resnet50", 2, attention=attention, start="imagenet", size=64)
    assert model.start == "imagenet" and model.source == FACTS["source"] and not model.warnings
    trunk = model.backbone.trunk
    assert all(torch.equal(v, state[k]) for k, v in trunk.state_dict().items())
    assert trunk.layer2[0].conv1.stride == (2, 2) and trunk.layer2[0].conv2.stride == (1, 1)
    assert model.backbone.head.out_features == 2
    # FACTS 2.2: pixel (255, 0, 128) becomes (131.32, -116.78, 24.06) in the order RGB
    pixel = torch.tensor([255.0, 0.0, 128.0]).view(1, 3, 1, 1) / 255
    expected = [255 - 123.68, -116.779, 128 - 103.939]
    assert model.normalise(pixel).flatten().tolist() == pytest.approx(expected, abs=1e-3)


def test_the_uniform_control_differs_from_the_released_network_in_its_map_alone(resnet):
    torch.manual_seed(0)
    control = build_attentive("resnet50", 7, attention="uniform", size=224, **SCRATCH).eval()
    theirs, own = resnet.state_dict(), control.state_dict()
    gone = {"backbone.attention.weight", "backbone.attention.bias"}
    assert theirs.keys() - own.keys() == gone and own.keys() < theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)  # its head too
    with torch.no_grad():
        flat = control.backbone.attention_map(control.normalise(IMAGES))
    assert torch.allclose(flat, torch.full((2, 7, 7), 16 / 49))
