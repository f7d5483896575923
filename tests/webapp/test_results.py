"""webapp/results.py, strokes.py, exports.py: tiles, the origin of pixels, strokes, files."""

import base64
import json
import struct
import threading
import time

import cv2
import numpy as np
import pytest
from PIL import ImageCms

from stackmff.alignment.geometry import Alignment
from stackmff.alignment.record import load_alignment, save_alignment
from stackmff.errors import StackError
from stackmff.fusion.blending import Mixture
from stackmff.fusion.fuse import fuse_stack, origin_at
from stackmff.fusion.regions import Region
from stackmff.fusion.retouch import Stroke, record_of, save_strokes, stroke_of
from stackmff.images.colour import srgb_profile
from stackmff.images.formats import decode, to_8_bits
from stackmff.images.frame_store import Storage
from stackmff.images.stack import read_stack
from stackmff.webapp.exports import write_export
from stackmff.webapp.jobs import ExportSpec
from stackmff.webapp.results import SMALL, TILE, ShownResult
from stackmff.webapp.strokes import filled_by
from stackmff.webapp.tiles import CopyCache
from tests.drawn import draw_stack, texture, waves
from tests.stand_ins import Engine, brightest, only
from tests.waiting import LATEST

HEIGHT, WIDTH = 96, 1304  # more than two tiles


@pytest.fixture
def result(tmp_path):
    """A result as a process leaves it: the left half of frame 0, the right one of frame 2."""
    answer = waves(height=HEIGHT, width=WIDTH)
    frames = np.stack(draw_stack(answer, 3))
    frames.tofile(tmp_path / "frames.raw")
    fused = frames[0].astype(np.uint16) * 257
    fused[:, WIDTH // 2 :] = frames[2][:, WIDTH // 2 :] * np.uint16(257)
    focus = np.zeros((HEIGHT, WIDTH), np.uint16)
    focus[:, WIDTH // 2 :] = 65535
    sure = np.full((HEIGHT, WIDTH), 255, np.uint8)
    sure[:, 600:700] = 90
    for name, plane in (("fused", fused), ("focus", focus), ("confidence", sure)):
        np.save(tmp_path / f"{name}.npy", plane)
    record = {
        "shape": frames.shape,
        "dtype": "uint8",
        "files": ["a.png", "b.png", "c.png"],
        "names": ["a.png", "b.png", "c.png"],
        "kept": [0, 1, 2],
        "notes": [],
        "area": None,
        "seconds": 1.0,
        "tilt": 0,
        "first_is_near": None,
        "metadata": {"exif": None, "xmp": None, "profile": None},
    }
    (tmp_path / "result.json").write_text(json.dumps(record))
    return ShownResult(tmp_path)


def opened(data):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("layer", ["fused", 1])
def test_tiles_at_full_size_are_the_picture(result, layer):
    whole = to_8_bits(np.array(result.plane(layer)))
    tiles = [opened(result.tile(layer, 0, column, 0)) for column in range(3)]
    assert [tile.shape[1] for tile in tiles] == [TILE, TILE, WIDTH - 2 * TILE]
    assert np.abs(np.hstack(tiles).astype(int) - whole).mean() < 1.5  # JPEG
    assert result.tile(layer, 0, 3, 0) is None
    assert result.tile(layer, 0, 0, 1) is None


@pytest.mark.parametrize("level", [1, 2, 3])
def test_far_views_are_means_of_areas(result, level):
    small = opened(result.tile("fused", level, 0, 0))
    step = 2**level
    wide = min(WIDTH, TILE * step)
    assert small.shape[:2] == (-(-HEIGHT // step), -(-wide // step))
    part = to_8_bits(np.array(result.picture[:, :wide]))
    wanted = cv2.resize(part, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - wanted).mean() < 1.5


def test_overlays_are_painted(result):
    focus = opened(result.tile("focus", 2, 0, 0))
    assert focus[5, 5, 2] > focus[5, 5, 1]  # dark blue, the first frame
    assert focus[5, -5, 0] > focus[5, -5, 2]  # yellow, the last one
    data = np.frombuffer(result.tile("confidence", 0, 1, 0), np.uint8)
    doubt = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)  # BGRA
    assert doubt[50, 400, 3] < 5  # clear where it is sure
    assert doubt[50, 650 - TILE, 3] > 100
    assert doubt[50, 650 - TILE, 2] > 200  # orange


def test_a_pixel_names_its_frame_or_the_mixture(result):
    told = result.pixel(10, 20)
    assert (told["frame"], told["share"], told["mixed"], told["stroke"]) == (
        "a.png",
        1.0,
        False,
        None,
    )
    assert result.pixel(WIDTH - 1, HEIGHT - 1)["frame"] == "c.png"
    assert result.pixel(650, 3)["mixed"]
    for place in ((-1, 0), (0, -1), (WIDTH, 0), (0, HEIGHT)):
        with pytest.raises(StackError, match="is outside the picture of 1304x96"):
            result.pixel(*place)


def test_strokes_are_painted_named_and_undone(result):
    before = np.array(result.picture)
    far = opened(result.tile("fused", 2, 0, 0))
    stroke = Stroke(1, 20.0, 0.5, np.array([[600.0, 40.0], [640.0, 60.0]]))
    box = result.paint(stroke)
    after = np.array(result.picture)
    assert np.array_equal(after[40, 600], np.uint16(257) * result.frames[1][40, 600])
    assert result.pixel(600, 40)["stroke"] == {"frame": "b.png", "share": 1.0}
    outside = (before != after).any(2)
    outside[box.slices] = False
    assert not outside.any()
    assert np.array_equal(result.fused, before)
    small = opened(result.tile("fused", 2, 0, 0))
    wanted = cv2.resize(
        to_8_bits(after), None, fx=1 / SMALL, fy=1 / SMALL, interpolation=cv2.INTER_AREA
    )
    place = np.s_[8:16, 140:170]
    assert np.abs(small[place].astype(int) - wanted[place]).mean() < 1.5
    result.undo()
    assert np.array_equal(result.picture, before)
    assert result.pixel(600, 40)["stroke"] is None
    assert np.array_equal(opened(result.tile("fused", 2, 0, 0)), far)
    assert result.undo() == []


def test_the_mixture_of_a_pixel_is_the_networks(result):
    engine = Engine(brightest)
    for x, y in ((0, 0), (650, 44), (WIDTH - 1, HEIGHT - 1)):
        shares = dict(result.origin_at(x, y, engine).shares)
        values = np.float64(result.frames[:, y, x]) @ [0.299, 0.587, 0.114] / 255
        wanted = np.exp(4 * values) / np.exp(4 * values).sum()
        assert [shares[name] for name in result.names] == pytest.approx(wanted, abs=2e-3)
    assert result.origin_at(5, 5, Engine(only(1))).shares == [("b.png", 1.0)]


def test_a_mixture_is_that_of_the_whole_picture():
    frames = np.stack(draw_stack(texture(40, 60, 0), 4))
    fused = fuse_stack(frames, Engine(brightest), mixture=Mixture(maps=False, deep=True, tilt=1.5))
    shares = origin_at(frames, Engine(brightest), 33, 21, mixture=Mixture(tilt=1.5)).shares
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    mixed = np.float64(shares) @ frames[:, 21, 33]
    assert fused.picture[21, 33] / 257 == pytest.approx(mixed, abs=0.02)


def test_frames_that_take_no_part_have_no_share():
    frames = np.stack(draw_stack(texture(40, 60, 0), 4))
    shares = origin_at(frames, Engine(brightest), 3, 2, mixture=Mixture(use=[1, 3])).shares
    assert shares[[0, 2]].tolist() == [0, 0]
    assert shares.sum() == pytest.approx(1, abs=1e-5)


def test_a_surface_comes_with_its_texture(result):
    data = result.surface()
    length = int.from_bytes(data[:4], "little")
    levels = np.frombuffer(data[4 : 4 + length], "<u2")
    assert levels[0] * levels[1] == len(levels) - 2
    assert abs(levels[0] / levels[1] - WIDTH / HEIGHT) < 0.8
    assert opened(data[4 + length :]).shape == (HEIGHT, WIDTH, 3)


def exported(result, folder, what="picture", area=None, name="x.png", **more):
    strokes = folder / "strokes.json"
    save_strokes(strokes, result.strokes, result.names, result.size)
    path = folder / name
    write_export(ExportSpec(str(result.folder), str(strokes), str(path), what, area=area, **more))
    return path


def test_files_that_a_result_lacks_are_refused(result, tmp_path):
    for what in ("alignment", "slabs", "../x"):
        with pytest.raises(StackError, match="fuse again with that option"):
            exported(result, tmp_path, what)


def test_a_crop_keeps_its_area_of_the_picture_and_of_the_maps(result, tmp_path):
    result.paint(Stroke(1, 20.0, 0.5, np.array([[40.0, 30.0]])))
    area = (10, 50, 20, 80)
    cut = cv2.imread(str(exported(result, tmp_path, area=area)))[..., ::-1]
    assert np.array_equal(cut, to_8_bits(np.array(result.picture[10:50, 20:80])))
    for what, plane in (("focus", result.focus_map), ("confidence", result.confidence)):
        path = exported(result, tmp_path, what, area)
        assert np.array_equal(cv2.imread(str(path), -1), plane[10:50, 20:80])


def test_an_exported_alignment_names_the_area(result, tmp_path):
    still = Alignment(1, result.size, [np.eye(2, 3)] * 3, np.ones((3, 3)))
    save_alignment(result.files.alignment, still, result.names)
    again = ShownResult(result.folder)
    path = exported(again, tmp_path, "alignment", (10, 50, 20, 80), "x.json")
    assert json.loads(path.read_text())["area"] == [10, 50, 20, 80]
    load_alignment(path, result.names, result.size, 3)  # whole frames can be aligned with it


def test_an_export_in_srgb_has_its_profile(result, tmp_path):
    record = json.loads(result.files.record.read_text())
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    record["metadata"]["profile"] = base64.b64encode(profile).decode()
    result.files.record.write_text(json.dumps(record))
    with pytest.raises(StackError, match="cannot be converted to sRGB"):
        exported(result, tmp_path, srgb=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    record["metadata"]["profile"] = base64.b64encode(profile).decode()
    result.files.record.write_text(json.dumps(record))
    assert decode(exported(result, tmp_path)).metadata.profile == profile
    wanted = to_8_bits(np.array(result.fused)).astype(int)
    for name in ("a.png", "a.tif", "a.jpg", "a.webp"):
        decoded = decode(exported(result, tmp_path, name=name, srgb=True))
        assert decoded.metadata.profile == srgb_profile()
        assert name == "a.jpg" or np.abs(decoded.picture.astype(int) - wanted).max() <= 1


def test_what_is_in_srgb_already_keeps_its_bits(result, tmp_path):
    assert decode(exported(result, tmp_path, srgb=True, bits=16)).picture.dtype == np.uint16


def test_a_lower_quality_makes_a_smaller_file(result, tmp_path):
    for name in ("a.jpg", "a.webp"):
        sizes = [
            exported(result, tmp_path, name=name, quality=quality).stat().st_size
            for quality in (95, 30)
        ]
        assert sizes[1] < sizes[0]


def test_strokes_are_redone_and_come_back(result):
    """Also after the process was killed in the middle of a line of the log."""
    strokes = [Stroke(1, 20.0, 0.5, np.array([[x, 40.0]]), 0.7) for x in (100.0, 400.0, 700.0)]
    for stroke in strokes:
        result.paint(stroke)
    whole = np.array(result.picture)
    assert len(result.undo(2)) == 2
    partly = np.array(result.picture)
    assert [len(result.strokes), len(result.undone)] == [1, 2]
    with open(result.files.strokes, "a") as log:
        log.write('\n{"paint": {"frame": "a.p')
    again = ShownResult(result.folder)
    assert np.array_equal(again.picture, partly)
    assert len(again.redo()) == 1 and len(again.redo(5)) == 1
    assert again.redo() == []
    assert np.array_equal(again.picture, whole)
    again.undo()
    again.paint(strokes[0])
    assert again.undone == []  # another stroke ends what can be redone
    assert len(ShownResult(result.folder).strokes) == 3


def test_another_frame_fills_a_region(result):
    """As a page asks for it: the record of the region with the name of another frame."""
    mask = np.ones((8, 30), bool)
    region = Region(0, (HEIGHT, WIDTH), (24, 326), 8, 20, mask)
    before = np.array(result.picture)
    entry = record_of(region, result.names) | {"frame": "c.png"}
    box = result.paint(stroke_of(json.loads(json.dumps(entry)), result.names))
    inside = np.s_[34:62, 82:198]  # cells 8 to 15 and 20 to 49 of 4 px, without half a cell
    assert np.array_equal(result.picture[inside], result.frames[2][inside] * np.uint16(257))
    found = [record_of(region, result.names)]
    assert filled_by(found, result.strokes, result.names) == ["c.png"]
    assert result.stroke_at(140, 50) == {"frame": "c.png", "share": 1.0}
    assert result.stroke_at(700, 50) is None
    again = ShownResult(result.files.folder)
    assert np.array_equal(again.picture, result.picture)
    assert result.undo(1) == [box]
    assert np.array_equal(result.picture, before)
    assert filled_by(found, result.strokes, result.names) == ["a.png"]


def test_no_two_pictures_have_one_stamp(result):
    """Browsers keep tiles for an hour by their address, which has the stamp."""
    stroke = Stroke(1, 20.0, 0.5, np.array([[100.0, 40.0]]))
    seen = [result.stamp]
    for change in (lambda: result.paint(stroke), result.undo, result.redo, result.undo):
        change()
        seen.append(result.stamp)
    again = ShownResult(result.folder)
    seen.append(again.stamp)
    again.paint(stroke)
    seen.append(again.stamp)
    assert len(set(seen)) == len(seen)


def test_small_copies_of_all_results_are_bounded():
    cache = CopyCache(250)
    for k in range(5):
        cache.put("a", k, np.full(100, k, np.uint8))
    assert cache.get("a", 0) is None
    assert cache.get("a", 4)[0] == 4 and cache.get("a", 3)[0] == 3
    cache.put("b", 3, np.zeros(100, np.uint8))
    assert cache.get("a", 4) is None  # it was used least recently
    assert cache.bytes == 200
    cache.put("b", 3, np.zeros(50, np.uint8))
    assert cache.bytes == 150


def test_a_small_copy_is_made_once_however_many_ask():
    cache, made, free, found = CopyCache(250), [], threading.Event(), []

    def make():
        made.append(0)
        free.wait(LATEST)
        return np.zeros(100, np.uint8)

    asking = [
        threading.Thread(target=lambda: found.append(cache.made("a", 0, make))) for _ in range(4)
    ]
    for thread in asking:
        thread.start()
    while not made:
        time.sleep(0.001)
    time.sleep(0.05)  # the others have come to it, or may come later
    free.set()
    for thread in asking:
        thread.join()
    assert len(made) == 1 and len({id(copy) for copy in found}) == 1
    assert not cache.making


def test_a_model_is_a_surface_with_a_texture(result, tmp_path):
    result.paint(Stroke(1, 20.0, 0.5, np.array([[600.0, 40.0]])))
    data = exported(result, tmp_path, "model", name="x.glb").read_bytes()
    magic, version, length, text, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    record = json.loads(data[20 : 20 + text])
    body = data[28 + text :]
    places, across, corners, texture = (
        body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        for view in record["bufferViews"]
    )
    points = np.frombuffer(places, "<f4").reshape(-1, 3)
    assert len(points) * 8 == len(across)
    assert np.frombuffer(corners, "<u4").max() == len(points) - 1
    assert points[:, 0].max() - points[:, 0].min() == pytest.approx(1, abs=0.01)
    assert points[:, 2].min() >= 0 and points[:, 2].max() <= 0.161
    assert record["accessors"][0]["max"] == points.max(0).tolist()
    # The surface is seen from +z: its faces turn counter-clockwise.
    a, b, c = points[np.frombuffer(corners, "<u4")[:3]]
    assert np.cross(b - a, c - a)[2] > 0
    assert opened(texture).shape == (HEIGHT, WIDTH, 3)


def test_faint_strokes_are_faint(result):
    before = result.picture[40, 600].astype(int)
    result.paint(Stroke(1, 20.0, 0.0, np.array([[600.0, 40.0]]), 0.25))
    wanted = before + (257 * result.frames[1][40, 600].astype(int) - before) * 0.25
    assert np.abs(result.picture[40, 600] - wanted).max() <= 1


def test_the_sharpest_frame_of_a_place_is_found(tmp_path):
    answer = texture(60, 90, 0)
    frames = np.stack([cv2.GaussianBlur(answer, (0, 0), 3), answer, answer // 2 + 60])
    folder = written(tmp_path / "one", frames)
    assert ShownResult(folder).sharpest_at(45, 30) == 1
    with pytest.raises(StackError, match="outside the picture"):
        ShownResult(folder).sharpest_at(90, 30)


def test_a_draft_is_shown_in_the_place_of_the_picture(tmp_path):
    frames = np.stack(draw_stack(texture(100, 300, 0), 3))
    folder = written(tmp_path / "draft", frames, whole=(402, 1203))
    draft = ShownResult(folder)
    assert draft.shown_size == (402, 1203)
    assert draft.tile("fused", 1, 0, 0) is None  # it has no such detail
    assert opened(draft.tile("fused", 2, 0, 0)).shape[:2] == (100, 300)
    assert opened(draft.tile(0, 3, 0, 0)).shape[:2] == (50, 150)
    assert draft.pixel(1202, 401)["frame"] in draft.names
    with pytest.raises(StackError, match="outside the picture of 1203x402"):
        draft.pixel(1203, 0)


def written(folder, frames, **more):
    """A result of frames as a process leaves it; returns its folder."""
    folder.mkdir(parents=True)
    frames.tofile(folder / "frames.raw")
    np.save(folder / "fused.npy", frames[0].astype(np.uint16) * 257)
    np.save(folder / "focus.npy", np.zeros(frames.shape[1:3], np.uint16))
    names = [f"{k}.png" for k in range(len(frames))]
    record = {"shape": frames.shape, "dtype": "uint8", "files": names, "names": names}
    record |= {"kept": list(range(len(names))), "notes": [], "area": None, "seconds": 1.0}
    record |= {"tilt": 0, "first_is_near": None, "metadata": {}}
    (folder / "result.json").write_text(json.dumps(record | more))
    return folder


def test_8_bits_of_16_are_those_fused_at_once():
    """So the page keeps 16 bits and gives 8 that are predict.py's."""
    frames = np.stack(draw_stack(texture(60, 80, 3), 5))
    deep = fuse_stack(frames, Engine(brightest), mixture=Mixture(maps=False, deep=True)).picture
    assert np.array_equal(
        to_8_bits(deep), fuse_stack(frames, Engine(brightest), mixture=Mixture(maps=False)).picture
    )


def test_frames_are_read_into_a_file_that_stays(tmp_path):
    paths, seen = [tmp_path / f"{k}.png" for k in range(3)], []
    for k, path in enumerate(paths):
        cv2.imwrite(str(path), texture(20, 30, k))
    store = tmp_path / "frames.raw"
    stack = read_stack(
        paths, storage=Storage(store=store), progress=lambda *step: seen.append(step)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    stack.frames[0] = 7  # as alignment does, in place
    held = np.fromfile(store, np.uint8).reshape(3, 20, 30, 3)
    assert (held[0] == 7).all()
    assert np.array_equal(held[1:], read_stack(paths).frames[1:])
