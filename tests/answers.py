"""Answers to the exercises as students write them, each with what must be said of it.

For each part its head, and pairs (what the check must say, body): "" where the answer is right; "a|b" for either. All of
them are run through the check that students see and through the hidden tests; test_exercises.py does that.
"""

# ruff: noqa: E501 - an answer is easier to read in few lines

HEADS = {
    "split": "def split_classes(alphabets, test_alphabets):",
    "episode": "def sample_episode(images, ways, shots, queries, generator):",
    "rotated": "def rotate_classes(images):",
    "by_hand": "def meta_gradient_by_hand(theta, H, a, G, b, alpha):",
    "by_autograd": "def meta_gradient_by_autograd(theta, support_loss, query_loss, alpha, steps):",
    "many_by_hand": "def meta_gradient_of_steps(theta, H, a, G, b, alpha, steps):",
    "inner_step": "def inner_step(parameters, x, y, alpha):",
    "inner_loop": "def adapt(parameters, x, y, steps, alpha):",
    "head_alone": "def adapt_head(parameters, x, y, steps, alpha):",
    "outer_loop": "def meta_train(task_loss, parameters, batches, outer_lr):",
    "every_task_counts": "def every_task_counts(meta_gradient, task_loss, parameters, batch):",
    "reptile_step": "def reptile_step(parameters, adapted, outer_lr):",
    "first_order": "def first_order_step(loss, parameters, alpha):",
    "builds_a_graph": "def builds_a_graph(step, loss, parameters, alpha):",
    "left_out": "def left_out(loss, parameters, vector, alpha):",
    "paired_interval": "def paired_interval(first, second):",
    "costs": "def costs(seconds, other_seconds, peaks, other_peaks):",
    "verdict": "def verdict(difference, half_width):",
    "tasks_needed": "def tasks_needed(differences, half_width):",
    "loss_weights": "def loss_weights(steps, epoch, epochs):",
    "multi_step_loss": "def multi_step_loss(parameters, inner_step, query_loss, weights):",
    "query_passes": "def query_passes(steps, annealed, epochs):",
    "learned_rates": "def adapt(loss, parameters, learning_rates, steps):",
    "step_norm": "def step_norm(x, gamma, beta, step, epsilon=1e-5):",
    "step_layer_norm": "def step_layer_norm(x, gamma, beta, step, epsilon=1e-5):",
    "problem": "def build_tasks(part, seed):",
    "evidence": "",
    "choose": "def choose(behind, half_width, times_faster, margin):",
}

# What several answers of a part begin with.
COUNTS = "before = meta_gradient(task_loss, parameters, batch)\n"
CLOSE = "all(torch.allclose(after[n], before[n], rtol=1e-4, atol=1e-6) for n in before)"
EPISODE = """
order = torch.randperm(len(images), generator=generator)[:ways]
sx, sy, qx, qy = [], [], [], []
for label, c in enumerate(order):
    e = torch.randperm(images.shape[1], generator=generator)
    sx.append(images[c][e[:shots]])
    qx.append(images[c][e[shots:shots + queries]])
    sy += [label] * shots
    qy += [label] * queries
make = lambda x: torch.cat(x).float().unsqueeze(1) / 255
return make(sx), torch.tensor(sy), make(qx), torch.tensor(qy)
"""
ADAPT = """
for k in range(steps):
    gs = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=True)
    parameters = {n: p - learning_rates[n][min(k, len(learning_rates[n]) - 1)] * g
                  for (n, p), g in zip(parameters.items(), gs)}
return parameters
"""
NORM = """
dims = (0, 2, 3)
mean = x.mean(dims, keepdim=True)
variance = x.var(dims, correction=0, keepdim=True)
k = min(step, len(gamma) - 1)
g, b = gamma[k].view(1, -1, 1, 1), beta[k].view(1, -1, 1, 1)
return g * (x - mean) / (variance + epsilon).sqrt() + b
"""
TRAIN = """
losses = []
for batch in batches:
    start = {n: p.detach().clone().requires_grad_() for n, p in parameters.items()}
    mean = sum(task_loss(start, *task) for task in zip(*batch)) / len(batch[0])
    gs = torch.autograd.grad(mean, list(start.values()))
    parameters = {n: (p - outer_lr * g).detach() for (n, p), g in zip(start.items(), gs)}
    losses.append(mean.item())
return parameters, losses
"""
META = """
start = theta.detach().clone().requires_grad_()
adapted = start
for _ in range(steps):
    (g,) = torch.autograd.grad(support_loss(adapted), adapted, create_graph=True)
    adapted = adapted - alpha * g
return torch.autograd.grad(query_loss(adapted), start)[0]
"""
WAVES = """
g = torch.Generator().manual_seed(2 * seed + (part == "test"))
while True:
    phase = torch.rand(5, 1, 1, generator=g)
    x = torch.rand(5, 10, 1, generator=g)
    y = torch.sin(6 * x + 6 * phase)
    yield TaskBatch(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])
"""
MEASURED = """
g = torch.Generator().manual_seed(0)
low, high = torch.rand(60, generator=g), torch.rand(60, generator=g) + 1
measured = {"maml": {"scores": high.tolist(), "seconds": 3.0}, "fomaml": {"scores": low.tolist(), "seconds": 2.0}}
choice, claim = "maml", "better"
"""


def changed(body, *pairs):
    """The body with some words exchanged; each must be in it."""
    for old, new in pairs:
        assert old in body, old
        body = body.replace(old, new)
    return body


ANSWERS = {
    "split": [
        ("", "train = [c for c, a in enumerate(alphabets) if a not in test_alphabets]\n"
             "return [train, [c for c in range(len(alphabets)) if c not in train]]"),
        ("", "train = {c for c, a in enumerate(alphabets) if a not in test_alphabets}\n"
             "return list(train), list(set(range(len(alphabets))) - train)"),
        ("", "both = [], []\nfor c in reversed(range(len(alphabets))):\n"
             "    both[alphabets[c] in test_alphabets].append(c)\nreturn both"),
        ("", "import numpy as np\nkept = np.isin(np.array(alphabets), sorted(test_alphabets))\n"
             "return list(np.flatnonzero(~kept)), list(np.flatnonzero(kept))"),
        ("", "kept = torch.tensor([a in test_alphabets for a in alphabets])\n"
             "return (~kept).nonzero().flatten().tolist(), kept.nonzero().flatten().tolist()"),
        ("caller's `test_alphabets`", "test = []\nwhile test_alphabets:\n    a = test_alphabets.pop()\n"
             "    test += [c for c, b in enumerate(alphabets) if b == a]\n"
             "return [c for c in range(len(alphabets)) if c not in test], test"),
        ("caller's `alphabets`", "test = [c for c, a in enumerate(alphabets) if a in test_alphabets]\n"
             "train = [c for c, a in enumerate(alphabets) if a not in test_alphabets]\nalphabets.sort()\n"
             "alphabets.append('x')\nreturn train, test"),
        ("got names of alphabets", "return [a for a in alphabets if a not in test_alphabets], "
             "[a for a in alphabets if a in test_alphabets]"),
        ("two parts are exchanged", "return [c for c, a in enumerate(alphabets) if a in test_alphabets], "
             "[c for c, a in enumerate(alphabets) if a not in test_alphabets]"),
        ("keep whole alphabets apart|in neither|expected", "n = len(alphabets) // 2\n"
             "return list(range(n)), list(range(n, len(alphabets)))"),
        ("is in both parts", "return list(range(len(alphabets))), "
             "[c for c, a in enumerate(alphabets) if a in test_alphabets]"),
        ("expected integers|twice|test classes", "return [c + 1 for c, a in enumerate(alphabets) if a not in test_alphabets], "
             "[c + 1 for c, a in enumerate(alphabets) if a in test_alphabets]"),
        ("`return` missing", "train = [c for c, a in enumerate(alphabets) if a not in test_alphabets]"),
        ("not answered yet", "..."),
        ("not answered yet", "raise NotImplementedError()"),
    ],
    "episode": [
        ("", EPISODE),
        ("", changed(EPISODE, ("return make(sx), torch.tensor(sy), make(qx), torch.tensor(qy)",
                               "return [make(sx), torch.tensor(sy), make(qx), torch.tensor(qy)]"))),
        ("", """
classes = torch.randperm(images.size(0), generator=generator)[:ways]
picked = torch.stack([torch.randperm(images.size(1), generator=generator)[:shots + queries] for _ in classes])
x = images[classes[:, None], picked].to(torch.float32).div(255).unsqueeze(2)
y = torch.arange(ways)[:, None].expand(ways, shots + queries)
cut = lambda t, a, b: t[:, a:b].flatten(0, 1)
n = shots + queries
return cut(x, 0, shots), cut(y, 0, shots).clone(), cut(x, shots, n), cut(y, shots, n).clone()
"""),
        ("", """
parts = [[], [], [], []]
pool = list(range(len(images)))
for label in range(ways):
    c = pool.pop(torch.randint(len(pool), (), generator=generator).item())
    for place, e in enumerate(torch.randperm(images.shape[1], generator=generator)[:shots + queries].tolist()):
        side = 0 if place < shots else 2
        parts[side].append(images[c, e][None].float() / 255)
        parts[side + 1].append(label)
shuffle = torch.randperm(ways * queries, generator=generator)
return (torch.stack(parts[0]), torch.tensor(parts[1]), torch.stack(parts[2])[shuffle], torch.tensor(parts[3])[shuffle])
"""),
        ("do not seed it", "generator.manual_seed(0)" + EPISODE),
        ("do not seed it", "generator = torch.Generator().manual_seed(generator.initial_seed())" + EPISODE),
        ("anew, inside the loop", changed(EPISODE, ("    e = torch.randperm(images.shape[1], generator=generator)\n", ""),
            ("sx, sy", "e = torch.randperm(images.shape[1], generator=generator)\nsx, sy"))),
        ("class 6 never|class 7 never|class 8 never", changed(EPISODE, ("randperm(len(images),", "randperm(len(images) - 1,"))),
        ("class 0 never", changed(EPISODE, ("randperm(len(images), generator=generator)", "randperm(len(images) - 1, generator=generator).add(1)"))),
        ("example 6 never", changed(EPISODE, ("randperm(images.shape[1],", "randperm(images.shape[1] - 1,"))),
        ("in both support|support examples appear", changed(EPISODE, ("e[shots:shots + queries]", "e[:queries]"))),
        ("without replacement|in the query set", changed(EPISODE, ("torch.randperm(images.shape[1], generator=generator)",
            "torch.randint(images.shape[1], (images.shape[1],), generator=generator)"))),
        ("without replacement|in the query set", changed(EPISODE, ("torch.randperm(len(images), generator=generator)[:ways]",
            "torch.randint(len(images), (ways,), generator=generator)"))),
        ("indices in the data set", changed(EPISODE, ("[label] *", "[c.item()] *"))),
        ("Assign the labels at random", changed(EPISODE, ("[:ways]", "[:ways].sort().values"))),
        ("every episode holds the same", changed(EPISODE, ("torch.randperm(len(images), generator=generator)[:ways]", "torch.randperm(ways, generator=generator)"))),
        ("from the generator", changed(EPISODE, ("torch.randperm(len(images), generator=generator)", "torch.randperm(len(images))"))),
        ("same examples of a class", changed(EPISODE, ("torch.randperm(images.shape[1], generator=generator)", "torch.arange(images.shape[1])"))),
        ("still bytes", changed(EPISODE, (".float()", ""), (" / 255", ""))),
        ("so that ink is 1", changed(EPISODE, (" / 255", ""))),
        ("lacks", changed(EPISODE, (".unsqueeze(1)", ""))),
        ("expected dtype torch.int64", changed(EPISODE, ("torch.tensor(sy)", "torch.tensor(sy).float()"))),
        ("exchanged", changed(EPISODE, ("return make(sx), torch.tensor(sy), make(qx), torch.tensor(qy)",
            "return make(qx), torch.tensor(qy), make(sx), torch.tensor(sy)"))),
        ("in place|did not", changed(EPISODE, ("order =", "images.div_(2, rounding_mode='floor')\norder ="))),
    ],
    "rotated": [
        ("", "return torch.cat([images.rot90(k, (-2, -1)) for k in range(4)])"),
        ("", "return torch.stack([images.rot90(-k, (-2, -1)) for k in range(4)], 1).flatten(0, 1)"),
        ("missing", "return torch.cat([images] * 4)"),
        ("missing|no turned class", "return torch.cat([images, images.flip(2), images.flip(3), images.flip(2, 3)])"),
        ("expected a tensor of shape", "return torch.rot90(images, 1, (2, 3))"),
        ("got list", "return [torch.rot90(images, k, (2, 3)) for k in range(4)]"),
    ],
    "by_hand": [
        ("", "J = torch.eye(len(theta)) - alpha * H\nreturn J @ G @ (theta - alpha * H @ (theta - a) - b)"),
        ("", "g = (theta - alpha * H.mv(theta - a) - b) @ G\nreturn g - alpha * g @ H"),
        ("", "import numpy as np\nt, H, a, G, b = (v.numpy() for v in (theta, H, a, G, b))\n"
             "g = G @ (t - alpha * H @ (t - a) - b)\nreturn torch.from_numpy(g - alpha * H @ g)"),
        ("torch.eye(n)", "return (1 - alpha * H) @ (G @ (theta - alpha * H @ (theta - a) - b))"),
        ("FOMAML", "return G @ (theta - alpha * H @ (theta - a) - b)"),
        ("has a minus", "g = G @ (theta - alpha * H @ (theta - a) - b)\nreturn g + alpha * H @ g"),
        ("elementwise", "g = G @ (theta - alpha * H @ (theta - a) - b)\nreturn g * (1 - alpha * H.diag())"),
        ("'theta'", "theta -= alpha * H @ (theta - a)\ng = G @ (theta - b)\nreturn g - alpha * H @ g"),
        ("'H'", "g = G @ (theta - alpha * H @ (theta - a) - b)\nH *= alpha\nreturn g - H @ g"),
        ("at theta", "return (torch.eye(len(theta)) - alpha * H) @ G @ (theta - b)"),
        ("use H|Use H", "return (torch.eye(len(theta)) - alpha * G) @ G @ (theta - alpha * H @ (theta - a) - b)"),
        ("expected shape", "g = G @ (theta - alpha * H @ (theta - a) - b)\nreturn (g - alpha * H @ g)[None]"),
        ("not answered yet", "..."),
    ],
    "by_autograd": [
        ("", META),
        ("", "def after(t):\n    for _ in range(steps):\n        t = t - alpha * torch.func.grad(support_loss)(t)\n"
             "    return query_loss(t)\nreturn torch.func.grad(after)(theta)"),
        ("", changed(META, ("return torch.autograd.grad(query_loss(adapted), start)[0]",
                            "query_loss(adapted).backward()\nreturn start.grad"))),
        ("", "return torch.autograd.functional.jacobian(lambda t: query_loss(run(t)), theta)".replace("run(t)",
             "__import__('functools').reduce(lambda p, _: p - alpha * torch.autograd.grad(support_loss(p), p, "
             "create_graph=True)[0], range(steps), t)")),
        ("create_graph=True: the graph", changed(META, (", create_graph=True", ""))),
        ("were computed with create_graph=True", changed(META, ("alpha * g\n", "alpha * g.detach()\n"))),
        ("were computed with create_graph=True", changed(META, ("alpha * g\n", "alpha * g.data\n"))),
        ("out of the tuple", changed(META, ("(g,) =", "g ="))),
        ("out of the tuple", changed(META, ("start)[0]", "start)"))),
        ("requires_grad of the caller", changed(META, ("theta.detach().clone().requires_grad_()", "theta.requires_grad_()"))),
        ("in place", changed(META, ("return", "theta.add_(1)\nreturn"))),
        ("anew after each step", "start = theta.detach().clone().requires_grad_()\n"
             "(g,) = torch.autograd.grad(support_loss(start), start, create_graph=True)\n"
             "return torch.autograd.grad(query_loss(start - steps * alpha * g), start)[0]"),
        ("got 1", changed(META, ("range(steps)", "range(min(steps, 1))"))),
        ("one too many", changed(META, ("range(steps)", "range(steps + 1)"))),
        ("gradient ascent", changed(META, ("adapted - alpha", "adapted + alpha"))),
        ("adapted parameters", changed(META, ("return torch.autograd.grad(query_loss(adapted), start)[0]", "return adapted"))),
        ("no graph", "adapted = theta\nfor _ in range(steps):\n    g = torch.autograd.grad(support_loss(adapted), adapted)[0]\n"
             "    adapted = adapted - alpha * g\nreturn torch.autograd.grad(query_loss(adapted), theta)[0]"),
    ],
    "many_by_hand": [
        ("", "J = torch.linalg.matrix_power(torch.eye(len(theta)) - alpha * H, steps)\n"
             "return J @ G @ (J @ (theta - a) + a - b)"),
        ("once for each step, not once|got 1", "t = theta\nfor _ in range(steps):\n    t = t - alpha * H @ (t - a)\n"
             "g = G @ (t - b)\nreturn g - alpha * H @ g"),
        ("FOMAML", "t = theta\nfor _ in range(steps):\n    t = t - alpha * H @ (t - a)\nreturn G @ (t - b)"),
        ("'theta'", "for _ in range(steps):\n    theta -= alpha * H @ (theta - a)\ng = G @ (theta - b)\n"
             "for _ in range(steps):\n    g = g - alpha * H @ g\nreturn g"),
    ],
    "inner_step": [
        ("", "gs = torch.func.grad(lambda p: mse_loss(predict(p, x), y))(parameters)\n"
             "return {n: p - alpha * gs[n] for n, p in parameters.items()}"),
        ("", "loss = ((predict(parameters, x) - y) ** 2).mean()\n"
             "gs = torch.autograd.grad(loss, parameters.values(), create_graph=True)\n"
             "return dict(zip(parameters, [p - alpha * g for p, g in zip(parameters.values(), gs)]))"),
        ("", "from collections import OrderedDict\nloss = mse_loss(predict(parameters, x), y)\nnew = OrderedDict()\n"
             "for n, p in parameters.items():\n"
             "    new[n] = p - alpha * torch.autograd.grad(loss, p, create_graph=True)[0]\nreturn new"),
        ("create_graph=True: the graph", "gs = torch.autograd.grad(mse_loss(predict(parameters, x), y), list(parameters.values()))\n"
             "return {n: p - alpha * g for (n, p), g in zip(parameters.items(), gs)}"),
        ("were computed with create_graph=True", "gs = torch.autograd.grad(mse_loss(predict(parameters, x), y), "
             "list(parameters.values()), create_graph=True)\n"
             "return {n: p - alpha * g.detach() for (n, p), g in zip(parameters.items(), gs)}"),
        ("the very tensors", "gs = torch.autograd.grad(mse_loss(network(x), y), list(parameters.values()), create_graph=True)\n"
             "return {n: p - alpha * g for (n, p), g in zip(parameters.items(), gs)}"),
        ("parameters that you are given", "own = dict(network.named_parameters())\n"
             "gs = torch.autograd.grad(mse_loss(network(x), y), list(own.values()), create_graph=True)\n"
             "return {n: p - alpha * g for (n, p), g in zip(own.items(), gs)}"),
        ("update any tensor", "for n in list(parameters):\n"
             "    g = torch.autograd.grad(mse_loss(predict(parameters, x), y), parameters[n], create_graph=True)[0]\n"
             "    parameters = {**parameters, n: parameters[n] - alpha * g}\nreturn parameters"),
        ("not the sum", "loss = ((predict(parameters, x) - y) ** 2).sum()\n"
             "gs = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)\n"
             "return {n: p - alpha * g for (n, p), g in zip(parameters.items(), gs)}"),
        ("out of the tuple", "new = {}\nfor n, p in parameters.items():\n"
             "    new[n] = p - alpha * torch.autograd.grad(mse_loss(predict(parameters, x), y), p, create_graph=True)\n"
             "return new"),
        ("of backward()", "mse_loss(predict(parameters, x), y).backward(create_graph=True)\n"
             "return {n: p - alpha * p.grad for n, p in parameters.items()}"),
        ("in place", "gs = torch.autograd.grad(mse_loss(predict(parameters, x), y), list(parameters.values()))\n"
             "for p, g in zip(parameters.values(), gs):\n    p.data -= alpha * g\nreturn parameters"),
        ("input dictionary", "gs = torch.autograd.grad(mse_loss(predict(parameters, x), y), list(parameters.values()), "
             "create_graph=True)\nfor n, g in zip(parameters, gs):\n    parameters[n] = parameters[n] - alpha * g\n"
             "return parameters"),
        ("not answered yet", "..."),
    ],
    "inner_loop": [
        ("", "from functools import reduce\nreturn reduce(lambda p, _: inner_step(p, x, y, alpha), range(steps), parameters)"),
        ("", "return adapt(inner_step(parameters, x, y, alpha), x, y, steps - 1, alpha) if steps else dict(parameters)"),
        ("got 1", "for _ in range(steps):\n    adapted = inner_step(parameters, x, y, alpha)\n"
             "return adapted if steps else parameters"),
        ("one too many|with steps=0", "for _ in range(steps + 1):\n    parameters = inner_step(parameters, x, y, alpha)\nreturn parameters"),
        ("got 3|got 4|off: expected|expected .* steps|steps=0", "for _ in range(steps - 1):\n    parameters = inner_step(parameters, x, y, alpha)\nreturn parameters"),
        ("detached", "for _ in range(steps):\n    parameters = {n: p.detach().requires_grad_() for n, p in "
             "inner_step(parameters, x, y, alpha).items()}\nreturn parameters"),
        ("with steps=0", "p = inner_step(parameters, x, y, alpha)\nfor _ in range(steps - 1):\n"
             "    p = inner_step(p, x, y, alpha)\nreturn p"),
    ],
    "head_alone": [
        ("", "for _ in range(steps):\n    head = {n: p for n, p in parameters.items() if n[:4] == 'head'}\n"
             "    loss = mse_loss(predict(parameters, x), y)\n"
             "    gs = torch.autograd.grad(loss, list(head.values()), create_graph=True)\n"
             "    parameters = parameters | {n: p - alpha * g for (n, p), g in zip(head.items(), gs)}\nreturn parameters"),
        ("all of them moved", "return adapt(parameters, x, y, steps, alpha)"),
        ("off|all of them", "new = adapt(parameters, x, y, steps, alpha)\n"
             "return {n: new[n] if n.startswith('head') else p for n, p in parameters.items()}"),
        ("other way round|off", "for _ in range(steps):\n    new = inner_step(parameters, x, y, alpha)\n"
             "    parameters = {n: p if n.startswith('head') else new[n] for n, p in parameters.items()}\nreturn parameters"),
        ("were computed", "for _ in range(steps):\n    new = inner_step(parameters, x, y, alpha)\n"
             "    parameters = {n: new[n].detach().requires_grad_() if n.startswith('head') else p for n, p in "
             "parameters.items()}\nreturn parameters"),
    ],
    "outer_loop": [
        ("", TRAIN),
        ("", """
losses = []
for batch in batches:
    gs, values = zip(*[torch.func.grad_and_value(task_loss)(parameters, *task) for task in zip(*batch)])
    parameters = {n: p - outer_lr * torch.stack([g[n] for g in gs]).mean(0) for n, p in parameters.items()}
    losses.append(torch.stack(values).mean())
return parameters, losses
"""),
        ("", """
losses = []
for batch in batches:
    run = torch.func.vmap(torch.func.grad_and_value(task_loss), in_dims=(None, 0, 0, 0, 0))
    gs, values = run(parameters, *batch)
    parameters = {n: p - outer_lr * gs[n].mean(0) for n, p in parameters.items()}
    losses += [float(values.mean())]
return [parameters, tuple(losses)]
"""),
        ("", """
theta = {n: p.detach().clone().requires_grad_() for n, p in parameters.items()}
optimizer, losses = torch.optim.SGD(theta.values(), lr=outer_lr), []
for batch in batches:
    optimizer.zero_grad()
    count, total = len(batch[0]), 0.0
    for task in zip(*batch):
        loss = task_loss(theta, *task) / count
        loss.backward()
        total += loss.item()
    optimizer.step()
    losses.append(total)
return theta, losses
"""),
        ("", "import numpy as np" + changed(TRAIN, ("return parameters, losses", "return parameters, np.array(losses)"))),
        ("len(batch[0])", changed(TRAIN, ("len(batch[0])", "len(batch)"))),
        ("len(batch[0])", changed(TRAIN, ("zip(*batch)) / len(batch[0])", "list(zip(*batch))[:4]) / min(len(batch[0]), 4)"))),
        ("last one was left out", changed(TRAIN, ("zip(*batch)) / len(batch[0])",
            "list(zip(*batch))[:max(len(batch[0]) - 1, 1)]) / max(len(batch[0]) - 1, 1)"))),
        ("only the last task", changed(TRAIN, ("sum(task_loss(start, *task) for task in zip(*batch)) / len(batch[0])",
            "[task_loss(start, *task) for task in zip(*batch)][-1]"))),
        ("number of tasks of this batch", changed(TRAIN, ("losses = []\n", "losses, count = [], None\n"),
            ("    mean =", "    count = count or len(batch[0])\n    mean ="), ("/ len(batch[0])", "/ count"))),
        ("Divide by the number", changed(TRAIN, (" / len(batch[0])", ""))),
        ("may be a generator", "n = len(batches)" + TRAIN),
        ("may be a generator", changed(TRAIN, ("for batch in batches:", "for i in range(2):\n    batch = batches[i]"))),
        ("expected a list of|off|only the|came back", "known = [b for b in batches]" + changed(TRAIN, ("in batches", "in (b for b in batches)"))),
        ("requires_grad of the caller", changed(TRAIN, ("p.detach().clone().requires_grad_()", "p.requires_grad_()"))),
        ("Subtract the gradient", changed(TRAIN, ("p - outer_lr", "p + outer_lr"))),
        ("graph of the whole", """
start = {n: p.clone().requires_grad_() for n, p in parameters.items()}
losses = []
for batch in batches:
    mean = sum(task_loss(start, *task) for task in zip(*batch)) / len(batch[0])
    gs = torch.autograd.grad(mean, list(start.values()), retain_graph=True)
    start = {n: p - outer_lr * g for (n, p), g in zip(start.items(), gs)}
    losses.append(mean.item())
return start, losses
"""),
        ("hold their graphs", changed(TRAIN, ("mean.item()", "mean"))),
        ("losses are summed", changed(TRAIN, ("mean.item()", "mean.item() * len(batch[0])"))),
        ("not answered yet", "..."),
    ],
    "every_task_counts": [
        ("", COUNTS + "for i in range(len(batch[0])):\n    other = [p.clone() for p in batch]\n    other[3][i] += 1\n"
             "    after = meta_gradient(task_loss, parameters, other)\n    if " + CLOSE + ":\n        return False\nreturn True"),
        ("", COUNTS + "for i in range(len(batch[0])):\n    other = [p.clone() for p in batch]\n    other[0][i] *= 2\n"
             "    after = meta_gradient(task_loss, parameters, tuple(other))\n    if " + CLOSE + ":\n        return False\nreturn True"),
        ("", "import numpy as np\n" + COUNTS + "found = []\nfor i in range(batch[0].shape[0]):\n"
             "    other = tuple(p.clone() for p in batch)\n    for p in other:\n        p[i] = torch.randn_like(p[i])\n"
             "    after = meta_gradient(task_loss, parameters, other)\n"
             "    found.append(any((after[n] - before[n]).abs().max().item() > 1e-4 for n in before))\nreturn np.all(found)"),
        ("", COUNTS + "flags = []\nfor i in range(len(batch[0])):\n    other = tuple(p.clone() for p in batch)\n"
             "    for p in other:\n        p[i] = p[i - 1]\n    after = meta_gradient(task_loss, parameters, other)\n"
             "    flags.append(max((after[n] - before[n]).abs().max() for n in before) > 1e-5)\nreturn torch.stack(flags).all()"),
        ("len(batch[0]) tasks", COUNTS + "for i in range(len(batch)):\n    if i >= len(batch[0]):\n        break\n"
             "    other = tuple(p.clone() for p in batch)\n    for p in other:\n        p[i] = p[i - 1]\n"
             "    after = meta_gradient(task_loss, parameters, other)\n    if " + CLOSE + ":\n        return False\nreturn True"),
        ("leaves out the last one|later ones", COUNTS + "for i in range(len(batch[0]) - 1):\n    other = tuple(p.clone() for p in batch)\n"
             "    for p in other:\n        p[i] = p[i + 1]\n    after = meta_gradient(task_loss, parameters, other)\n"
             "    if " + CLOSE + ":\n        return False\nreturn True"),
        ("leaves out the first one", COUNTS + "for i in range(1, len(batch[0])):\n    other = tuple(p.clone() for p in batch)\n"
             "    for p in other:\n        p[i] = p[i - 1]\n    after = meta_gradient(task_loss, parameters, other)\n"
             "    if " + CLOSE + ":\n        return False\nreturn True"),
        ("changed the batch", COUNTS + "for i in range(len(batch[0])):\n    for p in batch:\n        p[i] += 1\n"
             "    after = meta_gradient(task_loss, parameters, batch)\n    if " + CLOSE + ":\n        return False\nreturn True"),
        ("with a tolerance", COUNTS + "for i in range(len(batch[0])):\n    other = tuple(p.clone() for p in batch)\n"
             "    for p in other:\n        p[i] = p[i - 1]\n    after = meta_gradient(task_loss, parameters, other)\n"
             "    if all(torch.equal(after[n], before[n]) for n in before):\n        return False\nreturn True"),
        ("True of every version", "return True"),
        ("opposite|False of every", COUNTS + "for i in range(len(batch[0])):\n    other = tuple(p.clone() for p in batch)\n"
             "    for p in other:\n        p[i] = p[i - 1]\n    after = meta_gradient(task_loss, parameters, other)\n"
             "    if " + CLOSE + ":\n        return True\nreturn False"),
        ("got int", "return 1"),
        ("not answered yet", "..."),
    ],
    "reptile_step": [
        ("", "return {n: p.lerp(torch.stack([a[n] for a in adapted]).mean(0), outer_lr) for n, p in parameters.items()}"),
        ("", "new = {}\nfor n, p in parameters.items():\n    new[n] = p + outer_lr * sum(a[n] - p for a in adapted) / len(adapted)\nreturn new"),
        ("were summed", "return {n: p + outer_lr * sum(a[n] - p for a in adapted) for n, p in parameters.items()}"),
        ("only the last", "for a in adapted:\n    new = {n: p + outer_lr * (a[n] - p) for n, p in parameters.items()}\nreturn new"),
        ("leads away", "return {n: p - outer_lr * (sum(a[n] for a in adapted) / len(adapted) - p) for n, p in parameters.items()}"),
        ("in place", "for n, p in parameters.items():\n    p += outer_lr * (sum(a[n] for a in adapted) / len(adapted) - p)\nreturn parameters"),
    ],
    "first_order": [
        ("", "gs = torch.autograd.grad(loss(parameters), parameters.values())\n"
             "return {n: p - alpha * g for (n, p), g in zip(parameters.items(), gs)}"),
        ("", "gs = torch.func.grad(loss)({n: p.detach() for n, p in parameters.items()})\n"
             "return {n: p - alpha * gs[n] for n, p in parameters.items()}"),
        ("", "copy = {n: p.detach().clone().requires_grad_() for n, p in parameters.items()}\nloss(copy).backward()\n"
             "return {n: p - alpha * copy[n].grad for n, p in parameters.items()}"),
        ("built and discarded", "gs = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=True)\n"
             "return {n: p - alpha * g.detach() for (n, p), g in zip(parameters.items(), gs)}"),
        ("built and discarded", "gs = torch.func.grad(loss)(parameters)\n"
             "return {n: p - alpha * gs[n].detach() for n, p in parameters.items()}"),
        ("still MAML", "gs = torch.func.grad(loss)(parameters)\nreturn {n: p - alpha * gs[n] for n, p in parameters.items()}"),
        ("detached the parameters", "gs = torch.autograd.grad(loss(parameters), list(parameters.values()))\n"
             "return {n: (p - alpha * g).detach() for (n, p), g in zip(parameters.items(), gs)}"),
        ("update any tensor", "new = dict(parameters)\nfor n in parameters:\n"
             "    new[n] = new[n] - alpha * torch.autograd.grad(loss(new), new[n])[0]\nreturn new"),
        ("of backward()", "loss(parameters).backward()\nreturn {n: p - alpha * p.grad for n, p in parameters.items()}"),
        ("out of the tuple", "return {n: p - alpha * torch.autograd.grad(loss(parameters), p) for n, p in parameters.items()}"),
        ("in place", "gs = torch.autograd.grad(loss(parameters), list(parameters.values()))\nwith torch.no_grad():\n"
             "    for p, g in zip(parameters.values(), gs):\n        p -= alpha * g\nreturn parameters"),
    ],
    "builds_a_graph": [
        ("", "_, gs = step(loss, parameters, alpha)\nreturn any(g.requires_grad for g in gs.values())"),
        ("", "import numpy as np\nreturn np.any([not g.is_leaf for g in step(loss, parameters, alpha)[1].values()])"),
        ("", "flags = [g.grad_fn is not None for g in step(loss, parameters, alpha)[1].values()]\nreturn torch.tensor(flags).any()"),
        ("any(), not all()", "return all(g.requires_grad for g in step(loss, parameters, alpha)[1].values())"),
        ("only the middle one|only the first", "gs = list(step(loss, parameters, alpha)[1].values())\nreturn gs[-1].requires_grad"),
        ("only the middle one", "gs = list(step(loss, parameters, alpha)[1].values())\nreturn gs[-1].requires_grad or gs[0].requires_grad"),
        ("adapted parameters", "a, _ = step(loss, parameters, alpha)\nreturn any(p.requires_grad for p in a.values())"),
        ("adapted parameters|gradients", "a, _ = step(loss, parameters, alpha)\nreturn any(p.grad_fn is not None for p in a.values())"),
        ("expected True or False", "return [g.grad_fn for g in step(loss, parameters, alpha)[1].values()]"),
        ("opposite", "return not any(g.requires_grad for g in step(loss, parameters, alpha)[1].values())"),
    ],
    "left_out": [
        ("", "flat = {n: p.detach() for n, p in parameters.items()}\n"
             "_, product = torch.func.jvp(torch.func.grad(loss), (flat,), (vector,))\n"
             "return {n: alpha * p for n, p in product.items()}"),
        ("Multiply by alpha", "flat = {n: p.detach() for n, p in parameters.items()}\n"
             "return torch.func.jvp(torch.func.grad(loss), (flat,), (vector,))[1]"),
        ("row sums", "gs = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=True)\n"
             "hs = torch.autograd.grad(sum(g.sum() for g in gs), list(parameters.values()))\n"
             "return {n: alpha * h for n, h in zip(parameters, hs)}"),
        ("off", "gs = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=True)\n"
             "out = {}\nfor (n, p), g in zip(parameters.items(), gs):\n"
             "    out[n] = alpha * torch.autograd.grad((g * vector[n]).sum(), p, retain_graph=True)[0]\nreturn out"),
    ],
    "paired_interval": [
        ("", "import numpy as np\nd = np.array(first) - np.array(second)\nreturn d.mean(), 1.96 * d.std(ddof=1) / np.sqrt(len(d))"),
        ("", "import numpy as np\nd = np.subtract(first, second)\nreturn np.array([d.mean(), 1.96 * d.std(ddof=1) / len(d) ** 0.5])"),
        ("", "d = torch.tensor(first) - torch.tensor(second)\nreturn [d.mean(), 1.96 * d.std() / len(d) ** 0.5]"),
        ("", "from statistics import NormalDist\nd = [a - b for a, b in zip(first, second)]\n"
             "return statistics.mean(d), NormalDist().inv_cdf(0.975) * statistics.stdev(d) / math.sqrt(len(d))"),
        ("n - 1", "import numpy as np\nd = np.subtract(first, second)\nreturn d.mean(), 1.96 * d.std() / np.sqrt(len(d))"),
        ("off|half", "d = [a - b for a, b in zip(first, second)]\n"
             "return statistics.fmean(d), 1.96 * statistics.stdev(d) / math.sqrt(len(d)) / 2"),
        ("opposite sign", "d = [b - a for a, b in zip(first, second)]\n"
             "return statistics.fmean(d), 1.96 * statistics.stdev(d) / math.sqrt(len(d))"),
        ("task by task", "n = len(first)\nreturn (statistics.fmean(first) - statistics.fmean(second), "
             "1.96 * math.sqrt((statistics.variance(first) + statistics.variance(second)) / n))"),
        ("caller's `first`", "first.sort()\nsecond.sort()\nd = [a - b for a, b in zip(first, second)]\n"
             "return statistics.fmean(d), 1.96 * statistics.stdev(d) / math.sqrt(len(d))"),
        ("caller's", "d = [a - b for a, b in zip(first, second)]\nfirst.clear()\n"
             "return statistics.fmean(d), 1.96 * statistics.stdev(d) / math.sqrt(len(d))"),
        ("ends", "d = [a - b for a, b in zip(first, second)]\nm, h = statistics.fmean(d), 1.96 * statistics.stdev(d) / "
             "math.sqrt(len(d))\nreturn m - h, m + h"),
        ("not answered yet", "..."),
    ],
    "costs": [
        ("", "import numpy as np\nreturn [np.median(np.divide(seconds, other_seconds)), np.max(peaks) / np.max(other_peaks)]"),
        ("", "r = sorted(a / b for a, b in zip(seconds, other_seconds))\nn = len(r)\n"
             "m = r[n // 2] if n % 2 else (r[n // 2 - 1] + r[n // 2]) / 2\nreturn m, max(peaks) / max(other_peaks)"),
        ("", "r = torch.tensor(seconds) / torch.tensor(other_seconds)\nreturn r.quantile(0.5), torch.tensor(max(peaks) / max(other_peaks))"),
        ("the upper", "r = sorted(a / b for a, b in zip(seconds, other_seconds))\nreturn r[len(r) // 2], max(peaks) / max(other_peaks)"),
        ("torch.median", "r = torch.tensor(seconds) / torch.tensor(other_seconds)\nreturn r.median(), max(peaks) / max(other_peaks)"),
        ("caller's `peaks`", "m = statistics.median(a / b for a, b in zip(seconds, other_seconds))\npeaks.sort()\n"
             "other_peaks.sort()\nreturn m, peaks[-1] / other_peaks[-1]"),
        ("caller's|ratio|off", "seconds.sort()\nother_seconds.sort()\n"
             "return statistics.median(a / b for a, b in zip(seconds, other_seconds)), max(peaks) / max(other_peaks)"),
        ("in each round", "return statistics.median(seconds) / statistics.median(other_seconds), max(peaks) / max(other_peaks)"),
        ("Take the median|ratio", "return statistics.fmean(a / b for a, b in zip(seconds, other_seconds)), max(peaks) / max(other_peaks)"),
        ("upside down", "return statistics.median(b / a for a, b in zip(seconds, other_seconds)), max(peaks) / max(other_peaks)"),
        ("worst moment", "return (statistics.median(a / b for a, b in zip(seconds, other_seconds)), "
             "statistics.median(a / b for a, b in zip(peaks, other_peaks)))"),
        ("time ratio|off|memory", "rows = list(zip(seconds, other_seconds, peaks, other_peaks))\n"
             "return statistics.median(r[0] / r[1] for r in rows), max(r[2] for r in rows) / max(r[3] for r in rows)"),
        ("off|largest", "return (statistics.median(a / b for a, b in zip(seconds, other_seconds)), "
             "max(a / b for a, b in zip(peaks, other_peaks)))"),
    ],
    "verdict": [
        ("", "if difference - half_width > 0:\n    return 'better'\nif difference + half_width < 0:\n    return 'worse'\nreturn 'undecided'"),
        ("", "import numpy as np\nif np.isnan(difference) or np.isnan(half_width) or abs(difference) <= half_width:\n"
             "    return 'undecided'\nreturn 'better' if difference > 0 else 'worse'"),
        ("", "if not abs(difference) > half_width:\n    return 'undecided'\nreturn {True: 'better', False: 'worse'}[difference > 0]"),
        ("do not halve", "half = half_width / 2\nreturn 'better' if difference > half else 'worse' if difference < -half else 'undecided'"),
        ("not double", "half = half_width * 2\nreturn 'better' if difference > half else 'worse' if difference < -half else 'undecided'"),
        ("nan", "if abs(difference) <= half_width:\n    return 'undecided'\nreturn 'better' if difference > 0 else 'worse'"),
        ("nan", "if math.isnan(half_width) or abs(difference) <= half_width:\n    return 'undecided'\n"
             "return 'better' if difference > 0 else 'worse'"),
        ("not looked at", "return 'better' if difference > 0 else 'worse' if difference < 0 else 'undecided'"),
        ("exchanged", "return 'worse' if difference > half_width else 'better' if difference < -half_width else 'undecided'"),
        ("got 'Better'", "return 'Better' if difference > half_width else 'worse' if difference < -half_width else 'undecided'"),
        ("below zero", "return 'better' if difference > half_width else 'undecided'"),
        ("expected|sign|looked at|within", "return 'better' if difference > 0.05 else 'worse' if difference < -0.05 else 'undecided'"),
        ("not answered yet", "..."),
    ],
    "tasks_needed": [
        ("", "import numpy as np\nreturn int(np.ceil((1.96 * np.std(differences, ddof=1) / half_width) ** 2))"),
        ("Round up", "return round((1.96 * statistics.stdev(differences) / half_width) ** 2 - 0.5)"),
        ("Round up", "return (1.96 * statistics.stdev(differences) / half_width) ** 2"),
        ("square", "return math.ceil(1.96 * statistics.stdev(differences) / half_width)"),
        ("1.96", "return math.ceil((statistics.stdev(differences) / half_width) ** 2)"),
    ],
    "loss_weights": [
        ("", "if epoch >= epochs:\n    return [0] * (steps - 1) + [1]\n"
             "w = max(1 / steps - epoch / (steps * epochs), 0.03 / steps)\nreturn [w] * (steps - 1) + [1 - w * (steps - 1)]"),
        ("", "w = torch.full((steps,), max(1 - epoch / epochs, 0.03) / steps if epoch < epochs else 0)\n"
             "w[-1] = 1 - w[:-1].sum()\nreturn w"),
        ("", "import numpy as np\nw = np.zeros(steps)\nif epoch < epochs:\n    w[:] = max((1 - epoch / epochs) / steps, 0.03 / steps)\n"
             "w[-1] = 1 - w[:-1].sum()\nreturn w"),
        ("", "w = 0 if epoch >= epochs else max(1 - epoch / epochs, 0.03) / steps\nreturn (w,) * (steps - 1) + (1 - w * (steps - 1),)"),
        ("lacks the floor", "if epoch >= epochs:\n    return [0] * (steps - 1) + [1]\nw = (1 - epoch / epochs) / steps\n"
             "return [w] * (steps - 1) + [1 - w * (steps - 1)]"),
        ("Divide the floor", "if epoch >= epochs:\n    return [0] * (steps - 1) + [1]\nw = max((1 - epoch / epochs) / steps, 0.03)\n"
             "return [w] * (steps - 1) + [1 - w * (steps - 1)]"),
        ("still counts|off", "w = max(1 - epoch / epochs, 0.03) / steps\nreturn [w] * (steps - 1) + [1 - w * (steps - 1)]"),
        ("still counts|off", "if epoch > epochs:\n    return [0] * (steps - 1) + [1]\nw = max(1 - epoch / epochs, 0.03) / steps\n"
             "return [w] * (steps - 1) + [1 - w * (steps - 1)]"),
        ("one epoch ahead", "if epoch >= epochs:\n    return [0] * (steps - 1) + [1]\nw = max(1 - (epoch + 1) / epochs, 0.03) / steps\n"
             "return [w] * (steps - 1) + [1 - w * (steps - 1)]"),
        ("wrong way round", "if epoch >= epochs:\n    return [1] + [0] * (steps - 1)\nw = max(1 - epoch / epochs, 0.03) / steps\n"
             "return [1 - w * (steps - 1)] + [w] * (steps - 1)"),
        ("step alone", "if epoch >= epochs:\n    return [0] * steps + [1]\nw = max(1 - epoch / epochs, 0.03) / steps\n"
             "return [0] + [w] * (steps - 1) + [1 - w * (steps - 1)]"),
        ("not answered yet", "..."),
    ],
    "multi_step_loss": [
        ("", "total = torch.zeros(())\nfor w in weights:\n    parameters = inner_step(parameters)\n    if w != 0:\n"
             "        total = total + w * query_loss(parameters)\nreturn total"),
        ("", "terms = []\nfor w in weights:\n    parameters = inner_step(parameters)\n    if w:\n"
             "        terms.append(w * query_loss(parameters))\nreturn sum(terms)"),
        ("", "losses, used = [], []\nfor w in weights:\n    parameters = inner_step(parameters)\n    if w > 0:\n"
             "        losses.append(query_loss(parameters))\n        used.append(float(w))\n"
             "return torch.stack(losses) @ torch.tensor(used)"),
        ("", "total = torch.zeros(1)\nfor w in weights:\n    parameters = inner_step(parameters)\n    if w > 0:\n"
             "        total = total + w * query_loss(parameters)\nreturn total"),
        ("gradient", "total = 0\nfor w in weights:\n    parameters = {n: p.detach().requires_grad_() for n, p in inner_step(parameters).items()}\n"
             "    if w > 0:\n        total = total + w * query_loss(parameters)\nreturn total"),
        ("off: expected|gradient", "total = 0\nfor i, w in enumerate(weights):\n    parameters = inner_step(parameters)\n"
             "    if i < len(weights) - 1:\n        parameters = {n: p.detach() + 0 * p for n, p in parameters.items()}\n"
             "    if w > 0:\n        total = total + w * query_loss(parameters)\nreturn total"),
        ("where the weight is zero", "return sum(w * query_loss(parameters := inner_step(parameters)) for w in weights)"),
        ("also where", "total = 0\nfor w in weights:\n    if w > 0:\n        parameters = inner_step(parameters)\n"
             "        total = total + w * query_loss(parameters)\nreturn total"),
        ("step first", "total = 0\nfor w in weights:\n    if w > 0:\n        total = total + w * query_loss(parameters)\n"
             "    parameters = inner_step(parameters)\nreturn total"),
        ("caller's `weights`", "total = 0\nwhile weights:\n    w = weights.pop(0)\n    parameters = inner_step(parameters)\n"
             "    if w > 0:\n        total = total + w * query_loss(parameters)\nreturn total"),
        ("no gradient", "total = 0\nfor w in weights:\n    parameters = inner_step(parameters)\n    if w > 0:\n"
             "        total = total + w * query_loss(parameters).item()\nreturn total"),
        ("initialisation again", "total = 0\nfor w in weights:\n    p = inner_step(parameters)\n    if w > 0:\n"
             "        total = total + w * query_loss(p)\nreturn total"),
        ("not answered yet", "..."),
    ],
    "query_passes": [
        ("", "return sum(steps if e < annealed else 1 for e in range(epochs))"),
        ("", "return float(min(annealed, epochs) * (steps - 1) + epochs)"),
        ("perhaps before the annealing|before the annealing", "return annealed * steps + epochs - annealed"),
        ("pass for every step|one pass", "return steps * epochs"),
        ("Count each epoch once", "return min(annealed, epochs) * steps + epochs"),
    ],
    "learned_rates": [
        ("", ADAPT),
        ("", "for k in range(steps):\n    gs = torch.func.grad(loss)(parameters)\n    parameters = {n: p - (learning_rates[n][k] "
             "if k < len(learning_rates[n]) else learning_rates[n][-1]) * gs[n] for n, p in parameters.items()}\nreturn parameters"),
        ("", "for k in range(steps):\n    value = loss(parameters)\n    new = {}\n    for n, p in parameters.items():\n"
             "        rates = learning_rates[n]\n        (g,) = torch.autograd.grad(value, p, create_graph=True)\n"
             "        new[n] = p - rates[min(k, rates.numel() - 1)] * g\n    parameters = new\nreturn parameters"),
        ("update any tensor", "parameters = dict(parameters)\nfor k in range(steps):\n    for n in parameters:\n        r = learning_rates[n]\n"
             "        g = torch.autograd.grad(loss(parameters), parameters[n], create_graph=True)[0]\n"
             "        parameters[n] = parameters[n] - r[min(k, len(r) - 1)] * g\nreturn parameters"),
        ("began again", changed(ADAPT, ("min(k, len(learning_rates[n]) - 1)", "k % len(learning_rates[n])"))),
        ("Count the steps from 0", changed(ADAPT, ("min(k, len", "min(k + 1, len"))),
        ("Count the steps from 0", changed(ADAPT, ("range(steps)", "range(1, steps + 1)"))),
        ("Count the steps from 0", changed(ADAPT, ("min(k, len", "min(k - 1, len"))),
        ("from last to first", changed(ADAPT, ("[min(k, len(learning_rates[n]) - 1)]", "[len(learning_rates[n]) - 1 - min(k, len(learning_rates[n]) - 1)]"))),
        ("by its name", changed(ADAPT, ("learning_rates[n][min(k, len(learning_rates[n]) - 1)] * g", "r[min(k, len(r) - 1)] * g"),
            ("for (n, p), g in zip(parameters.items(), gs)", "for (n, p), g, r in zip(parameters.items(), gs, learning_rates.values())"))),
        ("create_graph=True: the graph", changed(ADAPT, (", create_graph=True", ""))),
        ("were computed with create_graph=True", changed(ADAPT, ("] * g\n", "] * g.detach()\n"))),
        ("never be learned", changed(ADAPT, ("- 1)] * g", "- 1)].item() * g"))),
        ("anew in each step", changed(ADAPT, ("for k in range(steps):\n    gs", "start = parameters\nfor k in range(steps):\n    gs"),
            ("loss(parameters), list(parameters", "loss(start), list(start"))),
        ("one below zero|clamped at zero", changed(ADAPT, ("- 1)] * g", "- 1)].clamp(min=0) * g"))),
        ("one below zero", changed(ADAPT, ("- 1)] * g", "- 1)].abs() * g"))),
        ("raised IndexError", changed(ADAPT, ("min(k, len(learning_rates[n]) - 1)", "k"))),
        ("gradient ascent", changed(ADAPT, ("p - learning", "p + learning"))),
        ("out of the tuple", "for k in range(steps):\n    parameters = {n: p - learning_rates[n][min(k, len(learning_rates[n]) - 1)] * "
             "torch.autograd.grad(loss(parameters), p, create_graph=True) for n, p in parameters.items()}\nreturn parameters"),
        ("not answered yet", "..."),
    ],
    "step_norm": [
        ("", NORM),
        ("", "m = x.mean(dim=(0, 2, 3))\nv = ((x - m[None, :, None, None]) ** 2).mean(dim=(0, 2, 3))\nk = min(step, gamma.shape[0] - 1)\n"
             "y = (x - m[None, :, None, None]) / torch.sqrt(v + epsilon)[None, :, None, None]\n"
             "return gamma[k][None, :, None, None] * y + beta[k][None, :, None, None]"),
        ("", "flat = x.transpose(0, 1).flatten(1)\nk = step if step < len(gamma) else -1\n"
             "y = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + epsilon) ** 0.5\n"
             "y = y * gamma[k][:, None] + beta[k][:, None]\n"
             "return y.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)"),
        ("", changed(NORM, ("variance = x.var(dims, correction=0, keepdim=True)", "variance = (x**2).mean(dims, keepdim=True) - mean**2"))),
        ("statistics were detached", changed(NORM, ("mean = x.mean(dims, keepdim=True)", "mean = x.detach().mean(dims, keepdim=True)"),
            ("variance = x.var", "variance = x.detach().var"))),
        ("off|detached", changed(NORM, ("variance = x.var", "variance = x.detach().var"))),
        ("step 3 used|step 4 used", changed(NORM, ("min(step, len(gamma) - 1)", "step % len(gamma)"))),
        ("of step 0", changed(NORM, ("min(step, len(gamma) - 1)", "0"))),
        ("argument epsilon", changed(NORM, ("+ epsilon", "+ 1e-5"))),
        ("is missing", changed(NORM, (" + epsilon", ""))),
        ("two are exchanged", changed(NORM, ("return g * (x - mean) / (variance + epsilon).sqrt() + b", "return b * (x - mean) / (variance + epsilon).sqrt() + g"))),
        ("divided by n - 1", changed(NORM, ("correction=0, ", ""))),
        ("layer normalisation", changed(NORM, ("(0, 2, 3)", "(1, 2, 3)"))),
        ("instance normalisation", changed(NORM, ("(0, 2, 3)", "(2, 3)"))),
        ("along the\nwidth|along the width", changed(NORM, (".view(1, -1, 1, 1)", ""))),
        ("added to the root", changed(NORM, ("(variance + epsilon).sqrt()", "(variance.sqrt() + epsilon)"))),
        ("no gradient flows back to γ", changed(NORM, ("gamma[k].view", "gamma[k].detach().view"))),
        ("no gradient flows back to β", changed(NORM, ("beta[k].view", "beta[k].detach().view"))),
        ("raised IndexError", changed(NORM, ("min(step, len(gamma) - 1)", "step"))),
        ("not answered yet", "..."),
    ],
    "step_layer_norm": [
        ("", changed(NORM, ("(0, 2, 3)", "(1, 2, 3)"))),
        ("batch normalisation", NORM),
        ("n - 1", changed(NORM, ("(0, 2, 3)", "(1, 2, 3)"), ("correction=0, ", ""))),
    ],
    "problem": [
        ("", WAVES),
        ("", changed(WAVES, ("x = torch.rand(5, 10, 1, generator=g)", "x = torch.linspace(0, 1, 10)[None, :, None].expand(5, 10, 1)"),
             ("x[:, :5], y[:, :5], x[:, 5:], y[:, 5:]", "x[:, ::2], y[:, ::2], x[:, 1::2], y[:, 1::2]"))),
        ("", changed(WAVES, ("yield TaskBatch(", "yield ("))),
        ("", changed(WAVES, ("yield TaskBatch(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])", "yield [x[:, :5], y[:, :5], x[:, 5:], y[:, 5:]]"))),
        ("", "return SinusoidTasks(seed=2 * seed + (part == 'test'))"),
        ("", "class Waves:\n    def __iter__(self):\n        return self\n    def __next__(self):\n        x = torch.rand(4, 10, 1, generator=g)\n"
             "        y = x * torch.randn(4, 1, 1, generator=g)\n        return TaskBatch(x[:, :3], y[:, :3], x[:, 3:], y[:, 3:])\n"
             "g = torch.Generator().manual_seed(3 * seed + (part == 'test'))\nreturn Waves()"),
        ("", "import numpy as np\nrng = np.random.default_rng([seed, part == 'test'])\nwhile True:\n"
             "    x = torch.from_numpy(rng.random((4, 8, 1))).float()\n    y = x * float(1) + torch.from_numpy(rng.random((4, 1, 1))).float()\n"
             "    yield TaskBatch(x[:, :4], y[:, :4], x[:, 4:], y[:, 4:])"),
        ("Vary the tasks", changed(WAVES, ("phase = torch.rand(5, 1, 1, generator=g)", "phase = 0.3"))),
        ("Vary the tasks|is the same", changed(WAVES, ("x = torch.rand(5, 10, 1, generator=g)", "x = torch.linspace(0, 1, 10)[None, :, None].expand(5, 10, 1)"),
             ("phase = torch.rand(5, 1, 1, generator=g)", "phase = 0.3 + 1e-9 * torch.rand(5, 1, 1, generator=g)"))),
        ("every meta-batch", changed(WAVES, ("    phase", "    g.manual_seed(seed + 1000 * (part == 'test'))\n    phase"))),
        ("without end", changed(WAVES, ("while True", "for _ in range(100)"))),
        ("without end", changed(WAVES, ("while True", "for _ in range(2)"))),
        ("global random state", changed(WAVES, ("g = torch.Generator().manual_seed(2 * seed + (part == \"test\"))", "torch.manual_seed(2 * seed + (part == 'test'))"),
             (", generator=g", ""))),
        ("global random state", "import numpy as np\nnp.random.seed(2 * seed + (part == 'test'))\nwhile True:\n"
             "    x = torch.from_numpy(np.random.rand(4, 8, 1)).float()\n    y = x + float(np.random.rand())\n"
             "    y = y * torch.from_numpy(np.random.rand(4, 1, 1)).float()\n    yield TaskBatch(x[:, :4], y[:, :4], x[:, 4:], y[:, 4:])"),
        ("other tasks for the same seed", changed(WAVES, ("g = torch.Generator().manual_seed(2 * seed + (part == \"test\"))", "g = torch.Generator()\ng.seed()"))),
        ("unseen tasks", changed(WAVES, ("2 * seed + (part == \"test\")", "seed"))),
        ("unseen tasks", changed(WAVES, ("2 * seed + (part == \"test\")", "seed + (part == 'test')"))),
        ("unseen tasks", changed(WAVES, ("2 * seed + (part == \"test\"))", "seed)\nskip = 20 * (part == 'test')"),
             ("    yield", "    skip -= 1\n    if skip >= 0:\n        continue\n    yield"))),
        ("both support and query", changed(WAVES, ("x[:, 5:], y[:, 5:]", "x[:, 4:], y[:, 4:]"))),
        ("y.long()", changed(WAVES, ("yield TaskBatch(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])",
             "y = (y[..., 0] > 0).float()\n    yield TaskBatch(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])")).join(["", "\n"])
             + "#model nn.Linear(1, 2)"),
        ("is not sound", changed(WAVES, ("yield TaskBatch(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])", "yield x, y"))),
        ("float32", changed(WAVES, ("x = torch.rand(5, 10, 1, generator=g)", "x = torch.rand(5, 10, 1, generator=g).double()"))),
        ("not answered yet", "..."),
    ],
    "evidence": [
        ("", MEASURED),
        ("", MEASURED + "import numpy as np\nmeasured = {n: {'scores': np.array(f['scores']), 'seconds': np.float32(f['seconds'])} "
             "for n, f in measured.items()}"),
        ("", MEASURED + "measured = {n: {'scores': torch.tensor(f['scores']), 'seconds': torch.tensor(2.0)} for n, f in measured.items()}"),
        ("", MEASURED + "choice, claim = 'fomaml', 'worse'"),
        ("with which the claim", MEASURED + "claim = 'undecided'"),
        ("evidence speaks against", MEASURED + "choice, claim = 'fomaml', 'worse'\nmeasured['fomaml']['seconds'] = 9.0"),
        ("not paired", MEASURED + "measured['maml']['scores'] += [1.0]"),
        ("at least 50", MEASURED + "measured = {n: {'scores': f['scores'][:20], 'seconds': 1.0} for n, f in measured.items()}"),
        ("expected one of", MEASURED + "choice = ['maml']"),
        ("measured twice", MEASURED + "measured['fomaml'] = measured['maml']"),
        ("not answered yet", "measured, choice, claim = {}, None, None"),
    ],
    "choose": [
        ("", "if behind + half_width < margin:\n    return 'best' if times_faster < 1.1 else 'cheaper'\n"
             "if behind > half_width:\n    return 'best'\nreturn 'undecided'"),
        ("wide interval", "return 'cheaper' if behind < margin else 'best'"),
        ("'best'|good enough|undecided", "return 'best' if behind > half_width else 'cheaper'"),
        ("by less than the margin", "if behind > half_width:\n    return 'best'\nreturn 'cheaper' if behind + half_width < margin else 'undecided'"),
        ("decides nothing", "if behind + half_width < margin:\n    return 'cheaper'\nreturn 'best' if behind > half_width else 'undecided'"),
    ],
}  # fmt: skip
