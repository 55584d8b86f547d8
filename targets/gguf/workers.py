"""Work on many tensors in several processes, with the results in order: threads would wait for one another in Python."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from edgecc.errors import ContractError

Item = TypeVar("Item")


def in_processes(work: Callable[[Item], torch.Tensor], items: Sequence[Item], workers: int) -> Iterator[torch.Tensor]:
    """`work` of each item, in order. Item i is that of worker i modulo `workers`, which waits until its result is taken.

    Workers are forks, so that `work` need not be sent; where there is no fork, this process works alone. Raises what a worker raises,
    ContractError where one ends.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        yield from map(work, items)
        return
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(workers)]
    processes = [fork.Process(target=_serve, args=(work, items[i::workers], pipes, i), daemon=True) for i in range(workers)]
    try:
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
        for i in range(len(items)):
            try:
                found = pipes[i % workers][0].recv()
            except EOFError as error:
                raise ContractError("a process that encoded tensors has ended: was there no memory left?", hint="--threads 1") from error
            if isinstance(found, BaseException):
                raise found
            yield torch.from_numpy(found)
    finally:
        for process, (receiver, _) in zip(processes, pipes, strict=True):
            receiver.close()
            if process.pid is not None:
                process.terminate()
                process.join()


def _serve(work: Callable[[Item], torch.Tensor], items: Sequence[Item], pipes: Sequence[tuple[Connection, Connection]], own: int) -> None:
    torch.set_num_threads(1)
    for receiver, _ in pipes[: own + 1]:
        receiver.close()
    for item in items:
        try:
            found: Any = work(item).numpy()
        except Exception as error:  # noqa: BLE001  whatever it is, it is raised where the result is asked for
            found = error
        pipes[own][1].send(found)
        if isinstance(found, Exception):
            return
