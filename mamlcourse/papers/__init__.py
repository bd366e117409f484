"""The papers' Omniglot runs (`reproduction`), and their table beside ours (`tables`)."""
