"""Files that are damaged at random, and what must become of them: a result or one sentence.

Each `Kind` has files as this program or others write them, ways to damage them, and what is done
with them. Everything follows from a seed. tests/test_fuzzing.py runs a part, check_fuzz.py all.
"""

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
from PIL import Image

from stackmff.alignment.geometry import Alignment
from stackmff.alignment.record import load_alignment, save_alignment
from stackmff.display.report import Card, read_card, write_card, write_report
from stackmff.errors import StackError
from stackmff.fusion.engine_choice import choose_engine
from stackmff.fusion.hyperstack import hyperstack_at
from stackmff.fusion.options import FuseOptions
from stackmff.fusion.outputs import Files, fuse_files
from stackmff.fusion.pipeline import read_for
from stackmff.fusion.retouch import Stroke, load_strokes, save_strokes
from stackmff.images.folders import list_frames
from stackmff.images.formats import decode, read_picture, write_picture
from stackmff.images.headers import taken
from stackmff.images.stack import read_stack
from stackmff.options import build
from stackmff.records import Record
from tests.damaging import (
    damaged_bytes,
    damaged_directory,
    damaged_json,
    damaged_lines,
)
from tests.drawn import draw_stack, saved, texture, tiff
from tests.stand_ins import Engine, brightest

NAMES = [f"{k}.png" for k in range(3)]
SIZE = (48, 64)
FRAME = (96, 128)  # of a stack, large enough that its frames are compared


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        files: {name: content} of whole ones.
        damage: makes damaged content of whole, with a random generator.
        use: does with the file at a path what the program does; returns what became of it:
            "same", "other", "named", or raises StackError.
        beside: prepares the folder that the file is put in.
    """

    files: dict[str, bytes]
    damage: Callable[[bytes, np.random.Generator], bytes]
    use: Callable[[Path, bytes], str]
    beside: Callable[[Path], None] = lambda folder: None


def _likeness(one: np.ndarray, whole: np.ndarray) -> str:
    """ "same" if two pictures hardly differ, "other" if they do."""
    if one.shape != whole.shape or one.dtype != whole.dtype:
        return "other"
    away = np.abs(one.astype(np.int32) - whole).max() / np.iinfo(whole.dtype).max
    return "same" if away < 0.05 else "other"


def use_picture(path: Path, whole: bytes) -> str:
    """Decode, and write with its metadata to the formats that have some."""
    taken(path)
    decoded = decode(path)
    # A large one that is declared by a small file would take its time to be written.
    if decoded.picture.size < 10**6:
        for suffix in (".png", ".tif", ".jpg"):
            write_picture(path.with_name(f"out{suffix}"), decoded.picture, decoded.metadata, False)
    if decoded.note is not None and "damaged" in decoded.note:
        return "named"
    original = path.with_name("whole" + path.suffix)
    original.write_bytes(whole)
    return _likeness(decoded.picture, read_picture(original))


def use_tiff(path: Path, whole: bytes) -> str:
    """Look for frames in it, for a hyperstack, and decode them."""
    found = hyperstack_at(path)
    if found is not None:
        read_stack(found.stack(found.times - 1, found.channels - 1))
        return "other"
    with contextlib.suppress(StackError):
        read_stack(list_frames(path))
        return "other"
    return use_picture(path, whole)


def use_film(path: Path, whole: bytes) -> str:
    """Count and read the frames of a video."""
    stack = read_stack(list_frames(path))
    if stack.notes:
        return "named"
    original = path.with_name("whole" + path.suffix)
    original.write_bytes(whole)
    frames = read_stack(list_frames(original)).frames
    return _likeness(stack.frames, frames)


def _fused_with(path: Path) -> dict[str, Any]:
    """Fuse the file as the second of three frames, to out/fused.png; returns what is recorded."""
    output = path.parent / "out" / "fused.png"
    paths = [path.with_name("0.png"), path, path.with_name("2.png")]
    options = build(FuseOptions, {"align": "off", "order": "given"})
    return fuse_files(
        lambda: read_for(output, paths, options), Engine(brightest), Files(output), options
    )


def use_in_stack(path: Path, whole: bytes) -> str:
    """Fuse it as the second of three frames; nothing is written if it is refused."""
    output, expected = path.parent / "out" / "fused.png", path.with_name(f"fused {path.name}.png")
    if not expected.exists():
        damaged = path.read_bytes()
        path.write_bytes(whole)
        _fused_with(path)
        output.replace(expected)
        path.write_bytes(damaged)
    output.unlink(missing_ok=True)
    try:
        result = _fused_with(path)
    except StackError:
        assert not output.exists(), "a result was written of a stack that was refused"
        raise
    if any(path.name in note and "damaged" in note for note in result["notes"]):
        return "named"
    return _likeness(read_picture(output), read_picture(expected))


def shapes() -> np.ndarray:
    """A picture with large shapes and detail, as photographs have them, (*FRAME, 3) uint8."""
    large = cv2.resize(texture(12, 16, 1), FRAME[::-1], interpolation=cv2.INTER_CUBIC)
    return np.uint8(np.clip(0.7 * large + 0.3 * texture(*FRAME, 0), 0, 255))


def beside_frame(folder: Path) -> None:
    """The other frames."""
    frames = draw_stack(shapes(), 3)
    for k in (0, 2):
        write_picture(folder / f"{k}.png", frames[k])


def pictures(rgb: np.ndarray) -> dict[str, bytes]:
    """A picture, (H, W, 3) uint8, in every format that is read, with metadata."""
    grey, deep = rgb[..., 0], np.uint16(rgb) * 257
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    about = {"exif": exif.tobytes(), "xmp": b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"}
    rgba = np.dstack([rgb, grey])
    files = {
        "a.jpg": saved(rgb, "JPEG", quality=90, **about),
        "b.jpg": saved(rgb, "JPEG", progressive=True, quality=90),
        "c.jpg": saved(grey, "JPEG", restart_marker_blocks=4),
        "d.jpg": saved(Image.fromarray(rgb).convert("CMYK"), "JPEG"),
        "a.png": saved(rgb, "PNG", **{"exif": about["exif"]}),
        "b.png": cv2.imencode(".png", deep[..., ::-1])[1].tobytes(),
        "c.png": saved(Image.fromarray(rgb).quantize(32), "PNG"),
        "d.png": saved(rgba, "PNG"),
        "a.webp": saved(rgb, "WEBP", quality=90, **about),
        "b.webp": saved(rgba, "WEBP", lossless=True),
        "a.bmp": saved(rgb, "BMP"),
        "a.tif": tiff(rgb, photometric="rgb", compression="zlib"),
        "b.tif": saved(rgb, "TIFF", compression="tiff_lzw"),
        "c.tif": saved(rgb, "TIFF", compression="jpeg"),
        "d.tif": tiff(deep, photometric="rgb", tile=(16, 16), compression="zlib"),
        "e.tif": tiff(grey, bigtiff=True, byteorder=">"),
    }
    if imagecodecs.AVIF.available:
        files["a.avif"] = imagecodecs.avif_encode(rgb, level=80)
    if imagecodecs.JPEGXL.available:
        files["a.jxl"] = imagecodecs.jpegxl_encode(rgb, level=80)
    with contextlib.suppress(ImportError):
        import pillow_heif

        buffer = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(rgb)).save(buffer, quality=80)
        files["a.heic"] = buffer.getvalue()
    with contextlib.suppress(ImportError):
        import rawpy  # noqa: F401

        mosaic = np.uint16(grey) << 6
        tags = [(50706, 1, 4, bytes([1, 4, 0, 0]), True), (33421, 3, 2, (2, 2), True)]
        tags += [(33422, 1, 4, bytes([0, 1, 1, 2]), True)]
        files["a.dng"] = tiff(mosaic, photometric=32803, extratags=tags, metadata=None)
    return files


def stacks_in_tiff() -> dict[str, bytes]:
    """Plain pages, and hyperstacks of each form."""
    planes = np.random.default_rng(0).integers(0, 9999, (2, 3, 2, 16, 20)).astype(np.uint16)
    forms = {
        "pages.tif": {"metadata": None},
        "imagej.tif": {
            "imagej": True,
            "metadata": {"axes": "TZCYX", "Labels": list("abcdefghijkl")},
        },
        "ome.tif": {"ome": True, "metadata": {"axes": "TZCYX"}},
        "shaped.tif": {"metadata": {"axes": "TZCYX"}},
        "volume.tif": {"volumetric": True, "tile": (1, 16, 16)},
    }
    out = {}
    for name, options in forms.items():
        data = planes if "axes" in (options.get("metadata") or {}) else planes[0, :, 0]
        out[name] = tiff(data, photometric="minisblack", **options)
    return out


def films(folder: Path) -> dict[str, bytes]:
    """Short videos of those forms that this OpenCV can write."""
    frames = draw_stack(texture(48, 64, 0), 4)
    out = {}
    forms = (
        (".mp4", "mp4v"),
        (".avi", "MJPG"),
        (".mkv", "XVID"),
        (".webm", "VP80"),
        (".mov", "mp4v"),
    )
    for suffix, code in forms:
        path = folder / f"film{suffix}"
        writer = cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), 10, (64, 48)
        )
        if writer.isOpened():
            for frame in frames:
                writer.write(frame)
            writer.release()
            out[path.name] = path.read_bytes()
    return out


def of_alignment(path: Path, whole: bytes) -> str:
    load_alignment(path, NAMES, SIZE, 3)
    return "other"


def of_strokes(path: Path, whole: bytes) -> str:
    load_strokes(path, NAMES, SIZE)
    return "other"


def of_record(path: Path, whole: bytes) -> str:
    """Whether a stack is done, of which other it is, and what the summary says of it."""
    record = Record(path.parent.parent, path.stem)
    record.check_source(path.parent, "--output")
    assert not record.says_done({"frames": []}, [path.with_name("none.png")])
    assert isinstance(record.read(), dict)
    return "other"


def of_card(path: Path, whole: bytes) -> str:
    write_report(path.with_name("report.html"), "A title", [path])
    read_card(path)
    return "other"


def of_log(path: Path, whole: bytes) -> str:
    from stackmff.training.curves import draw_run

    draw_run(path)
    return "other"


def of_set_record(path: Path, whole: bytes) -> str:
    import make_dataset

    record = make_dataset.SetRecord(path.parent, {"size": 64})
    record.is_done("scene0")
    return "other"


def of_photographs(path: Path, whole: bytes) -> str:
    from stackmff.synthesis.photos import read_record

    assert isinstance(read_record(path, None), dict)
    return "other"


def of_side_file(path: Path, whole: bytes) -> str:
    from stackmff.synthesis.depth_maps import side_file

    side_file(path.parent)
    return "other"


def of_depth(path: Path, whole: bytes) -> str:
    from stackmff.synthesis.depth_maps import read_depth, to_disparity

    to_disparity(read_depth(path, (48, 64)), "distance", path)
    return "other"


def of_shard(path: Path, whole: bytes) -> str:
    """Find its scenes, and read their pictures."""
    from stackmff.training.data_sets import find_pairs

    pairs, _ = find_pairs(path.parent)
    for _, frames, answer in pairs:
        for frame in (*frames, answer):
            read_picture(frame)
    return "other"


def of_checkpoint(path: Path, whole: bytes) -> str:
    from network import load_network

    load_network(path)
    return "other"


def of_export(path: Path, whole: bytes) -> str:
    """A damaged export is not used; what else is beside it is whole."""
    model = path.with_name("small.pth")
    engine = choose_engine(model, "cpu", "openvino")
    engine.load()
    return "other"


def json_of(write: Callable[[Path], object], folder: Path, name: str) -> dict[str, bytes]:
    """The file that a function writes."""
    write(folder / name)
    return {name: (folder / name).read_bytes()}


def state_files(folder: Path) -> dict[str, Kind]:
    """The files in which this program keeps what it knows, written by itself."""
    field = np.zeros((12, 16, 2), np.float32)
    alignment = Alignment(
        1,
        SIZE,
        [np.eye(2, 3), np.eye(2, 3), None],
        np.ones((3, 3)),
        {2: "is another scene"},
        {0: field},
    )
    stroke = Stroke(0, 5.0, 0.5, np.array([[3.0, 4.0], [9.0, 9.0]]))
    shown = {name: ["data:image/webp;base64,", 64, 48] for name in ("before", "after", "focus")}
    card = Card(
        "a", None, "a.png", 64, 48, 3, 1.0, 0.5, notes=["a note"], before="b", pictures=shown
    )
    record = {
        "frames": [{"name": "0.png", "size": 1, "mtime_ns": 1}],
        "source": str(folder),
        "files": {"none.png": {"size": 1, "sha256": "0"}},
        "result": {"width": 64, "height": 48, "frames": 3, "notes": []},
    }
    rows = [{"epoch": 1, "step": k, "train": {"loss": 1.0 / (k + 1), "lr": 0.1}} for k in range(4)]
    log = "\n".join(map(json.dumps, rows)).encode()
    dataset = {"settings": {"size": 64}, "scenes": {"scene0": {}}}
    known = {"limits": None, "photographs": {"a.jpg": [1, 2, None]}}
    depth = io.BytesIO()
    np.save(depth, np.linspace(1, 2, 48 * 64).reshape(48, 64))
    return {
        "alignment": Kind(
            json_of(lambda p: save_alignment(p, alignment, NAMES), folder, "alignment.json"),
            damaged_json,
            of_alignment,
        ),
        "strokes": Kind(
            json_of(lambda p: save_strokes(p, [stroke], NAMES, SIZE), folder, "strokes.json"),
            damaged_json,
            of_strokes,
        ),
        "record": Kind({"record.json": json.dumps(record).encode()}, damaged_json, of_record),
        "card": Kind(
            json_of(lambda p: write_card(p, card), folder, "card.json"), damaged_json, of_card
        ),
        "log": Kind({"log.jsonl": log}, damaged_lines, of_log),
        "dataset": Kind(
            {"dataset.json": json.dumps(dataset).encode()}, damaged_json, of_set_record
        ),
        "photographs": Kind(
            {"photographs.json": json.dumps(known).encode()}, damaged_json, of_photographs
        ),
        "depth kind": Kind({"depth.json": b'{"kind": "distance"}'}, damaged_json, of_side_file),
        "depth map": Kind({"depth.npy": depth.getvalue()}, damaged_bytes, of_depth),
        "shard": Kind({"00000-of-00001.tar": _shard()}, damaged_bytes, of_shard),
    }


def _shard() -> bytes:
    import tarfile

    frames = draw_stack(texture(16, 16, 0), 2)
    members = {"a.json": json.dumps({"scene": "a", "frames": 2}).encode()}
    members |= {f"a.{k:03}.png": saved(frame, "PNG") for k, frame in enumerate(frames)}
    members["a.aif.png"] = saved(texture(16, 16, 0), "PNG")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def networks(folder: Path) -> dict[str, Kind]:
    """A checkpoint and its export, which take torch and OpenVINO."""
    import torch

    from network import build_network, default_config
    from tools import export

    torch.manual_seed(0)
    network = build_network(default_config("StackMix"))
    torch.save({"config": network.config, "network": network.state_dict()}, folder / "small.pth")
    export.main(["--model_path", str(folder / "small.pth")])
    files = {path.name: path.read_bytes() for path in folder.glob("small.*")}

    def beside(place: Path) -> None:
        for name, content in files.items():
            (place / name).write_bytes(content)

    exported = {name: content for name, content in files.items() if not name.endswith(".pth")}
    return {
        "checkpoint": Kind({"small.pth": files["small.pth"]}, damaged_bytes, of_checkpoint),
        "export": Kind(exported, damaged_bytes, of_export, beside),
    }


# LibRaw develops what it is given, and not as the other frames of a stack were.
DEVELOPED = ("a.dng",)


def kinds_of(folder: Path, heavy: bool = True) -> dict[str, Kind]:
    """All kinds; those of networks, which take seconds to begin with, if `heavy`."""
    shown = pictures(texture(*SIZE, 0))
    frame = {
        name: data
        for name, data in pictures(draw_stack(shapes(), 3)[1]).items()
        if decode_shape(data, name, folder) == (*FRAME, 3) and name not in DEVELOPED
    }
    trees = {
        **{n: d for n, d in shown.items() if n.endswith(".tif") and n != "e.tif"},
        **stacks_in_tiff(),
    }
    out = {
        "picture": Kind(shown, damaged_bytes, use_picture),
        "stack": Kind(frame, damaged_bytes, use_in_stack, beside_frame),
        "TIFF": Kind(stacks_in_tiff(), damaged_bytes, use_tiff),
        "TIFF directory": Kind(trees, damaged_directory, use_tiff),
        "film": Kind(films(folder), damaged_bytes, use_film),
        **state_files(folder),
    }
    return {**out, **networks(folder)} if heavy else out


def decode_shape(data: bytes, name: str, folder: Path) -> tuple[int, ...]:
    """The shape of the picture in a file."""
    path = folder / name
    path.write_bytes(data)
    return read_picture(path).shape


def name_of(kind: Kind, seed: tuple[int, ...]) -> str:
    """Which of its files is damaged by a seed."""
    return list(kind.files)[int(np.random.default_rng(seed).integers(0, len(kind.files)))]


def run_one(kind: Kind, folder: Path, seed: tuple[int, ...]) -> str:
    """Make and use one damaged file; returns what became of it, "refused" too.

    Raises:
        Exception: whatever is no StackError, which is a fault.
    """
    rng = np.random.default_rng(seed)
    name = list(kind.files)[int(rng.integers(0, len(kind.files)))]
    whole = kind.files[name]
    damaged = kind.damage(whole, rng)
    if damaged == whole:
        return "same"
    path = folder / name
    path.write_bytes(damaged)
    try:
        return kind.use(path, whole)
    except StackError:
        return "refused"
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and not os.path.exists(path):
            raise
        return "refused"  # a sentence of its own, see errors.KNOWN_FAILURES
