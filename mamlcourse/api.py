"""The names of the package: `from mamlcourse import MAML` finds them here."""

from .data import Characters, load_characters, split_classes
from .errors import InputError
from .evaluation import Evaluation, evaluate
from .learner import MAML, Reptile, Trajectory, learner
from .models import MLP, Conv4, ResNet12
from .settings import RECIPES, Settings, recipe
from .tasks import CharacterTasks, FunctionTasks, ImageTasks, SinusoidTasks, TaskBatch
from .training import History, load_checkpoint, train, train_maml
