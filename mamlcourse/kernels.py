"""Faster layers for meta-gradients, put under any model from outside while its meta-gradients are worked out.

Models are written with ordinary layers and know nothing of this; the numbers are the same within rounding.

* Most of the time of a meta-gradient goes to differentiating gradients. PyTorch does that for batch normalisation with
  some thirty passes over the activations; in closed form it takes eight.
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


class Instead(TorchFunctionMode):
    """Within it, in the thread that entered it, other functions are called than those that the layers name."""

    def __init__(self, others: dict):
        super().__init__()
        self.others = others

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        return self.others.get(function, function)(*arguments, **(keywords or {}))


def for_loop(model: nn.Module):
    """A context for meta-gradients of one task after the other."""
    # Entering the mode costs a little at each call of PyTorch, so a model that gains nothing goes without.
    normalises = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())
    return Instead({F.batch_norm: _batch_norm}) if normalises else nullcontext()


def for_vmap(model: nn.Module):
    """A context for meta-gradients of all tasks at once. On a CPU `F.conv2d` is the faster one."""
    convolves = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    on_gpu = any(p.device.type == "cuda" for p in model.parameters())
    return Instead({F.conv2d: _conv2d}) if convolves and on_gpu else nullcontext()


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    plain = groups == 1 and not isinstance(padding, str) and input.ndim == 4
    if not plain:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    return unfolded_conv2d(input, weight, bias, stride, padding, dilation)


def unfolded_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1) -> Tensor:
    """`F.conv2d` without groups, as one product of the weights with all patches of the pictures.

    Args:
        x: (examples, channels, height, width).
        weight: (filters, channels, kernel height, kernel width).
        bias: (filters,).
        stride, padding, dilation: whole numbers, or two of them.

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


def batch_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Batch normalisation by the batch's own statistics (Ioffe and Szegedy 2015, algorithm 1), differentiable twice.

    Args:
        x: (examples, channels, ...), more than one value for each channel.
        gain, bias: (channels,).
        eps: added to the variance.

    Returns:
        gain x̂ + bias, as x, with x̂ = (x - mean) / deviation.
    """
    return _BatchNorm.apply(x, gain, bias, eps)


class _BatchNorm(Function):
    @staticmethod
    def forward(ctx, x, gain, bias, eps):
        y, mean, inverse = torch.native_batch_norm(x, gain, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, gain, mean, inverse)
        return y

    @staticmethod
    def backward(ctx, g):
        return *_BatchNormGradient.apply(g, *ctx.saved_tensors), None


class _BatchNormGradient(Function):
    """From the gradient g of the output to those of x, gain and bias:

        gain P(g) / deviation,   Σ g x̂,   Σ g,   where P(g) = g - m(g) - x̂ m(g x̂)

    takes from each channel its mean m and its share along x̂. Mean and deviation are functions of x here.
    """

    @staticmethod
    def forward(ctx, g, x, gain, mean, inverse):
        to_x, sum_gx, sum_g = _gradient(g, x, gain, mean, inverse)
        ctx.save_for_backward(g, x, gain, mean, inverse, sum_gx, sum_g)
        ctx.set_materialize_grads(False)
        return to_x, sum_gx, sum_g

    @staticmethod
    @once_differentiable
    def backward(ctx, v, of_gain, of_bias):
        # v, of_gain and of_bias are the slopes of the outer loss along the three results. The first one's share of it
        # is  n gain A / deviation,  A = m(v g) - m(v) m(g) - m(v x̂) m(g x̂); this differentiates it. Two rules do:
        # ∂deviation/∂x = x̂ / n, and a slope u along x̂ is P(u) / deviation along x.
        g, x, gain, mean, inverse, sum_gx, sum_g = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        to_g, sum_vx, sum_v = _gradient(torch.zeros_like(g) if v is None else v, x, gain, mean, inverse)
        scale = gain * inverse / n
        along_v, along_g = -scale * sum_gx, -scale * sum_vx  # the slope along x̂ is along_v v + along_g g
        if of_gain is not None:
            along_g = along_g + of_gain
        if of_gain is not None or of_bias is not None:
            of_gain = torch.zeros_like(gain) if of_gain is None else of_gain
            of_bias = torch.zeros_like(gain) if of_bias is None else of_bias
            to_g += _affine(x, of_gain * inverse, of_bias - of_gain * inverse * mean)
        if v is None:
            a, along_v = torch.zeros_like(gain), torch.zeros_like(gain)
        else:
            a = (_dots(v, g) - (sum_v * sum_g + sum_vx * sum_gx) / n) / n
        along_x = -inverse * (along_v * sum_vx + along_g * sum_gx) / n - gain * a * inverse**2  # along x̂, that is
        constant = -inverse * (along_v * sum_v + along_g * sum_g) / n
        to_x = _affine(x, along_x * inverse, constant - along_x * inverse * mean)
        to_x.addcmul_(g, _by_channel(along_g * inverse, x))
        if v is not None:
            to_x.addcmul_(v, _by_channel(along_v * inverse, x))
        return to_g, to_x, n * a * inverse, None, None


# Each of these is one call that reads the activations once or twice.


def _gradient(g, x, gain, mean, inverse):
    """(gain P(g) / deviation, Σ g x̂, Σ g)."""
    every = (True, True, True)
    return torch.ops.aten.native_batch_norm_backward(g, x, gain, None, None, mean, inverse, True, 0.0, every)


def _dots(u, v):
    """Σ u v of each channel."""
    zero, one = u.new_zeros(u.shape[1]), u.new_ones(u.shape[1])
    sums = (False, True, False)
    return torch.ops.aten.native_batch_norm_backward(u, v, one, None, None, zero, one, True, 0.0, sums)[1]


def _affine(x, factor, constant):
    """factor x + constant, each a number for each channel."""
    zero, one = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    return torch.native_batch_norm(x, factor, constant, zero, one, False, 0.0, 0.0)[0]


def _by_channel(values, x):
    return values.view(-1, *[1] * (x.ndim - 2))
