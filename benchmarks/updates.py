"""Which way to write the inner update θ' = θ - αg over all tensors is fastest, as part of a whole meta-gradient?

    python benchmarks/updates.py results/updates.json

Three ways, interleaved in one run: tensor by tensor; `torch._foreach_sub`, all tensors in one call; and one flat vector
that is cut into tensors for every forward pass. Ratios are to the first; each way must give the same meta-gradient.
"""

import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from mamlcourse import MLP, CharacterTasks, Conv4, load_characters
from mamlcourse.records import provenance, write_json

REPEATS, STEPS, INNER_LR = 15, 5, 0.1


def tensor_by_tensor(parameters, grads):
    return {name: p - INNER_LR * g for (name, p), g in zip(parameters.items(), grads)}


def foreach(parameters, grads):
    return dict(zip(parameters, torch._foreach_sub(list(parameters.values()), grads, alpha=INNER_LR)))


def meta_gradient(model, task, update):
    support_x, support_y, query_x, query_y = task
    start = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    adapted = start
    for _ in range(STEPS):
        loss = cross_entropy(functional_call(model, adapted, (support_x,)), support_y)
        adapted = update(adapted, torch.autograd.grad(loss, list(adapted.values()), create_graph=True))
    loss = cross_entropy(functional_call(model, adapted, (query_x,)), query_y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(start.values()))])


def flat_meta_gradient(model, task, update):
    support_x, support_y, query_x, query_y = task
    shapes = {name: p.shape for name, p in model.named_parameters()}
    start = torch.cat([p.detach().flatten() for p in model.parameters()]).requires_grad_()

    def outputs(flat, x):
        parts = flat.split([shape.numel() for shape in shapes.values()])
        return functional_call(model, {n: part.view(s) for (n, s), part in zip(shapes.items(), parts)}, (x,))

    adapted = start
    for _ in range(STEPS):
        loss = cross_entropy(outputs(adapted, support_x), support_y)
        (gradient,) = torch.autograd.grad(loss, adapted, create_graph=True)
        adapted = adapted - INNER_LR * gradient
    return torch.autograd.grad(cross_entropy(outputs(adapted, query_x), query_y), start)[0]


WAYS = {
    "tensor by tensor": (meta_gradient, tensor_by_tensor),
    "foreach": (meta_gradient, foreach),
    "one flat vector": (flat_meta_gradient, None),
}


def measure(model, task, device):
    """{way: {"seconds": [...], "ratio": median ratio to the first way, "error": relative error}}."""
    reference = meta_gradient(model, task, tensor_by_tensor)
    found = {way: {"seconds": []} for way in WAYS}
    for way, (gradient, update) in WAYS.items():
        error = (gradient(model, task, update) - reference).norm() / reference.norm()
        found[way]["error"] = error.item()
    for _ in range(REPEATS):
        for way, (gradient, update) in WAYS.items():
            began = time.perf_counter()
            gradient(model, task, update)
            if device == "cuda":
                torch.cuda.synchronize()
            found[way]["seconds"].append(time.perf_counter() - began)
    first = found["tensor by tensor"]["seconds"]
    for way in WAYS:
        found[way]["ratio"] = median(own / base for own, base in zip(found[way]["seconds"], first))
    return found


def main(path):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    characters = load_characters().split().train
    task = [part[0] for part in CharacterTasks(characters, queries=3, device=device).batch(0)]
    record = {"kind": "inner updates", **provenance(device), "repeats": REPEATS, "steps": STEPS, "networks": {}}
    small = torch.nn.Sequential(torch.nn.Flatten(), MLP(784, 40, 5))
    networks = {"Conv4, 64 filters, stride": Conv4(5, 64, "stride"), "Conv4, 8 filters": Conv4(5, 8), "MLP": small}
    for name, network in networks.items():
        torch.manual_seed(0)
        for p in network.parameters():  # away from the head of zeros, where half the gradients are zero
            torch.nn.init.normal_(p, std=0.1)
        record["networks"][name] = measure(network.to(device), task, device)
        for way, found in record["networks"][name].items():
            print(f"{name}: {way}: {found['ratio']:.2f} of the time, error {found['error']:.1e}", flush=True)
    write_json(record, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
