"""What the tests' processes do: functions of a module, so that started processes find them."""

import os
import signal
import time

import torch

from cwsam_cli.errors import DataError
from cwsam_cli.train.launch import World


def add_ranks(world: World, start: int) -> tuple[int, int, float]:
    total = world.total(torch.tensor(float(world.rank + start)))
    return world.rank, world.size, total.item()


def fail_on_one(world: World) -> None:
    if world.rank == 1:
        raise DataError("`tile.tif` is damaged", hint="tile again")
    world.total(torch.zeros(1))


def bug_on_one(world: World) -> None:
    if world.rank == 1:
        raise AssertionError("a slip")
    world.total(torch.zeros(1))


def die_on_one(world: World) -> None:
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.total(torch.zeros(1))


def sleep_on_one(world: World) -> None:
    world.beat()
    if world.rank == 1:
        time.sleep(600)
    world.beat()
    world.total(torch.zeros(1))


def stop_on_zero(world: World) -> None:
    world.beat()
    if world.rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    world.total(torch.zeros(1))


def count_until_asked(world: World, folder: str) -> int:
    for count in range(600):
        time.sleep(0.1)
        world.beat()
        if count == 5 and world.is_main:
            open(os.path.join(folder, "running"), "w").close()
        if world.total(torch.tensor(float(world.interruption.asked))):
            raise KeyboardInterrupt
    return count
