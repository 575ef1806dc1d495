"""Pictures of a report: map, reference and image of a piece of ground.

# H, W rows and columns of a picture
"""

import base64
import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True)
class Picture:
    """A piece of ground."""

    title: str
    predicted: NDArray[np.uint8]
    """Class indices (H, W), `IGNORE` where there is no data."""
    reference: NDArray[np.uint8] | None = None
    """Class indices (H, W), `IGNORE` where there is no label."""
    image: NDArray[np.uint8] | None = None
    """Red, green, blue and opacity (H, W, 4); pixels without data are transparent."""
    points: tuple[tuple[float, float, bool], ...] = ()
    """Column and row of points on the map, and whether the map is right there."""

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values: the image as a data URI, class indices as zlib-compressed bytes in base64."""
        height, width = self.predicted.shape
        told: dict[str, Any] = {"title": self.title, "width": width, "height": height, "map": _packed(self.predicted)}
        if self.reference is not None:
            told["reference"] = _packed(self.reference)
        if self.image is not None:
            buffer = io.BytesIO()
            Image.fromarray(self.image).save(buffer, format="WEBP", quality=85)
            told["image"] = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return told | ({"points": self.points} if self.points else {})


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of a report."""

    places: tuple[Picture, ...]
    worst: tuple[Picture, ...]


def _packed(indices: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(indices).tobytes(), 9)).decode()
