"""The outer loop: training, its checkpoints, CUDA graphs and several processes."""

from .checkpoints import load_checkpoint, load_parameters
from .loop import History, outer_lr_at, train, train_maml
