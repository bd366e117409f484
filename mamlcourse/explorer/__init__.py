"""Looking at adaptation: widgets, their figures, and the loss landscape."""

from .widgets import SinusoidExplorer, TrainingMonitor, TrajectoryExplorer
