"""Record the origin of a run's model: data, configuration, versions and date."""

import hashlib
from datetime import UTC, datetime
from importlib.metadata import version

from cwsam_cli import __version__
from cwsam_cli.checkpoints.checkpoint import Provenance
from cwsam_cli.config.load import dump_config
from cwsam_cli.config.schema import RunConfig
from cwsam_cli.train.training_data import TrainingData

_LIBRARIES = ("torch", "numpy", "rasterio")


def find_provenance(config: RunConfig, data: TrainingData) -> Provenance:
    """Describe a run. Its data are identified by the names and sizes of the tiles; contents are not read."""
    splits = {"train": data.training, "val": data.validation}
    files = [path for split in splits.values() for pair in split.pairs for path in pair]
    listing = "\n".join(f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in files)
    return Provenance(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"cwsam": __version__} | {name: version(name) for name in _LIBRARIES},
        config=dump_config(config),
        data=", ".join(str(images) for images, _ in config.train_dataset.dataset.args.folders),
        data_sha256=hashlib.sha256(listing.encode()).hexdigest(),
        tiles={name: len(split.pairs) for name, split in splits.items()},
    )
