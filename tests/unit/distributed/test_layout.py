"""The parts of a weight are those that the processes hold."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.testing._internal.distributed.fake_pg import FakeStore

from cwsam_cli.config.schema import FsdpSettings
from cwsam_cli.distributed.layout import Layout, layout_of
from cwsam_cli.distributed.parallelize import shard
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from tests.distributed import workers

SHAPE = {"moe_experts_per_group": 4, "moe_decoder_experts": 4}


@pytest.mark.parametrize(("processes", "expert_parallel"), [(2, 1), (3, 1), (2, 2), (4, 2), (4, 4), (6, 2)])
def test_each_process_holds_the_part_that_its_layout_says(processes: int, expert_parallel: int) -> None:
    config = workers.configuration({"shape": SHAPE})
    arch = architecture(config.model, num_bands=4, num_classes=4)
    values: dict[str, int] = {}
    for rank in range(processes):
        with torch.device("meta"):
            model = ClassWiseSam(arch)
        dist.init_process_group("fake", rank=rank, world_size=processes, store=FakeStore())
        try:
            shard(
                model,
                init_device_mesh("cpu", (processes,)),
                precision="fp32",
                settings=FsdpSettings(),
                accumulates=False,
                expert_parallel=expert_parallel,
            )
            for name, weight in model.named_parameters():
                assert isinstance(weight, DTensor)
                layout = layout_of(weight)
                start, stop = layout.part(weight.shape, rank)
                size = tuple(last - first for first, last in zip(start, stop, strict=True))
                assert size == weight.to_local().shape
                mesh = weight.device_mesh.shape
                place = [rank] if len(mesh) == 1 else [rank // mesh[1], rank % mesh[1]]
                expected, offset = _compute_local_shape_and_global_offset(weight.shape, mesh, place, weight.placements)
                assert size == expected
                assert not weight.to_local().numel() or tuple(start) == offset
                assert layout.processes == processes
                assert layout.expert_parallel == (expert_parallel if ".groups." in name else 1)
                values[name] = values.get(name, 0) + weight.to_local().numel()
        finally:
            dist.destroy_process_group()
    assert values == {name: weight.numel() for name, weight in model.named_parameters()}


def test_a_whole_weight_is_one_part() -> None:
    assert layout_of(torch.zeros(3, 2)) == Layout()
    assert Layout().part((3, 2), 0) == ([0, 0], [3, 2])
