"""Check by exiftool that what a photograph says about itself comes through to the result.

Outside `make test`: python tests/check_metadata.py [PHOTOGRAPH ...]. Without arguments it takes a
drawn one that exiftool has given its tags; with them, photographs as cameras write them.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import ImageCms

sys.path.insert(0, str(Path(__file__).parents[1]))

from stackmff.errors import StackError
from stackmff.images.formats import decode, write_picture
from stackmff.images.metadata import CARRIED, DROPPED, Metadata
from stackmff.processes import run_main

SUFFIXES = (".png", ".tif", ".jpg", ".webp")
GROUPS = ("IFD0", "ExifIFD", "GPS")
TAGS = """\
IFD0:Make=Acme
IFD0:Model=One
IFD0:Artist=Adä
IFD0:Copyright=©Ada
IFD0:Software=9.1
IFD0:ModifyDate=2024:05:06 07:08:09
IFD0:Orientation#=6
IFD0:XResolution=240
IFD0:YResolution=240
IFD0:ResolutionUnit=inches
IFD0:ImageDescription=moss
IFD0:Rating=4
ExifIFD:ExposureTime=1/200
ExifIFD:FNumber=2.8
ExifIFD:ISO=400
ExifIFD:FocalLength=100
ExifIFD:ExposureCompensation=-1/3
ExifIFD:ShutterSpeedValue=1/200
ExifIFD:LensModel=Macro
ExifIFD:DateTimeOriginal=2024:05:06 07:08:09
ExifIFD:SubSecTimeOriginal=12
ExifIFD:UserComment=stacked
ExifIFD:ExifImageWidth=9999
ExifIFD:ExifImageHeight=9999
ExifIFD:LensInfo=100 100 2.8 undef
ExifIFD:SubjectDistance=0.31
ExifIFD:ColorSpace=sRGB
GPS:GPSLatitude=48.2
GPS:GPSLatitudeRef=N
GPS:GPSLongitude=11.5
GPS:GPSLongitudeRef=E
GPS:GPSAltitude=520
GPS:GPSAltitudeRef=0
XMP-dc:Creator=Adä
XMP-dc:Title=Moos
XMP-tiff:Orientation#=6
XMP-xmp:Rating=4
XMP-exif:ExifImageWidth=9999
"""


def exiftool(*words):
    done = subprocess.run(["exiftool", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise StackError(f"exiftool: {done.stderr.strip()}")
    return done.stdout


def tags_of(path):
    """{(group, number or name): (name, value)} of EXIF and XMP, and of the ICC profile."""
    (found,) = json.loads(exiftool("-j", "-G1", "-H", "-a", "-l", path))
    tags = {}
    for key, entry in found.items():
        group, _, name = key.partition(":")
        if isinstance(entry, dict) and (group in (*GROUPS, "IFD1", "ExifTool") or "XMP-" in group):
            number = int(entry["id"], 16) if str(entry.get("id", "")).startswith("0x") else name
            tags[group, number] = name, entry["val"]
        elif isinstance(entry, dict) and group == "ICC-header":
            tags[group, name] = name, entry["val"]
    return tags


def drawn_photograph(folder):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path, small = folder / "drawn.jpg", folder / "small.jpg"
    write_picture(path, picture, Metadata(profile=profile))
    write_picture(small, picture[::4, ::4])
    words = [f"-{line}" for line in TAGS.splitlines()]
    exiftool("-q", "-overwrite_original", *words, f"-ThumbnailImage<={small}", path)
    return path


def faults(source, result, width, height):
    """Sentences on tags of the result that are not as they should be."""
    before, after = tags_of(source), tags_of(result)
    for group, number in before:
        name, value = before[group, number]
        left = {"IFD0": number not in CARRIED, "ExifIFD": number in DROPPED}
        if group in ("IFD1", "ExifTool") or (left.get(group) and name != "Orientation"):
            continue
        wanted = {
            "ExifImageWidth": width,
            "ExifImageHeight": height,
            "Orientation": "Horizontal (normal)",
        }.get(name, value)
        found = after.get((group, number), (None, "nothing"))[1]
        if found != wanted:
            yield f"{result.suffix}: {group} {name} is {found}, not {wanted}"
    for group, number in after:
        if group == "IFD1":
            yield f"{result.suffix}: there is a thumbnail's directory"
        if group == "ExifTool" and "Warning" in after[group, number][0]:
            yield f"{result.suffix}: exiftool warns: {after[group, number][1]}"


def main():
    if shutil.which("exiftool") is None:
        raise StackError("exiftool is not there: install it (Debian: libimage-exiftool-perl)")
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for path in map(Path, sys.argv[1:] or [drawn_photograph(folder)]):
            decoded = decode(path)
            height, width = decoded.picture.shape[:2]
            for suffix in SUFFIXES:
                result = folder / f"result{suffix}"
                write_picture(result, decoded.picture, decoded.metadata)
                for fault in faults(path, result, width, height):
                    count += 1
                    print(f"{path.name} to {fault}")
            print(f"{path}: {len(tags_of(path))} tags, carried to {' '.join(SUFFIXES)}")
    return 1 if count else 0


if __name__ == "__main__":
    run_main(main)
