"""`python -m mamlcourse` is the `mamlcourse` command."""

from .cli import main

if __name__ == "__main__":
    main()
