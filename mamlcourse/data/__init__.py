"""What tasks are made of: sets of characters, built in and loaded, and anybody's labelled images."""

from .characters import Characters, load_characters
from .images import ClassSplit, LabelledImages, split_classes
