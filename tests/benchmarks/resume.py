"""Finding the parts of an 8-bit optimizer's state of the 10B model on another number of processes.

    python tests/benchmarks/resume.py

The state of `XinTong/10b_fsdp` on 8 processes is an index without data: what is measured is reading the index and
finding, for each weight, the parts that the first of 4 processes needs. Reading and decoding the data comes on top;
it depends on the disk and the processor.
"""

import pickle
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.futures import Future

from cwsam_cli.config.load import load_config
from cwsam_cli.learning.optim import MIN_8BIT_VALUES, VALUES_PER_SCALE
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.train.state import read_index, read_tensors, shapes

BEFORE, AFTER = 8, 4


def parts(name: str, shape: torch.Size) -> Iterator[tuple[str, torch.Size, torch.dtype]]:
    """What each of the processes writes of a weight's two averages."""
    for rank, rows in enumerate(torch.empty(shape[0], device="meta").chunk(BEFORE)):
        own = torch.Size((len(rows), *shape[1:]))
        coded = shape.numel() >= MIN_8BIT_VALUES
        for number in (1, 2):
            yield f"optimizer/{name}/state{number}/{rank}", own, torch.uint8 if coded else torch.float32
            if coded:
                yield (
                    f"optimizer/{name}/absmax{number}/{rank}",
                    torch.Size((-(-own.numel() // VALUES_PER_SCALE),)),
                    torch.float32,
                )


def write_index(folder: Path, weights: dict[str, torch.Size]) -> int:
    """Write the index of a state whose tensors are nowhere; the number of its entries."""
    entries, places = {}, {}
    for name, shape in weights.items():
        for place, size, dtype in parts(name, shape):
            start = torch.Size([0] * len(size))
            chunk = ChunkStorageMetadata(offsets=start, sizes=size)
            entries[place] = TensorStorageMetadata(TensorProperties(dtype=dtype), size, [chunk])
            places[MetadataIndex(place, start, 0)] = _StorageInfo("__0_0.distcp", 0, 1)
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(entries, storage_data=places)))
    return len(entries)


def nothing(*_: object) -> "Future[None]":
    """Read no data."""
    done: Future[None] = Future()
    done.set_result(None)
    return done


def main() -> None:
    """Measure, and say what an index read for every weight would take."""
    config = load_config("XinTong/10b_fsdp")
    with torch.device("meta"):
        model = ClassWiseSam(architecture(config.model, num_bands=3, num_classes=33))
    weights = {name: parameter.shape for name, parameter in model.named_parameters()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = write_index(folder, weights)
        began = time.process_time()
        index = read_index(folder)
        once = time.process_time() - began
        written = shapes(index)
        with mock.patch.object(FileSystemReader, "read_data", nothing):
            for name, shape in weights.items():
                wanted = {
                    place: torch.empty(size, dtype=dtype)
                    for place, size, dtype in parts(name, shape)
                    if int(place.rpartition("/")[2]) < BEFORE // AFTER and place in written
                }
                read_tensors(folder, wanted, index)
        took = time.process_time() - began
    often = 2 * count // BEFORE * once  # for two of eight processes' tensors
    print(
        f"{len(weights):,} weights, {count:,} entries, {BEFORE} → {AFTER} processes: {took:.1f} CPU s, "
        f"of which the index {once:.2f}; read again for every tensor, the index alone would take {often:,.0f}"
    )


if __name__ == "__main__":
    main()
