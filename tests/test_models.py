"""The two networks: shapes, sizes, and normalisation by the batch at hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mamlcourse import MLP, Conv4, InputError
from mamlcourse.engine.inspection import normalisation_parameters, refuse_running_statistics


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("downsampling", ["max-pool", "stride"])
def test_conv4_has_the_published_size(downsampling):
    # First convolution 1 x 64 x 9 + 64, three of 64 x 64 x 9 + 64, four gains and biases, head 64 x 5 + 5.
    assert size(Conv4(5, 64, downsampling)) == 640 + 3 * 36_928 + 4 * 128 + 325 == 112_261
    assert size(Conv4(20, 64, downsampling)) == 112_261 + 15 * 65
    assert size(Conv4(3, 2, downsampling)) == 20 + 3 * 38 + 4 * 4 + 9


@pytest.mark.parametrize("downsampling, sides", [("max-pool", [14, 7, 3, 1]), ("stride", [14, 7, 4, 2, 1])])
def test_conv4_halves_the_picture_four_times(downsampling, sides):
    model, seen = Conv4(7, 6, downsampling), []
    for layer in model.features:
        layer.register_forward_hook(lambda layer, x, y: seen.append(y.shape[-1]) if y.ndim == 4 else None)
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 7)
    assert [side for side, before in zip(seen, [28, *seen]) if side != before] == sides


@pytest.mark.parametrize("downsampling", ["max-pool", "stride"])
def test_conv4_normalises_by_the_batch_in_both_modes_and_keeps_nothing(downsampling):
    model = Conv4(5, 6, downsampling)
    refuse_running_statistics(model)
    assert list(model.buffers()) == []
    assert len(normalisation_parameters(model)) == 8
    x = torch.rand(4, 1, 28, 28)
    together, alone = model.features(x), model.features(x[:2])
    assert not torch.allclose(together[:2], alone)
    torch.testing.assert_close(model.eval().features(x), together)


@pytest.mark.parametrize("downsampling", ["max-pool", "stride"])
def test_an_untrained_conv4_gives_every_class_the_same_chance(downsampling):
    model = Conv4(5, 6, downsampling)
    assert torch.equal(model(torch.rand(4, 1, 28, 28)), torch.zeros(4, 5))
    assert model.features(torch.rand(4, 1, 28, 28)).std() > 0


def test_mlp_has_the_published_size():
    model = MLP()
    assert size(model) == (1 + 1) * 40 + 41 * 40 + 41 == 1_761
    assert model(torch.rand(9, 1)).shape == (9, 1)
    assert [type(layer) for layer in model.features] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]
    assert MLP(3, 8, 2)(torch.rand(4, 3)).shape == (4, 2)
    assert size(MLP(3, 8, 2)) == 4 * 8 + 9 * 8 + 9 * 2


def test_numpy_numbers_are_numbers():
    assert Conv4(np.int64(3), np.int32(4))(torch.rand(2, 1, 28, 28)).shape == (2, 3)
    assert MLP(np.int64(2), np.int64(4), np.int64(3))(torch.rand(5, 2)).shape == (5, 3)


@pytest.mark.parametrize("value", [0, -1, 2.0, math.nan, "5", None, True], ids=repr)
@pytest.mark.parametrize(
    "network, name", [(Conv4, "ways"), (Conv4, "filters"), (MLP, "inputs"), (MLP, "hidden"), (MLP, "outputs")]
)
def test_bad_sizes_get_one_clear_sentence(network, name, value):
    with pytest.raises(InputError) as caught:
        network(**{name: value})
    assert str(caught.value) == f"{name}: expected an integer at least 1, got {value!r}."


def test_unknown_reduction_names_the_nearest():
    with pytest.raises(InputError, match="downsampling 'maxpool' is unknown. Did you mean 'max-pool'"):
        Conv4(downsampling="maxpool")
