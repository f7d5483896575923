"""images/pixel_size.py: the size of a pixel in the scene, by what ImageJ writes."""

import numpy as np
import pytest
import tifffile

from stackmff.images.formats import decode
from stackmff.images.metadata import Metadata
from stackmff.images.pixel_size import pixel_size

PICTURE = np.zeros((8, 9), np.uint8)


def written(path, **options):
    tifffile.imwrite(path, PICTURE, **options)
    return pixel_size(decode(path).metadata)


@pytest.mark.parametrize(
    ("unit", "micrometres"), [("um", 0.25), ("micron", 0.25), ("mm", 250), ("pixel", None)]
)
def test_of_imagej(tmp_path, unit, micrometres):
    found = written(tmp_path / "a.tif", imagej=True, resolution=(4, 4), metadata={"unit": unit})
    assert found == (micrometres and pytest.approx(micrometres))


def test_the_resolution_of_a_print_is_none(tmp_path):
    assert written(tmp_path / "a.tif", resolution=(300, 300), resolutionunit="INCH") is None
    assert pixel_size(Metadata()) is None
    assert pixel_size(Metadata(exif=b"II*\0\x08\0\0\0\xff\xff")) is None
