"""`python -m mamlcourse` is the `mamlcourse` command."""

import sys


def main() -> None:
    """The command; Ctrl-C is one line from the first import on."""
    try:
        from mamlcourse.cli import main as run

        run()
    except KeyboardInterrupt:
        print("mamlcourse: stopped.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
