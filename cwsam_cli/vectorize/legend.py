"""What the codes of any class raster are called and how they are drawn.

Wider than a class table: national maps have codes beyond 254, and names for only some.
"""

from dataclasses import dataclass

from rasterio.io import DatasetReader

from cwsam_cli.raster.style import CLASSES_TAG, band_names, read_palette, read_taxonomy
from cwsam_cli.taxonomy import Taxonomy, default_color


@dataclass(frozen=True, slots=True)
class Legend:
    """Names and colours by code; every code has both."""

    names: dict[int, str]
    colors: dict[int, str]

    @classmethod
    def of(cls, taxonomy: Taxonomy) -> "Legend":
        """The legend that a class table is."""
        return cls(
            {entry.code: entry.name for entry in taxonomy.classes},
            {entry.code: entry.color for entry in taxonomy.classes},
        )

    @classmethod
    def read(cls, dataset: DatasetReader, band: int = 1) -> "Legend":
        """What a raster itself knows: its class table, else category names, attribute table and palette."""
        if dataset.tags().get(CLASSES_TAG):
            return cls.of(read_taxonomy(dataset, ()))
        names: dict[int, str] = {}
        for code, name in band_names(dataset, band).items():
            if name:
                names[code] = f"{name} ({code})" if name in names.values() else name
        return cls(names, read_palette(dataset, band))

    def name(self, code: int) -> str:
        """The class's name."""
        return self.names.get(code) or f"class {code}"

    def color(self, code: int) -> str:
        """`#rrggbb`."""
        return self.colors.get(code) or default_color(code)
