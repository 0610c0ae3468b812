"""What can be explained is found by looking at what each module returns."""

import pytest
import torch
from networks import Out, small, swin, traces, vit
from segmenters import Plain, untrained
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from medrobust_utils.core.errors import ContractError
from medrobust_utils.explain import cams
from medrobust_utils.explain.cam_layers import layers, target_layer
from medrobust_utils.explain.layer_maps import patches, spatial
from medrobust_utils.models import build_unet
from medrobust_utils.models.assimilation import build_assimilated
from medrobust_utils.models.attentive import build_attentive


def named(**sides):
    return {f"backbone.{name.replace('_', '.')}": side for name, side in sides.items()}


def attentive(attention):
    return build_attentive("resnet10t", 7, attention=attention, start="scratch", size=96).eval()


UNET = {
    "backbone.down.2": 8,
    "backbone.down.1": 16,
    "backbone.merge.0": 16,
    "backbone.down.0": 32,
    "backbone.merge.1": 32,
}
OFFERED = {
    "resnet": (
        lambda: small("resnet10t"),
        (3, 96, 96),
        named(layer4=3, layer3=6, layer2=12, layer1=24, act1=48),
    ),
    "resnet at 64": (  # its last map is 2 x 2
        lambda: small("resnet10t"),
        (3, 64, 64),
        named(layer3=4, layer2=8, layer1=16, act1=32),
    ),
    # The next stage starts with a convolution at the size of the one before.
    "bottlenecks": (
        lambda: small("resnet14t", zero_init_last=False),
        (3, 96, 96),
        named(layer4=3, layer3=6, layer2=12, layer1=24, act1=48),
    ),
    "densenet": (
        lambda: small("densenet121", growth_rate=8, block_config=(1, 1, 1, 1)),
        (3, 96, 96),
        named(features=3)
        | {f"backbone.features.transition{k}.conv": 48 >> k for k in (3, 2, 1)}
        | {"backbone.features.norm0": 48},
    ),
    "swin": (swin, (3, 64, 64), named(layers_2=4, layers_1=8, layers_0=16)),
    "vit": (vit, (3, 64, 64), named(blocks_1_norm1=4)),
    "vit without token": (
        lambda: vit(global_pool="avg", class_token=False),
        (3, 64, 64),
        named(norm=4),
    ),
    "attentive": (
        lambda: attentive("intended"),
        (3, 96, 96),
        named(trunk=3, trunk_layer3=6, trunk_layer2=12, trunk_layer1=24, trunk_act1=48),
    ),
    "assimilated": (
        lambda: build_assimilated("resnet10t", 2, colour="conv", start="scratch").eval(),
        (1, 64, 64),
        named(layer3=4, layer2=8, layer1=16, act1=32) | {"colour": 64},
    ),
    "u-net": (lambda: untrained(3), (3, 32, 32), UNET),
    "deep u-net": (  # down to 2 x 2 and 1 x 1, which are too small
        lambda: build_unet(3, width=2, depth=5, size=32).eval(),
        (3, 32, 32),
        named(down_3=4, down_2=8, merge_2=8, down_1=16, merge_3=16, down_0=32, merge_4=32),
    ),
    "foreign segmentation": (
        lambda: Plain(Out(untrained(3))).eval(),
        (3, 32, 32),
        {f"net.net.{name}": side for name, side in UNET.items()},
    ),
    "nothing larger": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Flatten()).eval(),
        (3, 16, 16),
        {"1": 2},
    ),
}


@pytest.mark.parametrize(("build", "shape", "wanted"), OFFERED.values(), ids=OFFERED)
def test_one_layer_of_every_size_is_offered_the_usual_one_first(build, shape, wanted):
    torch.manual_seed(0)
    model = build()
    next(model.parameters()).requires_grad_(False)
    before, drawn = traces(model), torch.get_rng_state()
    found = layers(model, shape)
    assert list(found.items()) == list(wanted.items())
    assert next(iter(found)) == target_layer(model, shape)
    assert traces(model) == before and torch.equal(torch.get_rng_state(), drawn)


def test_what_lies_behind_the_layer_of_a_models_own_choice_is_not_offered():
    """Attention pools the map and hands it to dropout: 12 x 12 at this size, 6 x 6 behind."""
    model = attentive("released")
    shape = (3, 384, 384)
    assert layers(model, shape)["backbone.trunk"] == 12
    assert min(layers(model, shape).values()) == 12


def test_attention_weights_are_not_offered():
    model = swin()
    before = layers(model, (3, 64, 64))
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # the weights then pass through a module
    assert layers(model, (3, 64, 64)) == before


@pytest.mark.parametrize("find", [layers, target_layer])
@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (lambda: small("resnet10t"), (3, 64, 32), "64 x 32; only square"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 2)).eval(), (3, 16, 16), "no layer of"),
    ],
)
def test_misuse_is_explained(find, build, shape, message):
    with pytest.raises(ContractError, match=message):
        find(build(), shape)


def transformer(**tokens):
    torch.manual_seed(0)
    size = dict(img_size=64, patch_size=8, embed_dim=48, depth=6, num_heads=4, num_classes=3)
    return VisionTransformer(**size, **tokens).eval()


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        ({}, "blocks.5.norm1"),
        ({"reg_tokens": 4}, "blocks.5.norm1"),
        ({"reg_tokens": 1}, "blocks.5.norm1"),
        ({"reg_tokens": 4, "class_token": False, "global_pool": "avg"}, "norm"),
    ],
    ids=["class token", "and four registers", "and one", "registers alone"],
)
def test_tokens_that_lead_a_transformer_are_left_out_of_its_map(tokens, wanted):
    model = transformer(**tokens)
    assert target_layer(model, (3, 64, 64)) == wanted
    output = torch.arange(64.0).repeat(1, 2, 1).transpose(1, 2)
    leading = torch.full((1, model.num_prefix_tokens, 2), -1.0)
    maps = spatial(torch.cat([leading, output], 1), patches(model, 64))
    assert torch.equal(maps, torch.arange(64.0).view(1, 1, 8, 8).expand(1, 2, 8, 8))
    found = cams.grad_cam(model, torch.rand(2, 3, 64, 64), [0, 0], layer="blocks.5.norm1")
    assert found.maps.shape == (2, 64, 64)


class Shared(nn.Module):
    """One ReLU for all layers, as many a tutorial has it."""

    def __init__(self):
        super().__init__()
        widths = ((3, 8), (8, 16), (16, 16))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in widths)
        self.relu, self.head = nn.ReLU(), nn.Linear(16, 3)

    def forward(self, images):
        for conv in self.convs:
            images = self.relu(conv(images))
        return self.head(images.mean((2, 3)))


def test_a_module_that_is_used_several_times_is_no_layer_to_explain():
    torch.manual_seed(0)
    model = Shared().eval()
    assert "relu" not in layers(model, (3, 64, 64))
    assert cams.grad_cam(model, torch.rand(2, 3, 64, 64), [0, 1]).layer == "convs.2"


def test_a_deep_network_is_not_explained_before_its_first_block():
    """Its blocks work on a sequence that is no square; what is left is the first convolution."""

    class Crooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 7, 8, 3)
            self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(20))
            self.head = nn.Linear(8, 3)

        def forward(self, images):
            tokens = self.patch(images).flatten(2).transpose(1, 2)[:, :-5]
            for block in self.blocks:
                tokens = tokens + block(tokens)
            return self.head(tokens.mean(1))

    with pytest.raises(ContractError, match="'patch', before its first block.*layer="):
        target_layer(Crooked().eval(), (3, 64, 64))
