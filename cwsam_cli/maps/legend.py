"""Names and colours of the codes of any class raster.

A legend allows more than a class table. National maps have codes above 254 and names for only some codes.
"""

from dataclasses import dataclass

from rasterio.io import DatasetReader

from cwsam_cli.raster.style import CLASSES_TAG, band_names, read_palette, read_taxonomy
from cwsam_cli.taxonomy import Taxonomy, default_color, make_printable


@dataclass(frozen=True, slots=True)
class Legend:
    """Names and `#rrggbb` colours by code. A code without an entry gets a default name and colour."""

    names: dict[int, str]
    colors: dict[int, str]

    @classmethod
    def of(cls, taxonomy: Taxonomy) -> "Legend":
        """Return the legend of a class table."""
        return cls(
            {entry.code: entry.name for entry in taxonomy.classes},
            {entry.code: entry.color for entry in taxonomy.classes},
        )

    @classmethod
    def read(cls, dataset: DatasetReader, band: int = 1) -> "Legend":
        """Read a raster's own legend: its class table, else its category names, attribute table and palette."""
        if dataset.tags().get(CLASSES_TAG):
            return cls.of(read_taxonomy(dataset, ()))
        names: dict[int, str] = {}
        for code, text in band_names(dataset, band).items():
            if name := make_printable(text):
                names[code] = f"{name} ({code})" if name in names.values() else name
        return cls(names, read_palette(dataset, band))

    def name(self, code: int) -> str:
        """Return the name of a code, `class 7` if it has none."""
        return self.names.get(code) or f"class {code}"

    def color(self, code: int) -> str:
        """Return the colour of a code as `#rrggbb`."""
        return self.colors.get(code) or default_color(code)
