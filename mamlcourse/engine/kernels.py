"""Faster layers for meta-gradients, put under any model from outside while its meta-gradients are computed.

Models are written with ordinary layers and know nothing of this; the numbers are the same within rounding.

* Most of the time of a meta-gradient goes to differentiating gradients. PyTorch does that for batch normalisation with
  some thirty passes over the activations; in closed form it takes eight.
* A convolution differentiated twice is four convolutions. PyTorch writes two of them with whole feature maps as
  kernels, which is slow, and keeps channels first in memory, in which its max-pooling on a CPU is slower still.
* Under vmap a convolution whose weights differ from task to task becomes a grouped convolution, which is slow on a
  GPU; as a product of matrices it becomes one batched product.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

FEW = 1024  # elements of a channel up to which short sums are not worth their time
SHORT = 512  # elements in a sum; shorter ones would be more sums


class Instead(TorchFunctionMode):
    """Within it, in the thread that entered it, other functions are called than those that the layers name."""

    def __init__(self, others: dict):
        super().__init__()
        self.others = others

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        return self.others.get(function, function)(*arguments, **(keywords or {}))


def for_loop(model: nn.Module, order: int = 2):
    """A context for gradients of this order, one task after the other."""
    # Entering the mode costs a little at each call of PyTorch, so a model that gains nothing goes without: once
    # differentiated, only pooling gains, by channels last.
    pools = any(isinstance(layer, nn.modules.pooling._MaxPoolNd) for layer in model.modules())
    if order == 1 and not pools:
        return nullcontext()
    others = {}
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
        others[F.batch_norm] = _batch_norm
    if any(isinstance(layer, nn.Conv2d) for layer in model.modules()) and not _on_gpu(model):
        others[F.conv2d] = _conv2d
    return Instead(others) if others else nullcontext()


def for_vmap(model: nn.Module):
    """A context for meta-gradients of all tasks at once, differentiated within vmap."""
    convolves = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    return Instead({F.conv2d: _unfolded}) if convolves and _on_gpu(model) else nullcontext()


def _on_gpu(model):
    return any(p.device.type == "cuda" for p in model.parameters())


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    plain = not isinstance(padding, str) and input.ndim == 4 and input.dtype == weight.dtype
    ordinary = not any(map(torch._C._functorch.is_functorch_wrapped_tensor, (input, weight)))
    if plain and ordinary:
        return conv2d(input, weight, bias, stride, padding, dilation, groups)
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    """`F.conv2d` that is differentiated twice by plain convolutions, with channels last in memory.

    Args and result as those of `F.conv2d`, the result with channels last.
    """
    # Later layers keep this order. `to` and not `contiguous`, which leaves a single channel's strides as they are: the
    # result would have channels first.
    x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
    steps = ([n, n] if isinstance(n, int) else list(n) for n in (stride, padding, dilation))
    return Convolution.apply(x, weight, bias, *steps, groups)


class Convolution(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, *how):
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return _product(x, weight, bias, how)

    @staticmethod
    def backward(ctx, g):
        wanted = ctx.needs_input_grad[:3]
        # Whoever differentiates only once needs no graph, and is spared the calls that would make one.
        gradient = ConvolutionGradient.apply if torch.is_grad_enabled() else _conv_gradients
        return *gradient(g, *ctx.saved_tensors, ctx.how, wanted), None, None, None, None


class ConvolutionGradient(Function):
    """From the gradient g of a convolution's output to those of x, weight and bias. Each is linear in g and in one
    other tensor, so that their derivatives are convolutions again."""

    @staticmethod
    def forward(ctx, g, x, weight, how, wanted):
        ctx.save_for_backward(g, x, weight)
        ctx.how = how
        ctx.set_materialize_grads(False)
        return _conv_gradients(g, x, weight, how, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx, along_x, along_weight, along_bias):
        g, x, weight = ctx.saved_tensors
        for_g, for_x, for_weight = ctx.needs_input_grad[:3]
        to_g = to_x = to_weight = None
        if along_x is not None:
            to_g = _product(along_x, weight, along_bias, ctx.how) if for_g else None
            to_weight = _conv_gradients(g, along_x, weight, ctx.how, (False, True, False))[1] if for_weight else None
        if along_weight is not None:
            if for_g:
                other = _product(x, along_weight, along_bias if to_g is None else None, ctx.how)
                to_g = other if to_g is None else to_g.add_(other)
            to_x = _conv_gradients(g, x, along_weight, ctx.how, (True, False, False))[0] if for_x else None
        if for_g and to_g is None and along_bias is not None:
            to_g = along_bias.view(1, -1, 1, 1).expand_as(g)
        return to_g, to_x, to_weight, None, None


def _product(x, weight, bias, how):
    *steps, groups = how
    return torch.convolution(x, weight, bias, *steps, False, [0, 0], groups)


def _conv_gradients(g, x, weight, how, wanted):
    """The gradients of x, weight and bias; None where not wanted."""
    *steps, groups = how
    sizes = [weight.shape[0]]
    return torch.ops.aten.convolution_backward(g, x, weight, sizes, *steps, False, [0, 0], groups, wanted)


def _unfolded(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    plain = groups == 1 and not isinstance(padding, str) and input.ndim == 4
    if not plain:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    return unfolded_conv2d(input, weight, bias, stride, padding, dilation)


def unfolded_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1) -> Tensor:
    """`F.conv2d` without groups, as one product of the weights with all patches of the images.

    Args:
        x: (examples, channels, height, width).
        weight: (filters, channels, kernel height, kernel width).
        bias: (filters,).
        stride, padding, dilation: integers, or two of them.

    Returns:
        (examples, filters, height, width) of the result.
    """
    stride, padding, dilation = ((n, n) if isinstance(n, int) else tuple(n) for n in (stride, padding, dilation))
    kernel = weight.shape[2:]
    patches = F.unfold(x, kernel, dilation, padding, stride)  # (examples, channels x kernel, places)
    places = [
        (size + 2 * around - apart * (reach - 1) - 1) // step + 1
        for size, around, apart, reach, step in zip(x.shape[2:], padding, dilation, kernel, stride)
    ]
    result = torch.einsum("fk,ekp->efp", weight.flatten(1), patches).unflatten(-1, places)
    return result if bias is None else result + bias[:, None, None]


def _batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    own_statistics = training and running_mean is None and running_var is None
    affine = weight is not None and bias is not None and weight.dtype == bias.dtype == input.dtype
    several = input.numel() > input.shape[1]  # of a single value for each channel F.batch_norm says what is wrong
    ordinary = not torch._C._functorch.is_functorch_wrapped_tensor(input)  # no rule for vmap: F.batch_norm has one
    if own_statistics and affine and several and ordinary:
        return batch_norm(input, weight, bias, eps)
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Batch normalisation by the batch's own statistics (Ioffe and Szegedy 2015, algorithm 1), differentiable twice.

    Args:
        x: (examples, channels, ...), more than one value for each channel.
        weight, bias: (channels,), γ and β.
        eps: added to the variance.

    Returns:
        γ x̂ + β, as x, with x̂ = (x - mean) / σ.
    """
    return BatchNorm.apply(x, weight, bias, eps)


class BatchNorm(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        y, mean, inverse = _normalised(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        return y

    @staticmethod
    def backward(ctx, g):
        gradient = BatchNormGradient.apply if torch.is_grad_enabled() else _gradient
        return *gradient(g, *ctx.saved_tensors), None


class BatchNormGradient(Function):
    """From the gradient g of the output to those of x, weight γ and bias:

        γ P(g) / σ,   Σ g x̂,   Σ g,   where P(g) = g - m(g) - x̂ m(g x̂)

    takes from each channel its mean m and its share along x̂. The mean and σ, the standard deviation, depend on x here.
    """

    @staticmethod
    def forward(ctx, g, x, weight, mean, inverse):
        to_x, sum_gx, sum_g = _gradient(g, x, weight, mean, inverse)
        ctx.save_for_backward(g, x, weight, mean, inverse, sum_gx, sum_g)
        ctx.set_materialize_grads(False)
        return to_x, sum_gx, sum_g

    @staticmethod
    @once_differentiable
    def backward(ctx, v, of_weight, of_bias):
        # v, of_weight and of_bias are the gradients of the outer loss for the three results. The first one's share of
        # it is  n γ A / σ,  A = m(v g) - m(v) m(g) - m(v x̂) m(g x̂); this differentiates it. Two rules do:
        # ∂σ/∂x = x̂ / n, and a gradient u for x̂ is P(u) / σ for x.
        g, x, weight, mean, inverse, sum_gx, sum_g = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        to_g, sum_vx, sum_v = _gradient(torch.zeros_like(g) if v is None else v, x, weight, mean, inverse)
        scale = weight * inverse / n
        along_v, along_g = -scale * sum_gx, -scale * sum_vx  # the gradient for x̂ is along_v v + along_g g
        if of_weight is not None:
            along_g = along_g + of_weight
        if of_weight is not None or of_bias is not None:
            of_weight = torch.zeros_like(weight) if of_weight is None else of_weight
            of_bias = torch.zeros_like(weight) if of_bias is None else of_bias
            to_g += _affine(x, of_weight * inverse, of_bias - of_weight * inverse * mean)
        if v is None:
            a, along_v = torch.zeros_like(weight), torch.zeros_like(weight)
        else:
            a = (_dots(v, g) - (sum_v * sum_g + sum_vx * sum_gx) / n) / n
        along_x = -inverse * (along_v * sum_vx + along_g * sum_gx) / n - weight * a * inverse**2  # along x̂, that is
        constant = -inverse * (along_v * sum_v + along_g * sum_g) / n
        to_x = _affine(x, along_x * inverse, constant - along_x * inverse * mean)
        to_x.addcmul_(g, _by_channel(along_g * inverse, x))
        if v is not None:
            to_x.addcmul_(v, _by_channel(along_v * inverse, x))
        return to_g, to_x, n * a * inverse, None, None


# Each of these is one call that reads the activations once or twice.


# With channels last PyTorch adds up one element after the other, in single precision. Over all pixels of all images
# that loses three digits and more: handwriting is mostly background, so that a channel's mean can be many standard
# deviations. So the mean is computed image by image here, and where there are many elements the other sums by place.


def _normalised(x, weight, bias, eps):
    """(γ x̂ + β, mean, 1 / σ)."""
    if _sums_are_precise(x):
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
    mean = x.mean((2, 3)).mean(0)
    if _are_few(x):
        y, rest, inverse = torch.native_batch_norm(x - _by_channel(mean, x), weight, bias, None, None, True, 0.0, eps)
        return y, mean + rest, inverse
    means, variances = (s.view(-1, len(mean)) for s in torch.batch_norm_update_stats(_by_place(x), None, None, 0.0))
    variance = variances.mean(0) + means.var(0, correction=0)
    inverse = (variance + eps).rsqrt()
    return _affine(x, weight * inverse, bias - weight * inverse * mean), mean, inverse


def _gradient(g, x, weight, mean, inverse):
    """(γ P(g) / σ, Σ g x̂, Σ g)."""
    if _sums_are_precise(x) or _are_few(x):
        every = (True, True, True)
        return torch.ops.aten.native_batch_norm_backward(g, x, weight, None, None, mean, inverse, True, 0.0, every)
    sum_gx, sum_g = _sums(g, x, mean, inverse)
    n, scale = x.numel() // x.shape[1], weight * inverse
    along_x = -scale * inverse * sum_gx / n
    to_x = _affine(x, along_x, -scale * sum_g / n - along_x * mean)
    return to_x.addcmul_(g, _by_channel(scale, x)), sum_gx, sum_g


def _dots(u, v):
    """Σ u v of each channel."""
    return _sums(u, v, v.new_zeros(v.shape[1]), v.new_ones(v.shape[1]))[0]


def _sums(g, x, mean, inverse):
    """(Σ g x̂, Σ g) of each channel."""
    channels = len(mean)
    if not (_sums_are_precise(x) or _are_few(x)):
        g, x = _by_place(g), _by_place(x)
        places = x.shape[1] // channels
        mean, inverse = mean.repeat(places), inverse.repeat(places)
    found = torch.ops.aten.native_batch_norm_backward(
        g, x, torch.ones_like(mean), None, None, mean, inverse, True, 0.0, (False, True, True)
    )
    return [s.view(-1, channels).sum(0) for s in found[1:]]


def _sums_are_precise(x):
    return x.ndim != 4 or x.is_contiguous()


def _are_few(x):
    return x.numel() // x.shape[1] <= FEW


def _by_place(x):
    """x with each column of the image, or where there are many examples each pixel, as a channel of its own.

    (examples, width x channels, height, 1) or (examples, height x width x channels, 1, 1), a view of what has channels
    last in memory.
    """
    rows = x.permute(0, 2, 3, 1)
    if x.shape[0] * x.shape[2] <= SHORT:
        return rows.flatten(2)[:, :, None].permute(0, 3, 1, 2)
    return rows.flatten(1)[:, :, None, None]


def _affine(x, factor, constant):
    """factor x + constant, both of shape (channels,)."""
    zero, one = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    return torch.native_batch_norm(x, factor, constant, zero, one, False, 0.0, 0.0)[0]


def _by_channel(values, x):
    return values.view(-1, *[1] * (x.ndim - 2))
