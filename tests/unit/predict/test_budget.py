"""The cut of a scene stays within its memory and is no narrower than it must be."""

import dataclasses

import pytest

from cwsam_cli.errors import MachineError
from cwsam_cli.predict.budget import BLOCK, Costs, Crew, cut, size_text
from cwsam_cli.raster.grid import Lattice

COSTS = Costs(fixed=500_000_000, model=60_000_000, bands=4, image_bytes=2, classes=33, layers=1, block_height=512)


def lattice(width: int, height: int = 50_000) -> Lattice:
    return Lattice.over(width, height, 512, 128)


def test_enough_memory_leaves_the_scene_whole_and_the_batch_as_asked() -> None:
    found = cut(lattice(50_000), 50_000, COSTS, batch=8, limit=20_000_000_000)
    assert found.columns >= 50_000 and found.batch == 8 and found.group == 1


@pytest.mark.parametrize("limit", [1_000_000_000, 1_500_000_000, 2_000_000_000, 3_000_000_000])
def test_a_cut_stays_within_the_limit(limit: int) -> None:
    found = cut(lattice(50_000), 50_000, COSTS, batch=8, limit=limit)
    assert found.bytes <= limit
    assert found.columns % BLOCK == 0
    assert found.columns >= 1024  # halos of narrow columns would double the work


def test_more_memory_never_makes_columns_narrower_or_batches_smaller() -> None:
    found = [cut(lattice(50_000), 50_000, COSTS, batch=8, limit=limit * 10**8) for limit in range(10, 80, 4)]
    assert [each.batch for each in found] == sorted(each.batch for each in found)
    for batch in {each.batch for each in found}:
        widths = [each.columns for each in found if each.batch == batch]
        assert widths == sorted(widths)


def test_memory_does_not_grow_with_height() -> None:
    needs = {cut(lattice(9_000, height), 9_000, COSTS, batch=8, limit=10**11).bytes for height in (20_000, 200_000)}
    assert max(needs) < 1.01 * min(needs)


def test_rows_of_windows_fill_batches_together_where_one_row_is_short() -> None:
    assert cut(lattice(1000), 1000, COSTS, batch=8, limit=10**11).group == 2
    assert cut(lattice(400), 400, COSTS, batch=8, limit=10**11).group == 8
    assert cut(lattice(5000), 5000, COSTS, batch=8, limit=10**11).group == 1


def test_too_little_memory_is_told_with_figures() -> None:
    with pytest.raises(MachineError, match=r"--max-memory 600 MB is not enough.* need \d+ MB") as caught:
        cut(lattice(50_000), 50_000, COSTS, batch=8, limit=600_000_000)
    assert caught.value.exit_code == 6 and "500 MB" in caught.value.hint


def test_processes_and_the_one_that_waits_for_them_share_the_memory() -> None:
    crew = Crew(2, waiting=400_000_000)
    alone = cut(lattice(50_000), 50_000, COSTS, batch=8, limit=1_500_000_000)
    assert cut(lattice(50_000), 50_000, COSTS, batch=8, limit=3_400_000_000, crew=crew) == alone
    assert crew.together(alone.bytes) <= 3_400_000_000
    with pytest.raises(MachineError, match=r"--max-memory 1.5 GB is not enough.* need 2.04 GB") as caught:
        cut(lattice(50_000), 50_000, COSTS, batch=8, limit=1_500_000_000, crew=crew)
    assert "1.4 GB of it" in caught.value.hint


def test_every_layer_costs() -> None:
    layered = dataclasses.replace(COSTS, layers=35)
    plain, more = (cut(lattice(9_000), 9_000, costs, batch=8, limit=10**11).bytes for costs in (COSTS, layered))
    assert more > plain + 34 * 9_000 * 512


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_340_000, "2.34 MB"), (53_000_000_000, "53 GB")]
)
def test_sizes_are_told_as_people_say_them(count: int, text: str) -> None:
    assert size_text(count) == text
