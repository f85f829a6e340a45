"""Two processes that share a batch compute what one process with the whole batch computes."""

import socket
from pathlib import Path

import torch
from torch import distributed, nn

from bcnet_core.distributed import (
    GlobalBatchNorm2d,
    broadcast,
    gather,
    global_divisor,
    mean_over_processes,
    share_statistics,
    smallest_of_all,
)

SIZES = (3, 1)
"""Images of each of the processes; also where one of them has none."""
EMPTY = (4, 0)
KEYS = (torch.tensor([0.7, 0.1, 0.4]), torch.tensor([0.3, 0.2]))


def whole_batch() -> torch.Tensor:
    return torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1


def norm() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(3, eps=1e-3, momentum=0.3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        layer.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    return layer


def train_step(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, the gradient of the input, and those of the weights."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (y**3).sum().backward()
    return [y.detach(), *(one for one in (x.grad, *(p.grad for p in layer.parameters())) if one is not None)]


def _process(rank: int, port: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    results = []
    for sizes in (SIZES, EMPTY):
        layers = nn.Sequential(norm())
        share_statistics(layers)
        results.append([*train_step(layers, whole_batch().split(sizes)[rank]), *layers[0].buffers()])
    found = {
        "norm": results,
        "two": smallest_of_all(KEYS[rank], 1),
        "three": smallest_of_all(KEYS[rank], 3 * rank),
        "all": smallest_of_all(KEYS[rank], 9),
        "divisor": global_divisor(2.0 + 3 * rank, torch.device("cpu")),
        "least": global_divisor(0.0, torch.device("cpu"), floor=3.0),
        "mean": mean_over_processes(torch.tensor([1.0, 4.0 * rank])),
        "gathered": gather(f"of {rank}"),
        "first": broadcast(f"of {rank}"),
    }
    torch.save(found, folder / f"{rank}.pt")
    distributed.barrier()  # torch 2.6 can hang here otherwise
    distributed.destroy_process_group()


def test_two_processes_compute_what_one_computes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, args=(port, tmp_path), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]

    alone = norm()
    y, x_gradient, *gradients = train_step(alone, whole_batch())
    for number in range(2):
        (y0, dx0, *weights0, mean0, var0, count0), (y1, dx1, *weights1, mean1, var1, count1) = (
            part["norm"][number] for part in parts
        )
        torch.testing.assert_close(torch.cat([y0, y1]), y)
        torch.testing.assert_close(torch.cat([dx0, dx1]), x_gradient, rtol=1e-4, atol=1e-4)
        for one, other, both in zip(weights0, weights1, gradients, strict=True):
            torch.testing.assert_close(one + other, both, rtol=1e-4, atol=1e-4)
        for mean, var, count in ((mean0, var0, count0), (mean1, var1, count1)):
            torch.testing.assert_close(mean, alone.running_mean)
            torch.testing.assert_close(var, alone.running_var)
            assert count == 1

    first, second = parts
    assert (first["two"].tolist(), second["two"].tolist()) == ([1], [1]), "0.1 and 0.2, of all five"
    assert (first["three"].tolist(), second["three"].tolist()) == ([1], [1, 0]), "as many as both ask for together"
    assert (first["all"].tolist(), second["all"].tolist()) == ([1, 2, 0], [1, 0])
    assert first["divisor"] == second["divisor"] == (2 + 5) / 2
    assert first["least"] == second["least"] == 3 / 2
    assert first["mean"].tolist() == second["mean"].tolist() == [1, 2]
    assert (first["gathered"], second["gathered"]) == (["of 0", "of 1"], None)
    assert first["first"] == second["first"] == "of 0"


def test_one_process_has_the_statistics_of_torch() -> None:
    layers = nn.Sequential(norm(), nn.Sequential(norm()))
    share_statistics(layers)
    assert [type(layer) for layer in (layers[0], layers[1][0])] == [GlobalBatchNorm2d] * 2  # type: ignore[index]
    for one, other in zip(train_step(layers, whole_batch()), train_step(nn.Sequential(norm(), norm()), whole_batch()),
                          strict=True):  # fmt: skip
        assert torch.equal(one, other)
    layers.eval()
    assert torch.isfinite(layers(whole_batch())).all()
