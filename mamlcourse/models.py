"""The networks of the papers: a four-layer convolutional network, a deeper residual one and a small MLP for sinusoids.

All are plain modules. Normalisation uses the statistics of the batch it is given, at test time too: few-shot
practice, and *transductive*, since the queries of a task are then seen together.
"""

from __future__ import annotations

from torch import Tensor, nn

from .errors import InputError, check_choice, check_number

SMALLEST_SIDE = 16  # pixels, of what is halved four times


class Conv4(nn.Module):
    """Four blocks of 3 x 3 convolution, batch normalisation and ReLU, and a linear head.

    Args:
        ways: number of outputs.
        filters: channels of every convolution (64 in Finn et al. 2017).
        downsampling: how a block halves the image: "max-pool", as in MAML++, or "stride", convolutions of stride 2 as
            in Finn's Omniglot code, which ends in a spatial mean.
        channels: of the images: 1 (grey) or 3 (RGB).
        side: of the images, in pixels. With max-pooling the head sees filters x (side // 16)² features.

    The head starts at zero, so that an untrained network gives every class the same chance.

    Input (examples, channels, side, side), output (examples, ways).

    Raises:
        InputError: a number is not positive, the side is below 16 or the downsampling is unknown.
    """

    def __init__(
        self, ways: int = 5, filters: int = 64, downsampling: str = "max-pool", channels: int = 1, side: int = 28
    ):
        super().__init__()
        for name, number in {"ways": ways, "filters": filters, "channels": channels}.items():
            check_number(name, number, at_least=1, integer=True)
        check_number("side", side, at_least=SMALLEST_SIDE, integer=True)
        check_choice("downsampling", downsampling, ("max-pool", "stride"))
        pooled = downsampling == "max-pool"
        layers = []
        for inputs in (channels, filters, filters, filters):
            layers += [
                nn.Conv2d(inputs, filters, kernel_size=3, stride=1 if pooled else 2, padding=1),
                nn.BatchNorm2d(filters, track_running_stats=False),
                nn.ReLU(),
            ]
            layers += [nn.MaxPool2d(2)] if pooled else []
        # 28 pixels become 14, 7, 3 and 1 by pooling, and 14, 7, 4 and 2 by stride.
        layers += [] if pooled else [nn.AdaptiveAvgPool2d(1)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = _head(filters * (side // 16) ** 2 if pooled else filters, ways)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ResNet12(nn.Module):
    """Four residual blocks of three 3 x 3 convolutions, a spatial mean and a linear head (Oreshkin et al. 2018).

    A block has batch normalisation after each convolution, a 1 x 1 convolution as its shortcut, and max-pooling after
    the sum; widths and leaky ReLUs (0.1) are those of Lee et al. 2019, without their DropBlock.

    Args:
        ways: number of outputs.
        filters: channels of each block; (64, 128, 256, 512) in Oreshkin et al. 2018.
        channels: of the images: 1 (grey) or 3 (RGB).

    The head starts at zero, as in `Conv4`.

    Input (examples, channels, height, width), at least 16 pixels on a side; output (examples, ways).

    Raises:
        InputError: a number is not positive, or the filters are not four.
    """

    def __init__(self, ways: int = 5, filters: tuple[int, ...] = (64, 160, 320, 640), channels: int = 3):
        super().__init__()
        if not isinstance(filters, (tuple, list)) or len(filters) != 4:
            raise InputError(f"filters: expected four integers, one for each block, got {filters!r}.")
        for name, number in [("ways", ways), ("channels", channels), *(("filters", width) for width in filters)]:
            check_number(name, number, at_least=1, integer=True)
        blocks = [_Residual(inputs, width) for inputs, width in zip((channels, *filters), filters)]
        self.features = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = _head(filters[-1], ways)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class _Residual(nn.Module):
    def __init__(self, inputs: int, filters: int):
        super().__init__()

        def convolution(inputs, size):
            layer = nn.Conv2d(inputs, filters, size, padding=size // 2, bias=False)
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")
            return [layer, nn.BatchNorm2d(filters, track_running_stats=False)]

        between = nn.LeakyReLU(0.1)
        self.straight = nn.Sequential(
            *convolution(inputs, 3), between, *convolution(filters, 3), between, *convolution(filters, 3)
        )
        self.shortcut = nn.Sequential(*convolution(inputs, 1))
        self.after = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.straight(x) + self.shortcut(x))


def _head(inputs: int, ways: int) -> nn.Linear:
    head = nn.Linear(inputs, ways)
    # Labels are assigned anew in every task, so before adaptation no class deserves a start over another.
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class MLP(nn.Module):
    """Two hidden layers of 40 units with ReLU: the sinusoid network of Finn et al. 2017, section 5.1.

    Args:
        inputs, hidden, outputs: layer widths.

    Input (examples, inputs), output (examples, outputs).
    """

    def __init__(self, inputs: int = 1, hidden: int = 40, outputs: int = 1):
        super().__init__()
        for name, width in {"inputs": inputs, "hidden": hidden, "outputs": outputs}.items():
            check_number(name, width, at_least=1, integer=True)
        self.features = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
