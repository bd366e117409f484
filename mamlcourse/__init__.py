"""Learn MAML, FOMAML and MAML++ by building them: the helper package of the course."""

from .data import Characters, load_characters
from .errors import InputError
from .evaluation import Evaluation, evaluate
from .learner import MAML, Reptile, Trajectory, learner
from .models import MLP, Conv4
from .settings import RECIPES, Settings, recipe
from .tasks import CharacterTasks, SinusoidTasks, TaskBatch
from .training import History, load_checkpoint, train, train_maml

__version__ = "0.1.0"
