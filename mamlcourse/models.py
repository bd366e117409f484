"""The networks of the papers: a four-layer convolutional network for characters and a small MLP for sinusoids.

Both are plain modules. Normalisation uses the statistics of the batch it is given, at test time too: few-shot
practice, and *transductive*, since the queries of a task are then seen together.
"""

from __future__ import annotations

from torch import Tensor, nn

from .errors import check_choice, check_number


class Conv4(nn.Module):
    """Four blocks of 3 x 3 convolution, batch normalisation and ReLU, and a linear head.

    Args:
        ways: number of outputs.
        filters: channels of every convolution (64 in Finn et al. 2017).
        downsampling: how a block halves the image: "max-pool", as in MAML++, or "stride", convolutions of stride 2 as
            in Finn's Omniglot code, which ends in a spatial mean.

    The head starts at zero, so that an untrained network gives every class the same chance.

    Input (examples, 1, 28, 28), output (examples, ways).

    Raises:
        InputError: a number is not positive or the downsampling is unknown.
    """

    def __init__(self, ways: int = 5, filters: int = 64, downsampling: str = "max-pool"):
        super().__init__()
        check_number("ways", ways, at_least=1, integer=True)
        check_number("filters", filters, at_least=1, integer=True)
        check_choice("downsampling", downsampling, ("max-pool", "stride"))
        pooled = downsampling == "max-pool"
        layers = []
        for channels in (1, filters, filters, filters):
            layers += [
                nn.Conv2d(channels, filters, kernel_size=3, stride=1 if pooled else 2, padding=1),
                nn.BatchNorm2d(filters, track_running_stats=False),
                nn.ReLU(),
            ]
            layers += [nn.MaxPool2d(2)] if pooled else []
        # 28 pixels become 14, 7, 3 and 1 by pooling, and 14, 7, 4 and 2 by stride.
        layers += [] if pooled else [nn.AdaptiveAvgPool2d(1)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(filters, ways)
        # Labels are assigned anew in every task, so before adaptation no class deserves a start over another.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


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
