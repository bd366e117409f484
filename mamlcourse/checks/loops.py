"""Exercises 04 and 05: the outer loop, the first-order step, and the tests that tell good versions from bad ones."""

from __future__ import annotations

import torch

from .judge import CheckFailed, Untouched, call, check, compare, fresh, same_parts, uniform, whole

# Exercise 04. Tasks are bowls: their loss and gradient are known in closed form, and no network is needed.


def bowl_loss(parameters, support_x, support_y, query_x, query_y):
    """The loss of one task: support_x, support_y say where its minimum is, query_x how steep it is."""
    return (
        (query_x * (parameters["weight"] - support_x) ** 2).sum() / 2
        + (parameters["bias"] - support_y) ** 2 / 2
        + query_y
    )


def bowl_slopes(parameters, support_x, support_y, query_x, query_y):
    return {"weight": query_x * (parameters["weight"] - support_x), "bias": parameters["bias"] - support_y}


def bowls(generator, tasks):
    """A batch of four tensors with a leading task dimension, for `bowl_loss`."""
    return (
        uniform(generator, tasks, 3, low=-3, high=3), uniform(generator, tasks, low=-3, high=3),
        uniform(generator, tasks, 3, low=0.3, high=1.5), uniform(generator, tasks),
    )  # fmt: skip


def _bowl_start(generator):
    return {"weight": uniform(generator, 3, low=-2, high=2), "bias": uniform(generator, low=-2, high=2)}


def _slopes_of_all(parameters, batch):
    return [bowl_slopes(parameters, *task) for task in zip(*batch)]


def _mean(slopes):
    return {name: torch.stack([s[name] for s in slopes]).mean(0) for name in slopes[0]}


def _train(parameters, batches, rate, combine, sign=-1):
    """Gradient descent in closed form; `combine` makes one gradient of the tasks'. The losses are before each "
      "update."""
    losses = []
    for batch in batches:
        losses.append(torch.stack([bowl_loss(parameters, *task) for task in zip(*batch)]))
        slope = combine(_slopes_of_all(parameters, batch))
        parameters = {name: p + sign * rate * slope[name] for name, p in parameters.items()}
    return parameters, losses


def _one_by_one(parameters, batches, rate, shared=False):
    for batch in batches:
        length = rate / len(batch[0]) if shared else rate
        for task in zip(*batch):
            slope = bowl_slopes(parameters, *task)
            parameters = {name: p - length * slope[name] for name, p in parameters.items()}
    return parameters


def _adding_up(parameters, batches, rate):
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for batch in batches:
        slope = _mean(_slopes_of_all(parameters, batch))
        total = {name: total[name] + slope[name] for name in total}
        parameters = {name: p - rate * total[name] for name, p in parameters.items()}
    return parameters


@check
def outer_loop(meta_train) -> None:
    """Exercise 04, part 1: meta_train(task_loss, parameters, batches, outer_lr_at) -> (parameters, losses)."""
    generator = fresh()
    start, rate = _bowl_start(generator), float(uniform(generator, low=0.1, high=0.2))
    batches = [bowls(generator, tasks) for tasks in (4, 3, whole(generator, 4, 6))]
    given = {name: p.clone() for name, p in start.items()}
    untouched = Untouched(given)
    seen, losses = same_parts(
        "meta_train", call(meta_train, bowl_loss, given, batches, rate), ("parameters", "losses")
    )
    untouched.check()
    expected, by_task = _train(start, batches, rate, _mean)
    total = {name: 0.0 for name in start}

    def summed(slopes):
        return {name: sum(s[name] for s in slopes) for name in total}

    def twice_divided(slopes):
        return {name: value / len(slopes) for name, value in _mean(slopes).items()}

    compare("The parameters after training", seen, expected, (
        (_train(start, batches, rate, lambda slopes: slopes[-1])[0],
         "Only the last task contributed: each task's gradient overwrites the one before, so add them up and divide "
         "by the number of tasks."),
        (_train(start, batches, rate, lambda slopes: slopes[0])[0],
         "Only the first task contributed: the gradient of a meta-batch is the mean over all its tasks."),
        (_train(start, batches, rate, summed)[0],
         "The gradients were summed over the tasks, not averaged: the outer rate would depend on the size of the "
         "batch."),
        (_train(start, batches, rate, twice_divided)[0],
         "The mean was divided by the number of tasks once more: the step is too short."),
        *[(_one_by_one(start, batches, rate, shared),
           "The parameters moved after every task: all tasks of a meta-batch must start from the same parameters, and "
           "one update comes at its end.") for shared in (False, True)],
        (_adding_up(start, batches, rate),
         "The gradients of earlier batches are still counted: set the sum (or .grad) back to zero before each batch."),
        (start, "The parameters came back as they were: return the trained ones."),
        (_train(start, batches[:1], rate, _mean)[0],
         "Only the first batch was used: each update must go on from the result of the last."),
        (_train(start, batches[-1:], rate, _mean)[0],
         "Only the last batch was used: each update must go on from the result of the last, not from the start."),
        (_train(start, batches, rate, _mean, sign=1)[0], "The outer loop goes uphill: subtract the gradient."),
    ))  # fmt: skip
    if any(p.grad_fn is not None for p in seen.values()):
        raise CheckFailed(
            "The numbers are right, but the result still hangs on the graph of the whole training, so memory grows "
            "with every batch: detach the parameters after each update."
        )
    _judge_losses(losses, by_task)


def _judge_losses(losses, by_task):
    if not isinstance(losses, (list, tuple)) or len(losses) != len(by_task):
        came = f"{len(losses)}" if isinstance(losses, (list, tuple)) else type(losses).__name__
        raise CheckFailed(f"The losses: expected a list of {len(by_task)} numbers, one for each batch, came {came}.")
    if any(isinstance(loss, torch.Tensor) and loss.requires_grad for loss in losses):
        raise CheckFailed("The losses still hold their graphs, so memory grows with every batch: keep loss.item().")
    compare("The list of losses", torch.tensor([float(loss) for loss in losses]), torch.stack(
        [task_losses.mean() for task_losses in by_task]
    ), (
        (torch.stack([task_losses[-1] for task_losses in by_task]),
         "The losses are those of the last task alone: average over the tasks of the batch."),
        (torch.stack([task_losses.sum() for task_losses in by_task]),
         "The losses are summed over the tasks: average them."),
    ))  # fmt: skip


def _gradients(task_loss, parameters, task):
    theta = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    return dict(zip(theta, torch.autograd.grad(task_loss(theta, *task), list(theta.values()))))


def _version(choose, noise=0.0):
    """A function that works out a meta-gradient from the tasks that `choose` leaves."""

    def meta_gradient(task_loss, parameters, batch):
        tasks = choose(list(zip(*batch)))
        slopes = _mean([_gradients(task_loss, parameters, task) for task in tasks])
        return {name: s * (1 + noise * (torch.rand(()).item() - 0.5)) for name, s in slopes.items()}

    return meta_gradient


VERSIONS = {  # version: (does every task count, the function)
    "mean": (True, _version(lambda tasks: tasks)),
    "shuffled": (True, _version(lambda tasks: tasks[::-1], noise=1e-10)),
    "last": (False, _version(lambda tasks: tasks[-1:])),
    "rounded": (False, _version(lambda tasks: tasks[-1:], noise=1e-10)),
    "first": (False, _version(lambda tasks: tasks[:1])),
    "middle": (False, _version(lambda tasks: tasks[: len(tasks) // 2] + tasks[len(tasks) // 2 + 1 :])),
}


@check
def every_task_counts(detector) -> None:
    """Exercise 04, part 2: every_task_counts(meta_gradient, task_loss, parameters, batch) -> bool."""
    generator = fresh()
    said = {}
    for name, (_, version) in VERSIONS.items():
        answers = []
        for _ in range(2):
            parameters, batch = _bowl_start(generator), bowls(generator, 5)
            before = [part.clone() for part in batch]
            with torch.random.fork_rng(devices=[]):
                answers.append(call(detector, version, bowl_loss, parameters, batch))
            if not all(map(torch.equal, batch, before)):
                raise CheckFailed("Your test changed the batch that it was given: write the other task into a copy, "
                                  "part.clone().")
        said[name] = _verdict(answers)
    _judge_detector(said, {name: right for name, (right, _) in VERSIONS.items()}, {
        "last":
        "It says True for the version in which only the last task counts: replace a task by another one, and the "
        "gradient must change.",
        "first":
        "It says True for the version in which only the first task counts: replacing the first task alone is not "
        "enough, try every task.",
        "middle":
        "It says True for the version that leaves out the task in the middle: turning the batch around, or leaving "
        "tasks out, does not show that, so replace every single task in turn.",
        "rounded":
        "It says True for a version in which only the last task counts and the last digits tremble: compare with a "
        "tolerance (torch.allclose), not exactly.",
        "shuffled":
        "It says False for a correct version that adds the tasks up in another order: the last digits may differ, so "
        "compare with a tolerance (torch.allclose), not exactly.",
        "mean": "It says False for the plain mean over all tasks, which is correct.",
    })  # fmt: skip


def _verdict(answers):
    for answer in answers:
        if isinstance(answer, torch.Tensor) and answer.dtype == torch.bool and answer.ndim == 0:
            continue
        if answer is None:
            raise CheckFailed("Your test returned None: is there a `return` missing?")
        if not isinstance(answer, bool):
            raise CheckFailed(f"Your test must return True or False, but returned {type(answer).__name__}.")
    if len({bool(answer) for answer in answers}) > 1:
        raise CheckFailed(
            "Your test said True and then False about the same version, on other inputs: compare with a tolerance "
            "(torch.allclose), not exactly, and leave nothing to chance."
        )
    return bool(answers[0])


def _judge_detector(said, right, messages):
    if said == right:
        return
    wrong = [name for name in right if said[name] != right[name]]
    if all(said.values()):
        raise CheckFailed("Your test says True of every version, good or bad.")
    if not any(said.values()):
        raise CheckFailed("Your test says False of every version, good or bad.")
    if all(said[name] != right[name] for name in right):
        raise CheckFailed("Your test says the opposite: exchange True and False.")
    raise CheckFailed(messages[wrong[0]])


# Exercise 05.


class _Probe:
    """The loss of a bowl with bent walls that notices when its gradient is taken with a graph.

    With create_graph=True autograd keeps recording while it walks back, and a hook can see that.
    """

    def __init__(self, goal, stiffness):
        self.goal, self.stiffness, self.graph = goal, stiffness, False

    def __call__(self, parameters):
        total = 0.0
        for name, p in parameters.items():
            seen = p * 1.0
            if seen.requires_grad and not _function_transform(seen):
                seen.register_hook(self.notice)
            off = seen - self.goal[name]
            total = total + self.stiffness * (off**2).sum() / 2 + 0.1 * (off**4).sum()
        return total

    def notice(self, slope):
        self.graph = self.graph or torch.is_grad_enabled()

    def slopes(self, parameters):
        off = {name: p - self.goal[name] for name, p in parameters.items()}
        return {name: self.stiffness * d + 0.4 * d**3 for name, d in off.items()}

    def curvatures(self, parameters):
        off = {name: p - self.goal[name] for name, p in parameters.items()}
        return {name: self.stiffness + 1.2 * d**2 for name, d in off.items()}


def _function_transform(tensor) -> bool:
    """Whether the tensor lives inside torch.func.grad, which always records while it walks back."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return True
    return False


def _probe(generator):
    shapes = {"weight": (3, 2), "bias": (2,)}
    start = {name: uniform(generator, *shape).requires_grad_() for name, shape in shapes.items()}
    goal = {name: uniform(generator, *shape, low=1.5, high=2.5) for name, shape in shapes.items()}
    return start, _Probe(goal, float(uniform(generator, low=0.5, high=1.5)))


def _step(parameters, slopes, alpha):
    return {name: p - alpha * slopes[name] for name, p in parameters.items()}


@check
def first_order(step) -> None:
    """Exercise 05, part 1: first_order_step(loss, parameters, alpha) -> new parameters, the slope a constant."""
    generator = fresh()
    start, loss = _probe(generator)
    alpha = float(uniform(generator, low=0.05, high=0.15))
    given = dict(start)
    untouched = Untouched(given)
    seen = call(step, loss, given, alpha)
    untouched.check()
    constant = {name: p.detach() for name, p in start.items()}
    slopes = loss.slopes(constant)
    compare("The parameters after the step", seen, _step(constant, slopes, alpha), (
        (_step(constant, slopes, -alpha), "The step goes uphill: subtract alpha times the gradient."),
        (_step(constant, slopes, 1.0), "The inner rate was not used: multiply the gradient by alpha."),
        (slopes, "These are the gradients, but the parameters after the step are asked for."),
        (constant, "The parameters came back as they were."),
    ))  # fmt: skip
    weights = {name: uniform(generator, *p.shape) for name, p in start.items()}
    back = {name: torch.zeros_like(p) for name, p in start.items()}
    if any(p.requires_grad for p in seen.values()):
        graded = sum((weights[name] * p).sum() for name, p in seen.items())
        found = torch.autograd.grad(graded, list(start.values()), allow_unused=True, materialize_grads=True)
        back = dict(zip(start, found))
    curvature = loss.curvatures(constant)
    compare("The gradient that comes back to the start", back, weights, (
        ({name: torch.zeros_like(w) for name, w in weights.items()},
         "No gradient comes back to the start: you cut off the parameters, where only the slope must be a constant; "
         "the network's .grad would stay empty and nothing would be learned."),
        ({name: w * (1 - alpha * curvature[name]) for name, w in weights.items()},
         "This is still MAML: the gradient flows through the slope (I - alpha H), so make the slope a constant."),
        ({name: -alpha * curvature[name] * w for name, w in weights.items()},
         "The wrong half was detached: the slope must be constant, and the parameters stay connected."),
    ))  # fmt: skip
    if loss.graph:
        raise CheckFailed(
            "The numbers are right, but the slope was worked out with create_graph=True: a graph of the gradient was "
            "built and thrown away, so the time and memory that FOMAML should save are spent."
        )


def plain(loss, parameters, alpha):
    slopes = dict(zip(parameters, torch.autograd.grad(loss(parameters), list(parameters.values()))))
    return _step(parameters, slopes, alpha), slopes


def with_graph(loss, parameters, alpha):
    slopes = dict(zip(parameters, torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=True)))
    return _step(parameters, {name: s.detach() for name, s in slopes.items()}, alpha), slopes


def maml(loss, parameters, alpha):
    slopes = with_graph(loss, parameters, alpha)[1]
    return _step(parameters, slopes, alpha), slopes


def from_copies(loss, parameters, alpha):
    copies = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    slopes = plain(loss, copies, alpha)[1]
    return {name: p.detach() for name, p in _step(parameters, slopes, alpha).items()}, slopes


def detached_at_the_end(loss, parameters, alpha):
    adapted, slopes = with_graph(loss, parameters, alpha)
    return {name: p.detach().requires_grad_() for name, p in adapted.items()}, slopes


def last_with_graph(loss, parameters, alpha):
    slopes, *_, last = plain(loss, parameters, alpha)[1], *list(parameters)
    slopes[last] = with_graph(loss, parameters, alpha)[1][last]
    return _step(parameters, {name: s.detach() for name, s in slopes.items()}, alpha), slopes


STEPS = {  # version: (does it build a graph, the function)
    "plain": (False, plain),
    "copies": (False, from_copies),
    "graph": (True, with_graph),
    "end": (True, detached_at_the_end),
    "last": (True, last_with_graph),
    "maml": (True, maml),
}


@check
def builds_a_graph(detector) -> None:
    """Exercise 05, part 2: builds_a_graph(step, loss, parameters, alpha) -> bool."""
    generator = fresh()
    said = {}
    for name, (_, step) in STEPS.items():
        answers = []
        for _ in range(2):
            start, loss = _probe(generator)
            answers.append(call(detector, step, loss, start, 0.1))
        said[name] = _verdict(answers)
    if said == {name: name == "maml" for name in STEPS}:
        raise CheckFailed(
            "Only MAML itself was caught: a graph that is built and thrown away leaves every number as it is, so "
            "look at grad_fn of the slopes instead of at numbers."
        )
    _judge_detector(said, {name: right for name, (right, _) in STEPS.items()}, {
        "plain":
        "It says True of a correct first-order step: adapted parameters have a grad_fn because they hang on the "
        "start, so look at the slopes.",
        "copies": "It says True of a correct first-order step that takes its slopes from detached copies.",
        "graph": "It says False of a step with create_graph=True whose slopes are detached where they are used.",
        "end":
        "It says False of a step with create_graph=True that detaches the parameters at the end: look at the slopes, "
        "not at the adapted parameters.",
        "last": "It says False where only the last of the slopes has a graph: look at all of them.",
        "maml": "It says False of MAML's own step, whose slopes have a graph.",
    })  # fmt: skip


