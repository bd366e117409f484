"""The faster layers give the same numbers, first and second derivatives, as PyTorch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mamlcourse import MAML, CharacterTasks, Conv4, load_characters
from mamlcourse.engine.kernels import Instead, _unfolded, batch_norm, conv2d, for_loop, for_vmap, unfolded_conv2d


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (7, 3), (4, 3, 5)])
def test_batch_norm_by_finite_differences(shape):
    torch.manual_seed(0)
    x, weight, bias = double(*shape), double(3), double(3)
    with torch.no_grad():
        weight[0] = 0  # nothing may divide by it
    assert torch.autograd.gradcheck(batch_norm, (x, weight, bias))
    assert torch.autograd.gradgradcheck(batch_norm, (x, weight, bias))


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_batch_norm_whichever_gradients_are_used(used):
    torch.manual_seed(0)
    inputs = double(6, 3, 4, 4), double(3), double(3)
    found = []
    for norm in (lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, True), batch_norm):
        grads = torch.autograd.grad((norm(*inputs) ** 3).sum(), [inputs[i] for i in used], create_graph=True)
        outer = sum(((g / g.detach().norm()) ** 3).sum() for g in grads)
        found.append(torch.autograd.grad(outer, inputs, allow_unused=True, materialize_grads=True))
    for expected, ours in zip(*found):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("examples", [1, 25, 75])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_keeps_single_precision(order, examples):
    torch.manual_seed(0)
    x = (5 + torch.randn(examples, 16, 14, 14)).contiguous(memory_format=order)
    weight, bias = torch.rand(16, requires_grad=True), torch.rand(16, requires_grad=True)
    errors = []
    for norm in (lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, True), batch_norm):
        found = []
        for kind in (torch.float64, torch.float32):
            inputs = [p.detach().to(kind).requires_grad_() for p in (x, weight, bias)]
            if norm is not batch_norm:  # with channels last PyTorch's own is a hundred times less precise
                inputs[0] = x.detach().contiguous().to(kind).requires_grad_()
            grads = torch.autograd.grad((norm(*inputs) ** 3).sum(), inputs, create_graph=True)
            outer = torch.autograd.grad(sum((g**2).sum() for g in grads), inputs)
            found.append(torch.cat([g.flatten().double() for g in outer]))
        errors.append(((found[1] - found[0]).norm() / found[0].norm()).item())
    assert errors[1] < 2 * errors[0] + 1e-6


CONVOLUTIONS = [
    dict(stride=2, padding=1), dict(padding=1), dict(), dict(stride=(1, 2), padding=(0, 1), dilation=(2, 1))
]  # fmt: skip


@pytest.mark.parametrize("settings", [*CONVOLUTIONS, dict(groups=2)])
@pytest.mark.parametrize("channels", [1, 2])
def test_convolution_by_finite_differences(channels, settings):
    torch.manual_seed(0)
    groups = settings.get("groups", 1)
    x, weight, bias = double(2, channels * groups, 7, 6), double(2 * groups, channels, 3, 3), double(2 * groups)
    result = conv2d(x, weight, bias, **settings)
    torch.testing.assert_close(result, F.conv2d(x, weight, bias, **settings))
    assert result.is_contiguous(memory_format=torch.channels_last) and not result.is_contiguous()
    assert torch.autograd.gradgradcheck(lambda *inputs: conv2d(*inputs, **settings), (x, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *inputs: conv2d(*inputs, **settings), (x, weight))


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("learned", [(0, 1, 2), (1, 2), (1,), (0,)])
def test_convolution_whichever_gradients_are_used(learned, used):
    torch.manual_seed(0)
    inputs = [p.requires_grad_(i in learned) for i, p in enumerate((double(2, 2, 5, 5), double(3, 2, 3, 3), double(3)))]
    used, found = [inputs[i] for i in used if i in learned], []
    if not used:
        return
    for convolve in (F.conv2d, conv2d):
        grads = torch.autograd.grad((convolve(*inputs) ** 3).sum(), used, create_graph=True)
        outer = sum((g**3).sum() for g in grads)
        wanted = [p for p in inputs if p.requires_grad]
        found.append(torch.autograd.grad(outer, wanted, allow_unused=True, materialize_grads=True))
    for expected, ours in zip(*found):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", CONVOLUTIONS)
def test_unfolded_convolution(settings):
    torch.manual_seed(0)
    x, weight, bias = double(2, 2, 7, 6), double(3, 2, 3, 3), double(3)
    torch.testing.assert_close(unfolded_conv2d(x, weight, bias, **settings), F.conv2d(x, weight, bias, **settings))
    assert torch.autograd.gradgradcheck(lambda *inputs: unfolded_conv2d(*inputs, **settings), (x, weight, bias))


def batch_for(queries=2):
    batch = CharacterTasks(load_characters().split().train, ways=3, queries=queries, tasks_per_batch=3).batch(0)
    return batch._replace(support_x=batch.support_x.double(), query_x=batch.query_x.double())


def close(found, expected):
    for ours, theirs in zip(found.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("downsampling", ["stride", "max-pool"])
@pytest.mark.parametrize("name", ["maml", "fomaml", "maml++"])
def test_meta_gradients_with_faster_layers(name, downsampling, monkeypatch):
    torch.manual_seed(0)
    model = Conv4(3, 4, downsampling).double()
    nn.init.normal_(model.head.weight)
    batch = batch_for()
    fast = MAML(model, name, backend="loop", inner_steps=2).meta_gradients(batch).gradients
    by_products = MAML(model, name, backend="vmap", inner_steps=2)
    with Instead({F.conv2d: _unfolded}):  # what a GPU would get
        close(by_products.meta_gradients(batch).gradients, fast)
    from mamlcourse.engine import backends

    monkeypatch.setattr(backends, "for_loop", lambda model, order: Instead({}))
    plain = MAML(model, name, backend="loop", inner_steps=2).meta_gradients(batch).gradients
    close(fast, plain)


def test_the_model_is_what_decides():
    assert isinstance(for_loop(Conv4()), Instead) and isinstance(for_loop(Conv4(), order=1), Instead)
    strided = Conv4(downsampling="stride")
    assert isinstance(for_loop(strided, order=2), Instead) and not isinstance(for_loop(strided, order=1), Instead)
    for context in (for_loop(nn.Linear(2, 2)), for_vmap(nn.Linear(2, 2)), for_vmap(Conv4())):  # all on a CPU
        assert not isinstance(context, Instead)


def test_what_it_does_not_know_is_left_to_pytorch():
    x, weight = torch.randn(4, 3, 2, 2), torch.rand(3)
    running = torch.zeros(3), torch.ones(3)
    with for_loop(nn.BatchNorm2d(3)):
        for arguments in (
            (x, None, None, None, None, True), (x, None, None, weight, None, True),
            (x, *running, weight, weight, False), (x.half(), None, None, weight, weight, True),
        ):  # fmt: skip
            assert F.batch_norm(*arguments).grad_fn is None
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            F.batch_norm(torch.randn(1, 3), None, None, weight, weight, True)
        torch.func.vmap(lambda one: F.batch_norm(one, None, None, weight, weight, True))(torch.randn(2, 4, 3))
    with for_loop(Conv4()):  # an image without a batch, padding by name, and vmap
        x, weight = torch.randn(2, 5, 5), torch.randn(4, 2, 3, 3, requires_grad=True)
        for given in (F.conv2d(x, weight), F.conv2d(x[None], weight, padding="same")):
            assert "Convolution" in given.grad_fn.name() or "Squeeze" in given.grad_fn.name()
            assert "_Convolution" not in given.grad_fn.name()
        torch.func.vmap(lambda one: F.conv2d(one[None], weight))(torch.randn(3, 2, 5, 5))
        with pytest.raises(RuntimeError, match="expected input"):
            F.conv2d(torch.randn(1, 3, 5, 5), weight)
    with Instead({F.conv2d: _unfolded}):
        assert F.conv2d(torch.randn(2, 4, 5, 5), torch.randn(4, 2, 3, 3), groups=2, padding="same").shape[1] == 4
