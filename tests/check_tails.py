"""How many files without compression are refused whose end was lost and reads as zeros.

Not collected by pytest, since it reads photographs:

    .venv/bin/python -m tests.check_tails PHOTO ...

Each photograph is written as BMP and as TIFF, and must be taken as it is. Then its end is zeros,
in 100 files from the start of a sector on, as on a disk, and in 100 from any byte.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from stackmff.errors import StackError
from stackmff.images.formats import decode, read_picture
from tests.drawn import saved, tiff

SECTOR = 512  # bytes
COUNT = 100  # files of each kind
LEAST = 1 / 10  # of the file that is kept


def files_of(picture):
    """{name: content} of a picture (H, W, 3) uint8 without compression."""
    return {
        "BMP": saved(picture, "BMP"),
        "TIFF in one strip": tiff(picture, photometric="rgb"),
        "TIFF in strips of 8 rows": tiff(picture, photometric="rgb", rowsperstrip=8),
        "TIFF of 16 bits": tiff(np.uint16(picture) * 257, photometric="rgb"),
        "TIFF in tiles": tiff(picture, photometric="rgb", tile=(256, 256)),
    }


def is_taken(path, data):
    """Whether a file is taken without a note."""
    path.write_bytes(data)
    try:
        return decode(path).note is None
    except StackError:
        return False


def main():
    """Print a table. Returns the exit status: 1 if a whole file is refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    args = parser.parse_args()
    refused, rng, whole = {}, np.random.default_rng(0), True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        for photo in args.photos:
            for name, data in files_of(np.ascontiguousarray(read_picture(photo)[..., :3])).items():
                if not is_taken(path, data):
                    print(f"{photo} as {name} is whole and is refused")
                    whole = False
                found = refused.setdefault(name, [0, 0])
                for _ in range(COUNT):
                    at = int(rng.integers(int(LEAST * len(data)), len(data) - SECTOR))
                    for k, start in enumerate((at - at % SECTOR, at)):
                        found[k] += not is_taken(path, data[:start] + bytes(len(data) - start))
    print(f"| {len(args.photos)} photographs, {COUNT} ends each | from a sector | from any byte |")
    for name, (sectors, anywhere) in refused.items():
        share = [100 * found / COUNT / len(args.photos) for found in (sectors, anywhere)]
        print(f"| {name} | {share[0]:.0f} % | {share[1]:.0f} % |")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
