"""Networks from elsewhere at every entry: a result, or an error that says what to do.

Nothing else may come out: no foreign traceback, no verdict that chance decides, and images and
labels are bitwise what they were. Who loses this gets a wrong robust accuracy, or a riddle.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.transforms import Normalize

from medrobust_utils import attacks, segmentation
from medrobust_utils.core import gate
from medrobust_utils.core.contracts import ask
from medrobust_utils.core.errors import ContractError, MedrobustError
from medrobust_utils.data import ImageSet
from medrobust_utils.explain import cam_layers, cams, sharpness, spectrum
from medrobust_utils.scoring import predict
from medrobust_utils.training.adversarial import AdversarialTraining

N, K, SIDE, EPS = 5, 4, 16, 8 / 255


def compiled(model):
    """Compiled afresh: what earlier tests left in the compiler's cache would pass hooks by."""
    torch.compiler.reset()
    return torch.compile(model, backend="eager")


class Net(nn.Module):
    """A small network that ``last`` and ``first`` make foreign."""

    def __init__(self, first=None, last=None, outputs=K, channels=3, norm=nn.BatchNorm2d):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = norm(8)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.head = nn.Linear(8 * 16, outputs)
        self.first, self.last = first or nn.Identity(), last or nn.Identity()

    def forward(self, images):
        maps = self.pool(torch.relu(self.norm(self.conv(self.first(images)))))
        return self.last(self.head(maps.flatten(1)))


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


class Uncopied(Net):
    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle '_thread.lock' object")


class Casts(nn.Module):
    """Half precision behind a wrapper that casts."""

    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = Net().to(kind), kind

    def forward(self, images):
        return self.net(images.to(self.kind))


class MonteCarlo(Net):
    """Dropout that is switched on for every answer."""

    def __init__(self):
        super().__init__(last=nn.Dropout(0.5))

    def forward(self, images):
        self.last.train()
        logits = super().forward(images)
        self.last.eval()
        return logits


class Xray(nn.Module):
    """As torchxrayvision: one channel from -1024 to 1024, 18 sigmoids."""

    def __init__(self, logits):
        super().__init__()
        self.net = Net(channels=1, outputs=18, last=None if logits else nn.Sigmoid())

    def forward(self, images):
        return self.net((images.mean(1, keepdim=True) * 2 - 1) * 1024 / 1000)


class ResidualUnit(nn.Sequential):
    """Of MONAI's UNet: convolution, instance norm, PReLU."""

    def __init__(self, before, after, stride=1):
        conv = nn.Conv2d(before, after, 3, stride, 1)
        super().__init__(conv, nn.InstanceNorm2d(after), nn.PReLU())


class Monai(nn.Module):
    """Down, up by a transposed convolution, and a skip, as MONAI's UNet of depth two."""

    def __init__(self, outputs=3):
        super().__init__()
        torch.manual_seed(0)
        self.down, self.bottom = ResidualUnit(3, 8, 2), ResidualUnit(8, 8)
        self.up = nn.ConvTranspose2d(16, outputs, 3, 2, 1, 1)

    def forward(self, images):
        down = self.down(images)
        return self.up(torch.cat([down, self.bottom(down)], 1))


@dataclass
class Output:
    logits: torch.Tensor


class AuxLogits(tuple):
    """Stands for a named tuple of torchvision."""


def in_inference_mode():
    with torch.inference_mode():
        return Net()


def exported(dynamic):
    shapes = ({0: torch.export.Dim.AUTO},) if dynamic else None
    net = Net().eval()
    images = torch.rand(N, 3, SIDE, SIDE)
    return torch.export.export(net, (images,), dynamic_shapes=shapes).module()


def normalise(inplace):
    return Normalize([0.5] * 3, [0.25] * 3, inplace=inplace)


def small_timm(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=K, **options)


def bare(channels):
    return nn.BatchNorm2d(channels, track_running_stats=False)


def noisy(values):
    return values + torch.randn_like(values)


def last(function):
    return lambda: Net(last=Do(function))


# Name: how it is made, and words of the error; none where every entry gives a result.
CLASSIFIERS = {
    "plain": (Net, ""),
    "timm resnet": (lambda: small_timm("test_resnet"), ""),
    "timm vit": (lambda: small_timm("test_vit", img_size=SIDE * 2, patch_size=4), ""),
    "timm efficientnet": (lambda: small_timm("test_efficientnet"), ""),
    "torchvision": (lambda: torchvision.models.squeezenet1_1(num_classes=K), ""),
    "normalises in place": (lambda: Net(first=Do(normalise(True))), ""),
    "subtracts in place": (lambda: Net(first=Do(lambda z: z.sub_(0.5).mul_(3))), ""),
    "relu in place": (lambda: Net(first=nn.ReLU(inplace=True)), ""),
    "weight norm": (lambda: Net(first=nn.utils.weight_norm(nn.Conv2d(3, 3, 1))), ""),
    "parametrised": (
        lambda: Net(first=nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 1))),
        "",
    ),
    "data parallel": (lambda: nn.DataParallel(Net()), ""),
    "compiled": (lambda: compiled(Net()), ""),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(Net()), ""),
    "frozen": (lambda: Net().requires_grad_(False), ""),
    "without copies": (Uncopied, ""),
    "autocasts": (lambda: Net(last=Do(lambda z: z.bfloat16())), ""),
    "scripted": (lambda: torch.jit.script(Net(first=nn.ReLU(), last=nn.Identity())), ""),
    "traced": (lambda: torch.jit.trace(Net().eval(), torch.rand(2, 3, SIDE, SIDE)), ""),
    "exported": (lambda: exported(True), ""),
    "exported for one batch": (lambda: exported(False), "dynamic_shapes"),
    "float64": (lambda: Net().double(), r"float64.*model\.float\(\)"),
    "bfloat16": (lambda: Net().bfloat16(), r"bfloat16.*model\.float\(\)"),
    "float16": (lambda: Net().half(), r"float16.*model\.float\(\)"),
    "bfloat16 behind casts": (lambda: Casts(torch.bfloat16), "bfloat16"),
    "built in inference mode": (in_inference_mode, "inference_mode"),
    "dict": (last(lambda z: {"aux": z, "out": z}), r"dict.*\['out'\]"),
    "tuple": (last(lambda z: (z, z)), r"tuple.*\[0\]"),
    "auxiliary logits": (last(lambda z: AuxLogits((z, z))), r"AuxLogits.*\[0\]"),
    "object": (last(Output), r"Output.*\.logits"),
    "nothing": (last(lambda z: None), "NoneType"),
    "classes": (last(lambda z: z.argmax(1, keepdim=True)), "int64.*argmax"),
    "complex": (last(lambda z: torch.complex(z, z)), "complex64"),
    "NaN": (last(lambda z: z * float("nan")), "NaN"),
    "one dimension": (last(lambda z: z[:, 0]), "shape"),
    "squeezed": (last(lambda z: z.squeeze(0)), "for one image too"),
    "other rows": (last(lambda z: z.reshape(-1, 2)), r"shape \(\d+, 2\) for"),
    "softmax": (lambda: Net(last=nn.Softmax(1)), "probabilities"),
    "raises": (lambda: Net(first=Do(lambda z: z @ z[:, :1, :3, :5])), "the model raised Runtime"),
    "divides by zero": (last(lambda z: z * (1 // 0)), "the model raised ZeroDivisionError"),
    "other channels": (lambda: Net(channels=5), "the model raised RuntimeError.*5 channels"),
    "Monte Carlo dropout": (MonteCarlo, r"random.*'last' \(Dropout\).*repeat\(20"),
    "noise on the way": (lambda: Net(first=Do(noisy)), "random"),
    "batch norm without statistics": (lambda: Net(norm=bare), "'norm' is batch norm without"),
    "whitens the batch": (last(lambda z: z - z.mean(0)), r"batch.*'last' \(Do\)"),
    "gradient cut off": (last(lambda z: z.detach()), "no gradient leads"),
    "training": (lambda: Net().train(), r"training mode.*model\.eval\(\)"),
    "sigmoids": (lambda: Xray(False), "probabilities"),
    "x-ray logits": (lambda: Xray(True), ""),
}
# Entries that no network is asked at whether it answers alike, and more of what differs.
ONCE = ("predict", "under_band_noise", "grad_cam", "target_layer")
HIDDEN = dict.fromkeys(("grad_cam", "target_layer"), "scripted or exported")
DIFFERENCES = {
    "scripted": HIDDEN,
    "traced": HIDDEN,
    "exported": HIDDEN,
    "exported for one batch": HIDDEN | dict.fromkeys(("predict", "under_band_noise"), ""),
    "NaN": dict.fromkeys(("grad_cam", "target_layer"), ""),  # a map may be invalid, with a reason
    "softmax": {"target_layer": ""},
    "sigmoids": dict.fromkeys(("grad_cam", "target_layer"), ""),
    "x-ray logits": {"foolbox": "native engine"},
    "gradient cut off": dict.fromkeys(("predict", "under_band_noise"), "")
    | {"grad_cam": "no gradient leads"},
    **dict.fromkeys(
        (
            "squeezed",
            "Monte Carlo dropout",
            "noise on the way",
            "batch norm without statistics",
            "whitens the batch",
        ),
        dict.fromkeys(ONCE, ""),
    ),
}


def data_of(images, labels):
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    names = tuple(f"class {k}" for k in range(18 if labels.ndim == 2 else K))
    ids = tuple(map(str, range(len(images))))
    return ImageSet("own", pixels, labels.numpy(), names, np.arange(N), ids, True, True, "0")


def swept(sweep, **how):
    return lambda m, x, y: sweep(m, data_of(x, y), np.arange(N), [EPS], batch=3, **how)


def under_noise(model, images, labels):
    how = dict(bands=2, rms=0.1, seed=0)
    return spectrum.under_band_noise(model, data_of(images, labels), np.arange(N), **how)


def predicted(model, images, labels):
    return predict.predict(model, data_of(images, labels), np.arange(N))


FEW = dict(steps=1, step_size=EPS)
ENTRIES = {
    "fgsm": lambda m, x, y: attacks.fgsm(m, x, y, EPS),
    "mifgsm": lambda m, x, y: attacks.mifgsm(m, x, y, EPS, **FEW),
    "pgd": lambda m, x, y: attacks.pgd(m, x, y, EPS, **FEW),
    "foolbox": lambda m, x, y: attacks.at_radii(
        m, x, y, [EPS], engine="foolbox", mode="independent", steps=1
    ),
    "at_radii": lambda m, x, y: list(attacks.at_radii(m, x, y, [EPS / 2, EPS], steps=1)),
    "autoattack": lambda m, x, y: attacks.autoattack(m, x, y, EPS, steps=1, queries=2, targets=1),
    "attack_sweep": swept(attacks.attack_sweep, steps=1),
    "autoattack_sweep": swept(attacks.autoattack_sweep, steps=1, queries=2, targets=1),
    "red_flags": lambda m, x, y: attacks.red_flags(m, x, y, EPS, steps=1),
    "rise": lambda m, x, y: sharpness.rise(m, x, y, steps=1),
    "sensitivity": spectrum.sensitivity,
    "under_band_noise": under_noise,
    "predict": predicted,
    "grad_cam": lambda m, x, y: cams.grad_cam(m, x),
    "target_layer": lambda m, x, y: cam_layers.target_layer(m, tuple(x.shape[1:])),
}


@cache
def made(name):
    model = (CLASSIFIERS | SEGMENTERS)[name][0]()
    return model if name == "training" or "exported" in name else model.eval()


def pictures(name):
    side = SIDE * (2 if name.startswith(("timm", "torchvision")) else 1)
    bytes_ = torch.randint(0, 256, (N, 3, side, side), generator=torch.Generator().manual_seed(1))
    return bytes_.float() / 255


def outcome(entry, model, images, labels, words):
    """Nothing but a result, or where there are words an error that has them; inputs unchanged."""
    kept = images.clone(), labels.clone()
    torch.manual_seed(0)
    if words:
        with pytest.raises(MedrobustError, match=f"(?s){words}"):
            entry(model, images, labels)
    else:
        entry(model, images, labels)
    assert torch.equal(images, kept[0]) and torch.equal(labels, kept[1])


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_from_elsewhere_gets_a_result_or_a_remedy(name, entry):
    words = CLASSIFIERS[name][1]
    words = DIFFERENCES.get(name, {}).get(entry, words)
    images, labels = pictures(name), torch.arange(N) % K
    if name in ("sigmoids", "x-ray logits"):
        labels = torch.randint(0, 2, (N, 18), generator=torch.Generator().manual_seed(2)).byte()
    outcome(ENTRIES[entry], made(name), images, labels, words)


SEGMENTERS = {
    "monai": (Monai, ""),
    "lraspp": (
        lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=3
        ),
        r"OrderedDict.*\['out'\]",
    ),
    "one channel": (lambda: Monai(1), "K >= 2"),
    "scripted maps": (lambda: torch.jit.script(Monai()), ""),
    "half maps": (lambda: Monai().half(), r"model\.float\(\)"),
    "random maps": (lambda: nn.Sequential(Monai(), Do(noisy)), "random"),
    "maps in place": (lambda: nn.Sequential(Do(lambda z: z.sub_(0.5)), Monai()), ""),
    "maps of softmax": (lambda: nn.Sequential(Monai(), nn.Softmax(1)), "probabilities"),
}


def mapped(call):
    def entry(model, images, labels):
        data = data_of(images, labels)
        return call(model, data, np.arange(N))

    return entry


MAP_ENTRIES = {
    "pgd": lambda m, x, y: attacks.pgd(m, x, y, EPS, **FEW),
    "segpgd": lambda m, x, y: attacks.Attack("segpgd", EPS, **FEW)(m, x, y, torch.float32),
    "layered": lambda m, x, y: attacks.Layered(EPS, 1, present=True)(m, x, y, torch.float32),
    "selective": lambda m, x, y: attacks.Selective(EPS, EPS, "greedy")(m, x, y, torch.float32),
    "predict": mapped(segmentation.predict),
    "tallied": mapped(segmentation.tallied),
    "attack": mapped(lambda *a: segmentation.attack(*a, segmentation.Attack("segpgd", EPS, 1))),
    "harden": mapped(lambda *a: segmentation.attack(*a, segmentation.Layered(EPS, 1))),
    "grad_cam": lambda m, x, y: cams.grad_cam(m, x),
}


@pytest.mark.parametrize("entry", MAP_ENTRIES)
@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_segmentation_from_elsewhere_gets_a_result_or_a_remedy(name, entry):
    words = SEGMENTERS[name][1]
    if name == "scripted maps" and entry == "grad_cam":
        words = "scripted"
    if name == "random maps" and entry in ("predict", "tallied", "grad_cam"):
        words = ""  # no attack: what it says of an image is one of its answers
    labels = torch.randint(0, 3, (N, SIDE, SIDE), generator=torch.Generator().manual_seed(2)).byte()
    outcome(MAP_ENTRIES[entry], made(name), pictures(name), labels, words)


def same(first, second):
    """Whether two results are equal in all they hold, to the last bit."""
    if isinstance(first, torch.Tensor | np.ndarray):
        numbers = first.dtype not in (object, np.dtype("U16"))
        return np.array_equal(np.asarray(first), np.asarray(second), equal_nan=numbers)
    if hasattr(first, "__dict__"):
        first, second = vars(first), vars(second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def seeded(entry, *args):
    torch.manual_seed(0)
    return entry(*args)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64", "int16", "array", "list"])
@pytest.mark.parametrize(
    "entry", ["fgsm", "foolbox", "at_radii", "autoattack", "rise", "sensitivity", "red_flags"]
)
def test_labels_of_any_integer_type_are_the_same_labels(entry, kind):
    model, images = made("plain"), pictures("plain")
    labels = model(images).argmax(1)
    given = {"array": labels.numpy().astype(">u2"), "list": labels.tolist()}
    given = given[kind] if kind in given else labels.to(getattr(torch, kind))
    results = [seeded(ENTRIES[entry], model, images, some) for some in (labels, given)]
    assert same(*results)


def test_label_maps_of_16_bits_are_label_maps():
    labels = torch.randint(0, 3, (N, SIDE, SIDE), generator=torch.Generator().manual_seed(2))
    model, images = made("monai"), pictures("monai")
    for name in ("segpgd", "layered", "pgd"):
        wanted = seeded(MAP_ENTRIES[name], model, images, labels)
        assert same(seeded(MAP_ENTRIES[name], model, images, labels.to(torch.uint16)), wanted)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["melanoma"] * N, "int64 class indices"),
        ([0, [1, 2], 3, 0, 1], "int64 class indices"),
        (torch.zeros(N, dtype=torch.complex64), "complex64"),
        (torch.tensor(1), "one an image"),
        ([0, 1], "5 images but 2 labels"),
        (torch.zeros(N), "need int64"),
        ([-1] * N, "knows 0 to 3"),
        (torch.full((N,), 2**40).to(torch.uint64), "knows 0 to 3"),
        (torch.zeros(N, 2, dtype=torch.long), "labels have shape"),
    ],
)
@pytest.mark.parametrize("entry", ["fgsm", "foolbox", "at_radii", "autoattack", "rise"])
def test_labels_that_fit_nothing_are_refused_with_what_fits(entry, labels, words):
    words = f"{words}|native engine" if entry == "foolbox" else words
    with pytest.raises(ContractError, match=words):
        ENTRIES[entry](made("plain"), pictures("plain"), labels)


@pytest.mark.parametrize("entry", [*ENTRIES])
def test_inside_inference_mode_the_results_are_those_of_outside(entry):
    model, images, labels = made("plain"), pictures("plain"), torch.arange(N) % K
    outside = seeded(ENTRIES[entry], model, images, labels)
    with torch.inference_mode():
        inside = seeded(ENTRIES[entry], model, images.clone(), labels.clone())
    assert same(inside, outside)


def answers(result):
    """What the network says of each attacked image at each radius."""
    parts = result if isinstance(result, list) else [result]
    return [np.asarray(part.logits).argmax(-1) for part in parts]


@pytest.mark.parametrize("name", ["normalises in place", "subtracts in place", "without copies"])
def test_working_in_place_changes_no_result(name):
    twins = {
        "normalises in place": Net(first=Do(normalise(False))),
        "subtracts in place": Net(first=Do(lambda z: (z - 0.5) * 3)),
        "without copies": Net(),
    }
    images, labels = pictures("plain"), torch.arange(N) % K
    for entry in ("fgsm", "at_radii", "foolbox", "attack_sweep", "predict"):
        wanted = seeded(ENTRIES[entry], twins[name].eval(), images, labels)
        found = seeded(ENTRIES[entry], made(name), images, labels)
        if entry in ("at_radii", "attack_sweep"):  # iterated signs turn with the last bit
            assert same(*(answers(result) for result in (found, wanted)))
        else:
            assert same(found, wanted)


class Averaged(nn.Module):
    """The wrapper that the error about chance describes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        logits = []
        for image in images.split(1):
            torch.manual_seed(0)
            logits.append(self.model(image.repeat(20, 1, 1, 1)).mean(0))
        return torch.stack(logits)


def test_the_averaging_wrapper_is_taken_and_its_verdicts_can_be_asked_for_again():
    model, images = Averaged(made("Monte Carlo dropout")).eval(), pictures("plain")
    labels = ask(model, images).argmax(1)
    result = attacks.autoattack(model, images, labels, EPS / 4, steps=3, queries=5)
    again = ask(model, result.images).argmax(1) == labels
    assert torch.equal(result.robust, again)


def test_numbers_that_are_only_small_are_no_chance():
    images, labels = pictures("plain"), torch.arange(N) % K
    for scale in (1e-42, 1e-20, 1e8):
        model = Net(last=Do(lambda z, scale=scale: z * scale)).eval()
        attacks.mifgsm(model, images, labels, EPS, **FEW)


@pytest.mark.parametrize("call", ["at_radii", "foolbox", "sweep", "layered", "training"])
def test_a_network_is_asked_once_a_call_whether_it_answers_alike(call, monkeypatch):
    asked, real = [], gate.ask
    monkeypatch.setattr(gate, "ask", lambda *args: asked.append(1) or real(*args))
    images, labels = pictures("plain"), torch.arange(N) % K
    if call in ("at_radii", "foolbox"):
        engine = dict(engine="foolbox", mode="skip_fooled") if call == "foolbox" else {}
        how = dict(steps=1) | engine
        list(attacks.at_radii(made("plain"), images, labels, [EPS / 4, EPS / 2, EPS], **how))
    elif call == "sweep":
        how = dict(batch=2, steps=1, mode="independent")
        data = data_of(images, labels)
        attacks.attack_sweep(made("plain"), data, np.arange(N), [EPS / 2, EPS], **how)
    elif call == "layered":
        attacks.Layered(EPS, 1)(made("monai"), images, labels, torch.float32)
    else:
        model, objective = Net(), AdversarialTraining(EPS, 1, EPS)
        with gate.once():  # as ``training.fit`` does
            for _ in range(3):
                objective(model, images, labels, np.arange(N), torch.float32)
    assert len(asked) == 4  # two images twice: each alone, and both together twice
