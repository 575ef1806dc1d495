"""Which processes share a machine."""

import pytest
import torch

from cwsam_cli.distributed.world import World, largest_block


@pytest.mark.parametrize(
    ("hosts", "size"),
    [
        ("aaaa", 4),
        ("aaaabbbb", 4),
        ("aaaabb", 2),
        ("abababab", 1),  # ranks in turn, as `srun --distribution=cyclic` gives them
        ("aabbaabb", 2),
        ("aaabbb", 3),
        ("aaab", 1),
        ("a", 1),
    ],
)
def test_a_block_of_consecutive_ranks_is_on_one_machine(hosts: str, size: int) -> None:
    assert largest_block(hosts) == size


def test_one_process_is_a_block_of_one() -> None:
    assert World(torch.device("cpu")).count_per_machine() == 1
