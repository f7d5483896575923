"""How large a pixel is in the scene, by what ImageJ writes.

The resolution of a photograph is that of its print, and says nothing of the scene: the size counts
where ImageJ names a unit of length.
"""

import io
import re

from stackmff.images.metadata import DAMAGED, DESCRIPTION, RESOLUTIONS, Metadata, directory_of

# Micrometres of the units that ImageJ writes.
UNITS = {
    "nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "\\u00B5m": 1.0,
    "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25400.0,
}  # fmt: skip
IMAGEJ_UNIT = re.compile(r"^unit=(\S{1,20})\s*$", re.MULTILINE)
LOOKED_AT = 20_000  # characters of a description


def pixel_size(metadata: Metadata) -> float | None:
    """Side of a pixel in the scene, micrometres; None: not known."""
    try:
        first = directory_of(io.BytesIO(metadata.exif or b""))
        text = str(first.get(DESCRIPTION, ""))[:LOOKED_AT]
        unit = IMAGEJ_UNIT.search(text) if text.startswith("ImageJ") else None
        size = UNITS[unit[1]] / float(first[RESOLUTIONS[0]]) if unit else None
    except DAMAGED:
        return None
    return size if size is not None and 1e-6 < size < 1e9 else None
