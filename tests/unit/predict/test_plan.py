"""A plan survives a file, stays within its memory, and cuts no narrower than it must."""

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from affine import Affine
from rasterio.crs import CRS

from cwsam_cli.dataset.manifest import Band
from cwsam_cli.errors import MachineError
from cwsam_cli.predict.memory import Needs, cut
from cwsam_cli.predict.plan import MapPlan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.lattice import Lattice
from cwsam_cli.raster.mapfile import BLOCK
from tests.predict_plans import plan_of

MakeRaster = Callable[..., Path]

NEEDS = Needs(
    lattice=Lattice.over(50_000, 50_000, 512, 128),
    fixed=500_000_000,
    model=60_000_000,
    bands=4,
    image_bytes=2,
    classes=33,
    layers=1,
    block_height=512,
)


def of(width: int, height: int = 50_000, **changes: Any) -> Needs:
    return dataclasses.replace(NEEDS, lattice=Lattice.over(width, height, 512, 128), **changes)


def request(**options: Any) -> MapRequest:
    return MapRequest(checkpoint=Path("model.pth"), **options)


def cut_alone(width: int, limit: int, **changes: Any) -> tuple[int, int]:
    return cut(of(width, **changes), width, request(), limit=limit)


@pytest.mark.parametrize(
    "crs", [None, "EPSG:32617", 'LOCAL_CS["Metres",UNIT["metre",1],AXIS["X",EAST],AXIS["Y",NORTH]]']
)
def test_a_plan_comes_back_from_a_file_and_from_another_process_as_it_was(crs: str | None) -> None:
    grid = Grid(CRS.from_user_input(crs) if crs else None, Affine(0.1, 0, 1 / 3, 0, -0.1, 2 / 3), 500, 300)
    plan = plan_of(
        "a b.tif", grid, classes=3, size=64, overlap=16, columns=256, bands=(Band(name="水", mean=1 / 3, std=2),)
    )
    full = request(
        scene="s.tif",
        output=Path("o/map.tif"),
        aoi=Path("a.gpkg"),
        bounds=(1.5, 2, 3, 4),
        bands=("red", "2"),
        max_memory=10**12,
        preview=Path("p.png"),
        creation={"compress": "zstd"},
        confidence=True,
    )
    plan = dataclasses.replace(plan, request=full, pixel_m=1 / 3, warnings=("one", "two"), area_fingerprint="f")
    back = MapPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert back == plan and back.digest == plan.digest and back.key == plan.key
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize("change", ["missing", "unknown", "other"])
def test_a_plan_of_another_version_is_not_followed(change: str) -> None:
    from cwsam_cli.predict.work import can_follow

    plan = plan_of("a.tif", Grid(None, Affine.identity(), 50, 30), classes=3, size=64, overlap=16, bands=())
    raw = plan.to_json()
    assert can_follow(plan, raw)
    if change == "missing":
        del raw["batch"]
    else:
        raw |= {"unheard_of": 1} if change == "unknown" else {"grid": 3}
    assert not can_follow(plan, raw)


@pytest.mark.parametrize(
    "change",
    [
        {"col_cuts": [0, 1000]},
        {"col_cuts": [0, 30, 20, 50]},
        {"col_cuts": [0, 12.5, 50]},
        {"col_cuts": []},
        {"batch": 0},
        {"batch": "many"},
        {"group": 0},
        {"memory": -1},
        {"memory": None},
        {"request": {}},
        {"request": []},
        {"layers": {"taxonomy": []}},
    ],
)
def test_a_plan_with_a_wrong_field_is_not_followed(change: dict[str, Any]) -> None:
    from cwsam_cli.predict.work import can_follow

    plan = plan_of("a.tif", Grid(None, Affine.identity(), 50, 30), classes=3, size=64, overlap=16, bands=())
    assert can_follow(plan, plan.to_json() | {"col_cuts": [0, 20, 50]})
    assert not can_follow(plan, plan.to_json() | change)


def test_a_part_of_the_request_with_a_wrong_value_is_not_followed() -> None:
    from cwsam_cli.predict.work import can_follow

    plan = plan_of("a.tif", Grid(None, Affine.identity(), 50, 30), classes=3, size=64, overlap=16, bands=())
    raw = plan.to_json()
    assert not can_follow(plan, raw | {"request": raw["request"] | {"bounds": [4, 3, 2, 1]}})


def test_the_key_holds_what_pixels_depend_on_and_nothing_else() -> None:
    plan = plan_of("a.tif", Grid(None, Affine.identity(), 50, 30), classes=3, size=64, overlap=16, bands=())

    def key(**changes: Any) -> dict[str, Any]:
        return dataclasses.replace(plan, request=dataclasses.replace(plan.request, **changes)).key

    same = {"batch_size": 3, "max_memory": 10**9, "gpus": 2, "output": Path("b.tif"), "overwrite": True}
    same |= {"format": "COG", "creation": {"compress": "lzw"}, "preview": Path("p.png"), "command": "x"}
    for name, value in same.items():
        assert key(**{name: value}) == plan.key, name
    other = {"overlap": 0.5, "tta": "d4", "bounds": (0, 0, 1, 1), "bands": ("1",), "alpha": "mask", "experts": True}
    for name, value in other.items():
        assert key(**{name: value}) != plan.key, name


def test_enough_memory_leaves_the_scene_whole_and_the_batch_as_asked() -> None:
    columns, batch = cut_alone(50_000, 20_000_000_000)
    assert columns >= 50_000 and batch == 8 and of(50_000).group(columns, batch) == 1


@pytest.mark.parametrize("limit", [1_000_000_000, 1_500_000_000, 2_000_000_000, 3_000_000_000])
def test_a_cut_stays_within_the_limit(limit: int) -> None:
    columns, batch = cut_alone(50_000, limit)
    assert of(50_000).bytes(columns, batch) <= limit
    assert columns % BLOCK == 0
    assert columns >= 1024  # halos of narrow columns would double the work


def test_more_memory_never_makes_columns_narrower_or_batches_smaller() -> None:
    found = [cut_alone(50_000, limit * 10**8) for limit in range(10, 80, 4)]
    batches = [batch for _, batch in found]
    assert batches == sorted(batches)
    for batch in set(batches):
        widths = [columns for columns, own in found if own == batch]
        assert widths == sorted(widths)


def test_memory_does_not_grow_with_height() -> None:
    needs = [of(9_000, height) for height in (20_000, 200_000)]
    sizes = [each.bytes(*cut(each, 9_000, request(), limit=10**11)) for each in needs]
    assert max(sizes) < 1.01 * min(sizes)


@pytest.mark.parametrize(("width", "group"), [(1000, 2), (400, 8), (5000, 1)])
def test_rows_of_windows_fill_batches_together_where_one_row_is_short(width: int, group: int) -> None:
    assert of(width).group(*cut_alone(width, 10**11)) == group


def test_too_little_memory_is_told_with_figures() -> None:
    with pytest.raises(MachineError, match=r"--max-memory 600 MB is not enough.* need \d+ MB") as caught:
        cut_alone(50_000, 600_000_000)
    assert caught.value.exit_code == 6 and "500 MB" in caught.value.hint


def test_processes_and_the_one_that_waits_for_them_share_the_memory() -> None:
    alone, waiting = cut_alone(50_000, 1_500_000_000), 400_000_000
    assert cut(of(50_000), 50_000, request(gpus=2), limit=3_400_000_000, waiting=waiting) == alone
    assert 2 * of(50_000).bytes(*alone) + waiting <= 3_400_000_000
    with pytest.raises(MachineError, match=r"--max-memory 1.5 GB is not enough.* need 1.99 GB") as caught:
        cut(of(50_000), 50_000, request(gpus=2), limit=1_500_000_000, waiting=waiting)
    assert "1.4 GB of it" in caught.value.hint


def test_every_layer_costs() -> None:
    plain, more = (of(9_000, layers=layers).bytes(*cut_alone(9_000, 10**11, layers=layers)) for layers in (1, 35))
    assert more > plain + 34 * 9_000 * 512


ON_A_GPU = {"fixed": 300_000_000, "device_fixed": 200_000_000}


@pytest.mark.parametrize("room", [600_000_000, 900_000_000, 2_000_000_000])
def test_a_cut_stays_within_the_memory_of_the_gpu(room: int) -> None:
    needs = of(50_000, **ON_A_GPU)
    columns, batch = cut(needs, 50_000, request(), limit=10**11, room=room)
    assert needs.device_bytes(columns, batch) <= room
    assert needs.device_bytes(2 * columns, batch) > room or columns >= 50_000
    assert cut(needs, 50_000, request(), limit=10**11, room=10**11)[1] == 8


def test_a_gpu_spares_the_main_memory() -> None:
    apart, together = of(9_000, **ON_A_GPU), of(9_000)
    assert apart.bytes(9_000, 8) - apart.fixed < 0.3 * (together.bytes(9_000, 8) - together.fixed)
    assert together.device_bytes(9_000, 8) == 0


def test_too_little_memory_of_the_gpu_is_told_with_figures() -> None:
    wished = request(gpu_memory=250_000_000)
    with pytest.raises(MachineError, match=r"the GPU's free 250 MB is not enough.* need \d+ MB"):
        cut(of(50_000, **ON_A_GPU), 50_000, request(), limit=10**11, room=250_000_000)
    with pytest.raises(MachineError, match=r"--gpu-memory 250 MB is not enough.* need \d+ MB") as caught:
        cut(of(50_000, **ON_A_GPU), 50_000, wished, limit=10**11, room=250_000_000)
    assert caught.value.exit_code == 6 and "200 MB of it are the weights" in caught.value.hint
