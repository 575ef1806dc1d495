"""The wish behind one `cwsam sample`, validated before rasterio is loaded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_existing, refuse_input, was_killed
from cwsam_cli.survey.allocation import Allocation
from cwsam_cli.vector.formats import vector_driver

_LARGEST_UNIT = 64
"""Largest side of a block in pixels."""
_EXPECTED_HINT = "for example: --expected-ua 0.8, or --expected-ua 0.8,Water=0.95"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """What a user asks of `cwsam sample`.

    Raises:
        UsageError: options contradict each other, one that is needed is missing, or the output is an input.
        OutputExists: the output exists and may not be changed.
    """

    map_path: Path
    output: Path
    """The GeoPackage. A CSV of the same name is written too."""
    points: int | None = None
    """Number of points."""
    target_se: float | None = None
    """Standard error of the overall accuracy to reach."""
    target_area_se: float | None = None
    """Standard error of every class's share of the area to reach."""
    more: int | None = None
    """Number of points to add to the sample at `output`."""
    allocation: Allocation | None = None
    """None is proportional."""
    expected_ua: str | None = None
    """Expected user's accuracies, as text."""
    min_per_class: int | None = None
    """Smallest number of points per stratum; None is 10."""
    unit: str | None = None
    """`3x3` draws blocks of 3 × 3 pixels; None draws pixels."""
    strata: Path | None = None
    """A raster or polygons; None takes the map's classes."""
    strata_field: str | None = None
    """The field with the name of each polygon's stratum."""
    seed: int | None = None
    """None is 0."""
    chips: Path | None = None
    """A folder for one picture per point."""
    image: Path | None = None
    """The image that the pictures show."""
    band: int | None = None
    """The map's band, counted from 1; None if there is only one."""
    overwrite: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        sizes = [self.points, self.target_se, self.target_area_se, self.more]
        if sum(size is not None for size in sizes) != 1:
            raise UsageError(
                "the size of the sample needs one of -n, --target-se, --target-area-se and --more",
                hint="for example: -n 500",
            )
        self._refuse_design_options()
        needs_expected = self.target_se is not None or self.target_area_se is not None
        if (needs_expected or (self.allocation == "neyman" and self.more is None)) and self.expected_ua is None:
            raise UsageError(
                "Neyman's allocation and target errors need the accuracies that you expect", hint=_EXPECTED_HINT
            )
        if self.target_area_se is not None and self.strata is not None:
            raise UsageError("--target-area-se needs the map's classes as strata", hint="leave out --strata")
        if self.strata_field is not None and self.strata is None:
            raise UsageError("--strata-field needs --strata", hint="add --strata regions.gpkg")
        if (self.chips is None) != (self.image is None):
            raise UsageError(
                "--chips and --image need each other", hint="for example: --chips chips/ --image scene.tif"
            )
        if self.output.suffix.lower() != ".gpkg":
            raise UsageError(f"`{self.output}` is not a GeoPackage", hint="write a .gpkg; a .csv is written beside it")
        vector_driver(self.output)  # refuses names that cannot be written
        _ = self.expected, self.block_pixels  # a wrong one raises
        refuse_input(self.output, self.map_path, *([self.strata] if self.strata else []))
        if self.more is None:
            refuse_existing(self.output, overwrite=self.overwrite)
            is_left = was_killed(self.output)  # the CSV comes before the GeoPackage
            refuse_existing(self.output.with_suffix(".csv"), overwrite=self.overwrite or is_left)
        elif not self.output.exists():
            raise UsageError(
                f"there is no sample `{self.output}` that --more could continue", hint="draw the first one with -n"
            )
        if self.chips is not None:
            refuse_existing(self.chips, overwrite=False)

    def _refuse_design_options(self) -> None:
        """Refuse options that --more would ignore, because the first draw decided them."""
        decided = {
            "--allocation": self.allocation,
            "--expected-ua": self.expected_ua,
            "--min-per-class": self.min_per_class,
            "--unit": self.unit,
            "--seed": self.seed,
            "--overwrite": self.overwrite or None,
        }
        given = [name for name, value in decided.items() if value is not None]
        if self.more is not None and given:
            raise UsageError(
                f"{given[0]} does not go with --more, which continues the design in the file",
                hint=f"leave out {given[0]}",
            )

    @property
    def block_pixels(self) -> int:
        """Return the side of a unit in pixels."""
        if self.unit is None:
            return 1
        found = re.fullmatch(r"(\d+)x(\d+)", self.unit.strip().lower())
        if found is None or found[1] != found[2] or not 2 <= int(found[1]) <= _LARGEST_UNIT:
            raise UsageError(
                f"--unit `{self.unit}` is not a square of 2x2 to {_LARGEST_UNIT}x{_LARGEST_UNIT} pixels",
                hint="for example: --unit 3x3; without --unit, single pixels are drawn",
            )
        return int(found[1])

    @property
    def expected(self) -> Mapping[str, float]:
        """Return the expected accuracies by class name or code; the key "" is that of all other classes."""
        found: dict[str, float] = {}
        for part in self.expected_ua.split(",") if self.expected_ua else ():
            name, _, number = part.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if not 0 <= value <= 1 or name.strip() in found:
                raise UsageError(f"--expected-ua `{self.expected_ua}` is not a list of accuracies", hint=_EXPECTED_HINT)
            found[name.strip()] = value
        return found
