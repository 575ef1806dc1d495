"""Pictures of the report: image, reference and map of a piece of ground.

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
    image: NDArray[np.uint8]
    """Red, green, blue and opacity (H, W, 4); pixels without data are transparent."""
    reference: NDArray[np.uint8]
    """Class indices (H, W), `IGNORE` where there is no label."""
    predicted: NDArray[np.uint8]
    """Class indices (H, W), `IGNORE` where there is no data."""

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values: the image as a data URI, class indices as zlib-compressed bytes in base64."""
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, format="WEBP", quality=85)
        return {
            "title": self.title,
            "width": self.image.shape[1],
            "height": self.image.shape[0],
            "image": f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}",
            "reference": _packed(self.reference),
            "map": _packed(self.predicted),
        }


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of a report."""

    places: tuple[Picture, ...]
    worst: tuple[Picture, ...]


def _packed(indices: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(indices).tobytes(), 9)).decode()
