"""What tasks are made of: sets of characters, built in and loaded."""

from .characters import Characters, load_characters
