"""Looking at adaptation: widgets, their figures, and the loss landscape."""

from .pad import DrawingPad
from .widgets import SinusoidExplorer, TrainingMonitor, TrajectoryExplorer
