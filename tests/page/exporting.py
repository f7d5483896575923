"""Steps: exported files."""

import json
import struct
import zipfile

import cv2
import numpy as np
import tifffile
from PIL import ImageCms

from stackmff.images.colour import srgb_profile
from stackmff.images.formats import decode, write_picture
from stackmff.images.metadata import Metadata
from tests.drawn import draw_stack, texture
from tests.page.doing import (
    TALLY,
    fused,
    home,
    write_stack,
)
from tests.visit import must


def check_crop(page, folder, downloads):
    """A rectangle drawn on the picture crops the picture and its maps alike."""
    fused(page, write_stack(folder / "crop", 3, seed=12))
    page.choose("#crop", "free")
    hint = "return document.querySelector('#hint').textContent"
    page.until(hint, "Drag a rectangle on the picture")
    page.settled()
    page.drag("#picture", [(0.45, 0.4), (0.5, 0.5), (0.56, 0.55)])
    page.until("return !document.querySelector('#save').disabled")
    page.until(hint, "")
    told = page.text("#crop-size")
    page.choose("#format", "jpeg")
    page.choose("#quality", 60)
    sizes = []
    for selector in ("#save", '[data-what="focus"]', '[data-what="confidence"]'):
        height, width = cv2.imread(str(page.download(downloads, selector)), -1).shape[:2]
        sizes.append(f"{width} × {height} pixels")
    must(set(sizes) == {told} and "360" not in told, f"a crop of {told} gives {sizes}")
    area = json.loads(page.download(downloads, '[data-what="alignment"]').read_text())["area"]
    must(f"{area[3] - area[2]} × {area[1] - area[0]} pixels" == told, f"the alignment has {area}")
    page.choose("#crop", "")
    page.choose("#format", "tiff")
    home(page)


def check_exports_tell(page, folder, downloads):
    """A file that is written is shown; one that fails is told, and one that was saved, too."""
    fused(page, write_stack(folder / "exports", 2, seed=13))
    must(page.text("#export h2") == "Export version 1", "the export does not say of what it is")
    top = "return document.querySelector('#crop').getBoundingClientRect().top"
    before = page.run(top)
    page.run("localStorage.removeItem('export-quality')")  # of a step before
    page.choose("#format", "jpeg")
    must(page.run(top) == before, "the choice of JPEG moves what is below it")
    must(page.run("return document.querySelector('#quality').value") == "95", "JPEG has no quality")
    name = page.text("#file-name")
    must(name == "DSC_0401_fused.jpg", f"the file is to be called {name!r}")
    page.choose("#crop", "common")
    saved = page.download(downloads, "#save")
    page.until("return document.querySelector('#exporting').innerText.includes('Saved')")
    height, width = cv2.imread(str(saved)).shape[:2]
    told = page.text("#exporting").strip()
    must(told == f"Saved {saved.name} ({width} × {height})", f"a saved file is told as {told!r}")
    page.choose("#crop", "")
    page.choose("#format", "tiff")
    slow = """
        const known = window.fetch;
        window.fetch = async (path, ...others) => {
            if (!String(path).includes('/exports/')) return known(path, ...others);
            await new Promise(good => setTimeout(good, 1000));
            const told = {done: true, failure: 'the disk is full', notes: []};
            return new Response(JSON.stringify(told));
        };
        window.quick = () => (window.fetch = known);
    """
    page.run(slow)
    page.click("#save")
    page.until("return document.querySelector('#exporting').innerText.includes('writing')")
    page.until("return document.querySelector('#messages').innerText.includes('the disk is full')")
    page.until(TALLY.format("#exporting progress"), 0)
    page.run("window.quick()")
    home(page)


def check_profiles(page, folder, downloads):
    """A 16-bit TIFF with a profile keeps both, and a JPEG in sRGB has that of sRGB.

    Who converts to sRGB still gets 16 bits of what is in sRGB already.
    """
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = []
    for k, frame in enumerate(draw_stack(texture(120, 180, 30), 3)):
        files.append(folder / "deep" / f"d{k}.tif")
        write_picture(files[-1], frame.astype(np.uint16) * 257, Metadata(profile=profile))
    fused(page, files)
    page.choose("#format", "tiff")
    page.choose("#bits", "16")
    taken = page.download(downloads, "#save")
    must(tifffile.imread(taken).dtype == np.uint16, "16 bits are lost")
    must(decode(taken).metadata.profile == profile, "the profile is lost")
    page.choose("#format", "jpeg")
    page.click("#srgb")
    taken = page.download(downloads, "#save")
    must(decode(taken).metadata.profile == srgb_profile(), "a JPEG in sRGB has another profile")
    page.choose("#format", "tiff")
    must(page.run("return document.querySelector('#bits').disabled"), "sRGB has 16 bits")
    home(page)
    fused(page, write_stack(folder / "plain", 2, (60, 90), seed=38))
    must(not page.run("return document.querySelector('#bits').disabled"), "16 bits are not offered")
    taken = page.download(downloads, "#save")
    must(tifffile.imread(taken).dtype == np.uint16, "16 bits of frames in sRGB are lost")
    page.run("document.querySelector('#srgb').click()")
    home(page)


def check_annotations(page, folder, downloads, shots):
    """The size of a pixel that ImageJ wrote makes a scale bar; a label and films are written."""
    place = folder / "microscope"
    place.mkdir()
    for k, frame in enumerate(draw_stack(texture(240, 360, 80), 3)):
        options = {"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um"}}
        tifffile.imwrite(place / f"m{k}.tif", frame, **options)
    fused(page, sorted(place.iterdir()))
    offered = page.run("return document.querySelector('#pixel-size').value")
    must(offered == "0.5", f"the size of a pixel that is offered is {offered!r}")
    page.choose("#format", "png")
    page.choose("#bits", "8")
    page.choose("#pixel-size", "")
    plain = cv2.imread(str(page.download(downloads, "#save")))
    page.choose("#pixel-size", offered)
    page.choose("#label", "{stack}, version {version}")
    page.choose("#template", "{stack}_barred")
    written = cv2.imread(str(page.download(downloads, "#save")))
    page.choose("#template", "{stack}_fused")
    changed = (plain != written).any(2)
    must(not changed[:180].any(), "what is written reaches into the middle of the picture")
    for name, part in (("label", changed[:, :100]), ("scale bar", changed[:, 200:])):
        must(part.any(), f"there is no {name}")
    white = (written[180:, 200:] == 255).all(2).sum(1).max()
    must(white == 40, f"the bar of 20 µm is {white} px long, not 40")
    if shots is not None:
        cv2.imwrite(str(shots / "annotated.png"), written)
    page.choose("#label", "")
    page.choose("#bits", "16")
    page.choose("#format", "tiff")
    for kind, start in (("gif", b"GIF89a"), ("mp4", b"ftyp")):
        film = page.download(downloads, f'[data-what="rocking-{kind}"]')
        must(start in film.read_bytes()[:12], f"{film.name} is not a {kind}")
        if shots is not None:
            (shots / f"rocking.{kind}").write_bytes(film.read_bytes())
    home(page)


def check_all_stacks(page, folder, downloads):
    """All stacks are written as one archive, each in the format that is chosen."""
    names = ("left wing", "right wing")
    for k, name in enumerate(names):
        write_stack(folder / "all" / name, 2, (120, 180 + 60 * k), seed=35 + k)
    page.drop([folder / "all" / name for name in names])
    page.until("return document.querySelector('#fuse-all').innerText", "Fuse all (2)")
    page.until("return !document.querySelector('#fuse-all').disabled")
    page.click("#fuse-all")
    page.until(
        "return [...document.querySelectorAll('#shelf .state')].filter(one =>"
        " one.textContent.includes('1 version')).length",
        2,
    )
    page.until("return document.querySelector('#save-all').checkVisibility()")
    page.choose("#format", "webp")
    sizes = []
    for quality in (20, 90):
        page.choose("#quality", quality)
        path = page.download(downloads, "#save-all")
        with zipfile.ZipFile(path) as archive:
            taken = {name: archive.read(name) for name in archive.namelist()}
        path.unlink()  # the next one has its name
        wanted = {f"{name}_fused.webp" for name in names}
        must(taken.keys() == wanted, f"the archive of all stacks has {sorted(taken)}")
        shapes = [
            cv2.imdecode(np.frombuffer(taken[f"{name}_fused.webp"], np.uint8), -1).shape[:2]
            for name in names
        ]
        must(shapes == [(120, 180), (120, 240)], f"the pictures of all stacks are {shapes}")
        sizes.append(sum(map(len, taken.values())))
    must(1.5 * sizes[0] < sizes[1], f"the quality of WebP makes files of {sizes} bytes")
    page.choose("#quality", 95)
    page.choose("#format", "tiff")
    home(page)


def check_model(page, folder, downloads):
    """The 3D model is a binary glTF whose triangles lie on the picture, which is its texture."""
    fused(page, write_stack(folder / "model", 4, seed=37))
    data = page.download(downloads, '[data-what="model"]').read_bytes()
    magic, version, length, text = struct.unpack_from("<4sIII", data)
    must((magic, version, length) == (b"glTF", 2, len(data)), "the 3D model is not a binary glTF")
    record, binary = json.loads(data[20 : 20 + text]), data[28 + text :]
    views = [binary[view["byteOffset"] :][: view["byteLength"]] for view in record["bufferViews"]]
    points = np.frombuffer(views[0], "<f4").reshape(-1, 3)
    must(np.frombuffer(views[2], "<u4").max() == len(points) - 1, "a triangle has no such corner")
    wide, high = np.ptp(points[:, :2], axis=0)
    must(abs(wide / high - 360 / 240) < 0.02, f"the 3D model is {wide} wide and {high} high")
    must(np.ptp(points[:, 2]) > 0.01, "the 3D model is flat")
    texture_of = cv2.imdecode(np.frombuffer(views[3], np.uint8), cv2.IMREAD_COLOR)
    must(texture_of.shape == (240, 360, 3), f"its texture is {texture_of.shape}")
    home(page)
