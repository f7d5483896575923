"""EXIF blocks and colour profiles as photographs have them, for the tests of metadata."""

from functools import cache

from PIL import Image, ImageCms, TiffImagePlugin


@cache  # the profile tells the second at which it was made
def profile_of(space):
    if space == "sRGB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = bytearray(profile_of("sRGB"))
    profile[16:20] = space.encode()
    return bytes(profile)


def photograph(orientation=1):
    """An EXIF block as cameras write it, with a thumbnail and maker's notes."""
    exif = Image.Exif()
    exif.update({0x010F: "Acme", 0x0110: "One", 0x0112: orientation, 0x8298: "(c) Ada"})
    exif.update({0x011A: TiffImagePlugin.IFDRational(300), 0x0128: 2, 0x0100: 9999})
    exif[0x011B] = exif[0x011A]
    inner = exif.get_ifd(0x8769)
    inner.update({0x829A: TiffImagePlugin.IFDRational(1, 200), 0xA434: "EF 100 mm"})
    inner.update({0x9204: TiffImagePlugin.IFDRational(-1, 3), 0x927C: b"Acme\0" * 9})
    inner.update({0xA002: 9999, 0xA003: 9999})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 3.5)})
    return exif.tobytes().removeprefix(b"Exif\0\0")
