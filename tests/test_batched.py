"""The layers of all tasks at once: PyTorch's own numbers, differentiable twice, whatever stands around them."""

import itertools

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from mamlcourse import MAML, TaskBatch
from mamlcourse.engine.backends import LAYERS
from mamlcourse.engine.batched import AddedInPlace, Patches, RowsBatchNorm, Window, added_in_place, patches_of
from mamlcourse.engine.kernels import Instead


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


WINDOWS = [
    Window((3, 3), (1, 1), (1, 1), (1, 1)), Window((3, 3), (2, 2), (1, 1), (1, 1)),
    Window((1, 1), (1, 1), (0, 0), (1, 1)),
    Window((2, 3), (2, 1), (0, 2), (1, 2)), Window((3, 2), (3, 2), (2, 0), (2, 1)),
]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS)
def test_patches_are_those_of_unfold_and_their_adjoint_is_fold(window):
    x = numbers(2, 7, 8, 3)
    places = window.places(7, 8)
    how = dict(kernel_size=window.kernel, dilation=window.dilation, padding=window.padding, stride=window.stride)
    unfolded = F.unfold(x.permute(0, 3, 1, 2), **how)  # (images, channels x kernel, places)
    expected = unfolded.unflatten(1, (3, *window.kernel)).permute(0, 4, 2, 3, 1).flatten(2).flatten(0, 1)
    found = patches_of(x, window)
    assert torch.equal(found, expected) and len(found) == 2 * places[0] * places[1]
    other = numbers(*found.shape, seed=1)
    back = added_in_place(other, x.shape, window)
    assert (found * other).sum().item() == pytest.approx((x * back).sum().item(), rel=1e-12)


@pytest.mark.parametrize("window", WINDOWS[1:4])
def test_derivatives_of_patches_and_their_adjoint(window):
    x = numbers(1, 5, 4, 2).requires_grad_()
    patches = numbers(*patches_of(x, window).shape, seed=1).requires_grad_()
    for check in (gradcheck, gradgradcheck):
        assert check(lambda x: Patches.apply(x, window), x)
        assert check(lambda p: AddedInPlace.apply(p, x.shape, window), patches)


def test_derivatives_of_batch_norm_by_rows():
    x, weight, bias = numbers(2, 5, 3).requires_grad_(), numbers(2, 3, seed=1).requires_grad_(), numbers(2, 3, seed=2)
    for check in (gradcheck, gradgradcheck):
        assert check(RowsBatchNorm.apply, (x, weight, bias.requires_grad_(), 1e-3))


def test_means_far_from_zero_cost_no_digits():
    """Handwriting is mostly background: a channel's mean can be many standard deviations from zero."""
    x = 1e3 + numbers(1, 4000, 3)
    expected, found = (RowsBatchNorm.apply(t, t.new_ones(1, 3), t.new_zeros(1, 3), 1e-5) for t in (x, x.float()))
    assert (found - expected).abs().max() < 1e-3


# A layer under vmap, with whatever of its tensors of all tasks, against PyTorch's own for one task after the other.


CALLS = {
    "convolution": (F.conv2d, dict(stride=2, padding=1), (2, 3, 6, 5), (4, 3, 3, 3), (4,)),
    "no bias, other sides": (
        F.conv2d,
        dict(stride=(1, 2), padding=(0, 1), dilation=(2, 1)),
        (2, 3, 6, 5),
        (4, 3, 2, 3),
    ),
    "groups": (F.conv2d, dict(groups=2, padding=1), (2, 4, 4, 4), (6, 2, 3, 3), (6,)),
    "padding by name": (F.conv2d, dict(padding="same"), (2, 3, 6, 5), (4, 3, 3, 3), (4,)),
    "one image": (F.conv2d, dict(padding=1), (3, 6, 5), (4, 3, 3, 3), (4,)),
    "max-pool": (F.max_pool2d, dict(kernel_size=2), (2, 3, 6, 5)),
    "max-pool, overlapping": (F.max_pool2d, dict(kernel_size=3, stride=2, padding=1, ceil_mode=True), (2, 3, 6, 5)),
    "spatial mean": (F.adaptive_avg_pool2d, dict(output_size=1), (2, 3, 6, 5)),
    "adaptive mean": (F.adaptive_avg_pool2d, dict(output_size=(2, 3)), (2, 3, 6, 6)),
}


@pytest.mark.parametrize("backend", LAYERS)
@pytest.mark.parametrize("call", CALLS)
def test_a_layer_under_vmap_is_pytorchs(call, backend):
    function, how, *shapes = CALLS[call]
    alone = [numbers(*shape, seed=n) for n, shape in enumerate(shapes)]
    of_all = [numbers(3, *shape, seed=n + 9) for n, shape in enumerate(shapes)]
    for batched in itertools.product((False, True), repeat=len(shapes)):
        given = [each if one else own for one, own, each in zip(batched, alone, of_all)]
        expected = torch.stack(
            [function(*(t[task] if one else t for one, t in zip(batched, given)), **how) for task in range(3)]
        )
        if any(batched):
            dims = tuple(0 if one else None for one in batched)
            with Instead(LAYERS[backend]):
                found = torch.func.vmap(lambda *t: function(*t, **how), dims)(*given)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", LAYERS)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (6, 3), (4, 3, 5)])
def test_batch_norm_under_vmap_is_pytorchs(shape, affine, backend):
    x, weights = numbers(3, *shape), [numbers(3, 3, seed=n) for n in (1, 2)] if affine else []

    def norm(x, *weights):
        return F.batch_norm(x, None, None, *weights, training=True)

    with Instead(LAYERS[backend]):
        found = torch.func.vmap(norm)(x, *weights)
    expected = torch.stack([norm(*(t[task] for t in (x, *weights))) for task in range(3)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", LAYERS)
def test_vmap_within_vmap(backend):
    """As a model, or an evaluation query by query, may have it."""
    x, weight, gain = numbers(3, 2, 4, 2, 5, 5), numbers(3, 3, 2, 3, 3, seed=1), numbers(3, 3, seed=2)

    def one(x, weight, gain):
        return F.max_pool2d(F.batch_norm(F.conv2d(x, weight), None, None, gain, gain, training=True), 2)

    def each(x, weight, gain):
        return torch.func.vmap(lambda x: one(x, weight, gain))(x)

    with Instead(LAYERS[backend]):
        found = torch.func.vmap(each)(x, weight, gain)
    expected = torch.stack([torch.stack([one(x, w, g) for x in xs]) for xs, w, g in zip(x, weight, gain)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


# Whole models of others' making, second order.


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.keys, self.norm, self.out = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(x.flatten(2).transpose(1, 2))
        return self.out(F.gelu((self.keys(x) @ x.transpose(1, 2)).softmax(-1) @ x).mean(1))


class ForItself(nn.Module):
    """A model that differentiates by itself."""

    def __init__(self):
        super().__init__()
        self.convolution, self.out = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(32, 3)

    def forward(self, x):
        energy = lambda x: self.convolution(x).tanh().square().sum()  # noqa: E731
        return self.out(torch.func.grad(energy)(x).flatten(1))


def after_a_convolution(*layers, features=64):
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *layers, nn.Flatten(), nn.Linear(features, 3))


MODELS = {
    "batch norm without weights": lambda: after_a_convolution(
        nn.BatchNorm2d(4, affine=False, track_running_stats=False), nn.Tanh()
    ),
    "instance norm": lambda: after_a_convolution(nn.InstanceNorm2d(4, affine=True), nn.Tanh()),
    "group norm": lambda: after_a_convolution(nn.GroupNorm(2, 4), nn.Tanh()),
    "layer norm": lambda: after_a_convolution(nn.LayerNorm([4, 4, 4]), nn.SiLU()),
    "groups": lambda: after_a_convolution(nn.Conv2d(4, 4, 3, groups=2), nn.ELU(), features=16),
    "reflecting": lambda: after_a_convolution(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.LeakyReLU()),
    "transposed": lambda: after_a_convolution(nn.ConvTranspose2d(4, 1, 2), nn.GELU(), features=25),
    "batch norm of vectors": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(32, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Tanh(), nn.Linear(5, 3)
    ),
    "convolutions along one side": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(56, 3),
    ),
    "attention": lambda: nn.Sequential(nn.Conv2d(2, 4, 1), Attention()),
    "a gradient within": ForItself,
}  # fmt: skip


@pytest.mark.parametrize("backend", LAYERS)
@pytest.mark.parametrize("name", MODELS)
def test_models_of_others_have_the_loops_gradients(name, backend):
    if (name, backend) == ("group norm", "products") and torch.__version__ < "2.11":
        pytest.skip("F.group_norm has no vmap rule for channels last in torch 2.6; in versions up to 2.11 not tried")
    torch.manual_seed(0)
    model, x = MODELS[name]().double(), numbers(3, 6, 2, 4, 4)
    y = torch.arange(6).remainder(3).expand(3, 6)
    batch = TaskBatch(x, y, x.flip(1), y.flip(1))
    found, expected = (MAML(model, inner_steps=2, backend=each).meta_gradients(batch) for each in (backend, "loop"))
    for mine, theirs in zip(found.gradients.tensors(), expected.gradients.tensors()):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
