"""Layers of all tasks as one operation each, put under vmap from outside; differentiable twice by ordinary autograd.

Under vmap every task has weights of its own. Here a layer's vmap rule sees the tensors of all T tasks at once and makes
one large operation of them, in one of two ways; which is faster depends on the machine (`engine.choice` measures it):

* `WIDENED`: T tasks are one network with T times the channels. A convolution has T groups, and batch normalisation over
  T x C channels is, in closed form, that of each task. Images stay (examples, tasks x channels, height, width).
* `PRODUCTS`: a convolution is all patches of the images times the weights, one matrix product for each task, as one
  batched product. Images stay (tasks, examples, height, width, channels) in memory: channels last. Copying patches out
  and adding them back in place are linear and each other's adjoint, so derivatives of every order are these two and
  products.

Autograd's graph is of the whole batch, *below* vmap (`autodiff.Below`): what a rule does is what is differentiated.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_functorch_wrapped_tensor, is_gradtrackingtensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .kernels import BatchNorm, Convolution


def of_all_tasks(rule):
    """A function to be called within vmap, which does there what `rule(info, in_dims, *arguments)` says: that gets the
    tensors of all tasks, and returns (result, the dimension of the tasks in it)."""

    class OfAllTasks(Function):
        @staticmethod
        def forward(*arguments):
            raise NotImplementedError("only within vmap")

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        vmap = staticmethod(rule)

    return OfAllTasks.apply


def tasks_first(x: Tensor, dim: int | None, tasks: int) -> Tensor:
    """x with the dimension of the tasks in front; the same for each task where it has none."""
    return x.expand(tasks, *x.shape) if dim is None else x.movedim(dim, 0)


def _layer(original, rule):
    """What computes a layer: by the rule where a tensor is of all tasks, else as PyTorch does."""
    by_rule = of_all_tasks(rule)

    def call(*arguments):
        # A model that differentiates by itself, with `torch.func`, does so above vmap: no rule is for that.
        known = _any(is_batchedtensor, arguments) and not _any(is_gradtrackingtensor, arguments)
        return (by_rule if known else original)(*arguments)

    return call


def _any(is_so, arguments):
    return any(isinstance(t, Tensor) and is_so(t) for t in arguments)


def _two(n) -> list[int]:
    return [n, n] if isinstance(n, int) else list(n)


# What a model's layers call, with PyTorch's signatures. What is not known here is left to PyTorch.


def _conv2d_by(layer):
    def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        same_type = input.dtype == weight.dtype and (bias is None or bias.dtype == input.dtype)
        if input.ndim != 4 or isinstance(padding, str) or not same_type:
            return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        return layer(input, weight, bias, *(_two(n) for n in (stride, padding, dilation)), groups)

    return conv2d


def _batch_norm_by(layer):
    def batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
        own_statistics = running_mean is None and running_var is None and training
        several = input.numel() > input.shape[1]  # of a single value for each channel F.batch_norm says what is wrong
        weights = [input.new_ones(input.shape[1]) if weight is None else weight]
        weights += [input.new_zeros(input.shape[1]) if bias is None else bias]
        if not own_statistics or not several or any(w.dtype != input.dtype for w in weights):
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return layer(input, *weights, eps)

    return batch_norm


def _max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    how = (kernel_size, stride, padding, dilation, ceil_mode)
    if return_indices or input.ndim != 4:
        return F.max_pool2d(input, *how, return_indices)
    return _widened_max_pool2d(input, *how)


def _adaptive_avg_pool2d(input, output_size):
    # A mean, as which PyTorch computes it too, but with a step for which vmap has no rule.
    to_one = output_size in (1, (1, 1), [1, 1])
    return input.mean((-2, -1), keepdim=True) if to_one else F.adaptive_avg_pool2d(input, output_size)


def _native_batch_norm(x, weight, bias, eps):
    return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)


# T times the channels.


def _widened(x, dim, tasks):
    """(tasks, examples, channels, ...) as (examples, tasks x channels, ...): a view where the last layer left it so."""
    return tasks_first(x, dim, tasks).movedim(0, 1).flatten(1, 2)


def _now(alone, layer, *arguments):
    """The widened layer; where a user's vmap is around this one, that is next."""
    return (layer if _any(is_functorch_wrapped_tensor, arguments) else alone)(*arguments)


def _widened_conv2d_rule(info, dims, x, weight, bias, stride, padding, dilation, groups):
    tasks = info.batch_size
    weight = tasks_first(weight, dims[1], tasks).flatten(0, 1)
    bias = None if bias is None else tasks_first(bias, dims[2], tasks).reshape(-1)
    how = (stride, padding, dilation, groups * tasks)
    y = _now(Convolution.apply, _widened_conv2d, _widened(x, dims[0], tasks), weight, bias, *how)
    return y.unflatten(1, (tasks, -1)), 1


def _widened_batch_norm_rule(info, dims, x, weight, bias, eps):
    tasks = info.batch_size
    weight, bias = (tasks_first(t, dim, tasks).reshape(-1) for t, dim in zip((weight, bias), dims[1:]))
    x = _widened(x, dims[0], tasks).contiguous()  # in which order the sums are precise
    return _now(BatchNorm.apply, _widened_batch_norm, x, weight, bias, eps).unflatten(1, (tasks, -1)), 1


def _widened_max_pool2d_rule(info, dims, x, *how):
    x = _widened(x, dims[0], info.batch_size)
    return _now(F.max_pool2d, _widened_max_pool2d, x, *how).unflatten(1, (info.batch_size, -1)), 1


_widened_conv2d = _layer(F.conv2d, _widened_conv2d_rule)
_widened_batch_norm = _layer(_native_batch_norm, _widened_batch_norm_rule)
_widened_max_pool2d = _layer(F.max_pool2d, _widened_max_pool2d_rule)

WIDENED = {
    F.conv2d: _conv2d_by(_widened_conv2d),
    F.batch_norm: _batch_norm_by(_widened_batch_norm),
    F.max_pool2d: _max_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
}


# Products. Images are (images, height, width, channels) below, those of all tasks together.


def patches_of(x: Tensor, window: Window) -> Tensor:
    """All patches of the images, (images x places, kernel height x kernel width x channels), in one copy."""
    (top, left), (down, right), (tall, wide) = window.padding, window.stride, window.kernel
    x = F.pad(x, (0, 0, left, left, top, top)) if top or left else x.contiguous()
    image, row, column, channel = x.stride()
    places = window.places(x.shape[1] - 2 * top, x.shape[2] - 2 * left)
    apart = (row * window.dilation[0], column * window.dilation[1])
    strides = (image, row * down, column * right, *apart, channel)
    view = x.as_strided((len(x), *places, tall, wide, x.shape[-1]), strides)
    return view.reshape(len(x) * places[0] * places[1], tall * wide * x.shape[-1])


def added_in_place(patches: Tensor, shape: torch.Size, window: Window) -> Tensor:
    """The adjoint of `patches_of`: images of this shape, each pixel the sum of what the patches have for it."""
    images, height, width, channels = shape
    (top, left), (down, right), (tall, wide) = window.padding, window.stride, window.kernel
    rows, columns = window.places(height, width)
    patches = patches.view(images, rows, columns, tall, wide, channels)
    x = patches.new_zeros(images, height + 2 * top, width + 2 * left, channels)
    for i in range(tall):
        for j in range(wide):
            y, z = i * window.dilation[0], j * window.dilation[1]
            seen = x[:, y : y + down * (rows - 1) + 1 : down, z : z + right * (columns - 1) + 1 : right]
            seen += patches[:, :, :, i, j]
    return x[:, top : top + height, left : left + width]


class Window(NamedTuple):
    """Where a convolution looks; each a pair for height and width."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def places(self, height: int, width: int) -> tuple[int, int]:
        """How many rows and columns of places there are on an image."""
        return tuple(
            (size + 2 * around - apart * (reach - 1) - 1) // step + 1
            for size, reach, step, around, apart in zip((height, width), *self)
        )


class Patches(Function):
    """`patches_of` with its derivative."""

    @staticmethod
    def forward(ctx, x, window):
        ctx.shape, ctx.window = x.shape, window
        return patches_of(x, window)

    @staticmethod
    def backward(ctx, g):
        return AddedInPlace.apply(g, ctx.shape, ctx.window), None


class AddedInPlace(Function):
    """`added_in_place` with its derivative."""

    @staticmethod
    def forward(ctx, patches, shape, window):
        ctx.window = window
        return added_in_place(patches, shape, window)

    @staticmethod
    def backward(ctx, g):
        return Patches.apply(g, ctx.window), None, None


def _product_conv2d_rule(info, dims, x, weight, bias, stride, padding, dilation, groups):
    if groups > 1 or _any(is_functorch_wrapped_tensor, (x, weight, bias)):
        return _widened_conv2d_rule(info, dims, x, weight, bias, stride, padding, dilation, groups)
    tasks = info.batch_size
    x = tasks_first(x, dims[0], tasks).movedim(2, -1)  # channels last
    weight = tasks_first(weight, dims[1], tasks).permute(0, 3, 4, 2, 1)  # filters last
    window = Window(tuple(weight.shape[1:3]), tuple(stride), tuple(padding), tuple(dilation))
    patches = Patches.apply(x.flatten(0, 1), window).unflatten(0, (tasks, -1))
    weight = weight.flatten(1, 3)
    if bias is None:
        y = torch.bmm(patches, weight)
    else:
        y = torch.baddbmm(tasks_first(bias, dims[2], tasks)[:, None], patches, weight)
    return y.unflatten(1, (x.shape[1], *window.places(*x.shape[2:4]))).movedim(-1, 2), 0


def _product_batch_norm_rule(info, dims, x, weight, bias, eps):
    if _any(is_functorch_wrapped_tensor, (x, weight, bias)):
        return _widened_batch_norm_rule(info, dims, x, weight, bias, eps)
    tasks = info.batch_size
    x = tasks_first(x, dims[0], tasks).movedim(2, -1)  # channels last
    weight, bias = (tasks_first(t, dim, tasks) for t, dim in zip((weight, bias), dims[1:]))
    y = RowsBatchNorm.apply(x.flatten(1, -2), weight, bias, eps)
    return y.view(x.shape).movedim(-1, 2), 0


class RowsBatchNorm(Function):
    """Batch normalisation of (tasks, rows, channels) over the rows, with weight and bias (tasks, channels)."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        inverse = (centred.square().mean(1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, inverse)
        return torch.addcmul(bias[:, None], centred, weight[:, None] * inverse)

    @staticmethod
    def backward(ctx, g):
        x, weight, mean, inverse = ctx.saved_tensors
        gradient = RowsBatchNormGradient.apply if torch.is_grad_enabled() else _rows_gradient
        to_x, to_weight, to_bias = gradient(g, x, weight[:, None], mean, inverse)
        return to_x, to_weight[:, 0], to_bias[:, 0], None


class RowsBatchNormGradient(Function):
    """As `kernels.BatchNormGradient`, by rows, with the means of g and g x̂ for their sums."""

    @staticmethod
    def forward(ctx, g, x, weight, mean, inverse):
        to_x, mean_gx, mean_g = _rows_gradient_by_means(g, x, weight, mean, inverse)
        ctx.save_for_backward(g, x, weight, mean, inverse, mean_gx, mean_g)
        return to_x, x.shape[1] * mean_gx, x.shape[1] * mean_g

    @staticmethod
    @once_differentiable
    def backward(ctx, v, of_weight, of_bias):
        # P is symmetric, so that m(v P(g)) = m(g P(v)), and P(v) is all that is computed of v.
        g, x, weight, mean, inverse, mean_gx, mean_g = ctx.saved_tensors
        normal, scale = (x - mean).mul_(inverse), weight * inverse
        v, mean_vx, _ = _projected(v, normal)
        to_g = torch.addcmul(of_bias, v, scale).addcmul_(normal, of_weight)
        dots = inverse * (g * v).mean(1, keepdim=True)
        along_v, along_g = scale * mean_gx * inverse, torch.addcmul(of_weight, scale, mean_vx, value=-1) * inverse
        to_x = (g * along_g).sub_(along_g * mean_g).addcmul_(v, along_v, value=-1)
        to_x.addcmul_(normal, torch.addcmul(scale * dots, along_g, mean_gx), value=-1)
        return to_g, to_x, x.shape[1] * dots, None, None


def _rows_gradient(g, x, weight, mean, inverse):
    """(γ P(g) / σ, Σ g x̂, Σ g), the sums (tasks, 1, channels)."""
    to_x, mean_gx, mean_g = _rows_gradient_by_means(g, x, weight, mean, inverse)
    return to_x, x.shape[1] * mean_gx, x.shape[1] * mean_g


def _rows_gradient_by_means(g, x, weight, mean, inverse):
    projected, mean_gx, mean_g = _projected(g, (x - mean).mul_(inverse))
    return projected.mul_(weight * inverse), mean_gx, mean_g


def _projected(u, normal):
    """(P(u), m(u x̂), m(u)), with `normal` for x̂; the means (tasks, 1, channels)."""
    mean_ux, mean_u = (u * normal).mean(1, keepdim=True), u.mean(1, keepdim=True)
    return (u - mean_u).addcmul_(normal, mean_ux, value=-1), mean_ux, mean_u


PRODUCTS = {
    F.conv2d: _conv2d_by(_layer(F.conv2d, _product_conv2d_rule)),
    F.batch_norm: _batch_norm_by(_layer(_native_batch_norm, _product_batch_norm_rule)),
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
}
