"""The papers' Omniglot runs (`reproduction`), and their table beside ours (`tables`)."""

SETTINGS = {"5w1s": (5, 1), "5w5s": (5, 5), "20w1s": (20, 1), "20w5s": (20, 5)}  # (ways, shots)
ALGORITHMS = ("maml", "fomaml", "maml++", "fomaml++", "reptile", "anil", "protonet", "protomaml")
