"""Make the sets of stackmff-bench: rendered stacks with exact answers, from a seed.

OUT/<set>/dof_stack/<scene>/00.png ...   the frames, nearest focus first
OUT/<set>/AiF/<scene>.png                the all-in-focus answer
OUT/<set>/depth/<scene>.png              16 bit disparity, larger = nearer
OUT/<set>/bench.json                     settings, lens and digest of each scene, digest of the set
"""

import argparse
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stackmff.errors import StackError
from stackmff.files import make_folder, parse_json, write_json
from stackmff.images.folders import list_pictures
from stackmff.images.formats import read_picture
from stackmff.options import Options, add_options, option, parse
from stackmff.processes import in_processes, run_main
from stackmff.records import run_record
from stackmff.synthesis.bench_scenes import render_setup
from stackmff.synthesis.bench_setups import SETS, Setup
from stackmff.synthesis.photos import list_photos, read_rgb
from stackmff.synthesis.stacks import MadeStack, write_stack

RECORD = "bench.json"
VERSION = 1  # of what a seed makes; digests tell the rest
# Pictures that scikit-image installs.
PACKAGED = (
    *("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field"),
    *("immunohistochemistry", "rocket"),
)


@dataclass(frozen=True)
class MakeBenchOptions(Options):
    """What tools.make_bench is told."""

    output_dir: Path = option(
        Path("data/stackmff-bench"),
        help="a folder for each set; scenes that are there are not made again "
        "(default: %(default)s)",
        metavar="DIR",
    )
    sets: tuple[str, ...] = option(
        tuple(SETS),
        help="small: ten scenes of 512x384, a minute of a core; large: five of 1536x1024 with blur "
        "to 260 px, five minutes (default: both)",
        choices=tuple(SETS),
    )
    photos: Path | None = option(
        None,
        help="folder of photographs to render from (default: pictures that scikit-image installs)",
        metavar="DIR",
    )
    seed: int = option(1, help="seed of the scenes (default: %(default)s)", low=0, high=2**32 - 1)
    scale: float = option(
        1.0,
        help="scale of the pictures and their blur; another scale is another set (default: "
        "%(default)s)",
        low=0.02,
        high=4.0,
    )
    workers: int = option(1, help="processes that render (default: %(default)s)", low=1)


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.make_bench",
        description="Make the sets of stackmff-bench: rendered stacks with exact answers.",
    )
    add_options(parser, MakeBenchOptions)
    return parser


@lru_cache(maxsize=1)
def read_photos(folder: Path | None) -> list[np.ndarray]:
    """The photographs to render from, each (H, W, 3) uint8.

    Args:
        folder: of the user; None for pictures of scikit-image.
    Raises:
        StackError: the folder or a picture cannot be read, or scikit-image is not installed.
    """
    if folder is not None:
        return [read_rgb(path) for path in list_photos([folder])]
    try:
        import skimage.data
    except ImportError as error:
        raise StackError(
            "scikit-image is not installed: pip install scikit-image, or give --photos DIR"
        ) from error
    pictures = [getattr(skimage.data, name)() for name in PACKAGED]
    return [np.repeat(p[..., None], 3, 2) if p.ndim == 2 else p[..., :3] for p in pictures]


def digest_of_pixels(pictures: Sequence[np.ndarray]) -> str:
    """SHA-256 of the shapes and pixels of pictures, whatever format they were saved in."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{picture.shape} {picture.dtype}\n".encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


def digest_of_scene(folder: Path, name: str) -> str:
    """The digest of a scene as it lies in a set: its frames in order, then its answer.

    Raises:
        StackError: a picture is missing or damaged.
    """
    frames = list_pictures(folder / "dof_stack" / name)
    return digest_of_pixels([read_picture(p) for p in [*frames, folder / "AiF" / f"{name}.png"]])


def digest_of_set(digests: dict[str, str]) -> str:
    """The digest of a set from those of its scenes."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def make_scene(
    setup: Setup, folder: Path, set_name: str, photos: Path | None, seed: int
) -> dict[str, Any]:
    """Render and write a scene; what the record says of it."""
    # A scene does not depend on which others there are.
    rng = np.random.default_rng([seed, VERSION, zlib.crc32(f"{set_name}/{setup.name}".encode())])
    scene = render_setup(rng, setup, read_photos(photos))
    depth = np.round(65535 * scene.disparity).astype(np.uint16)
    stack = MadeStack(scene.frames, scene.answer, depth, None, scene.settings)
    write_stack(folder, setup.name, stack)
    digest = digest_of_pixels([*scene.frames, scene.answer])
    return {"frames": len(scene.frames), **scene.settings, "digest": digest}


def read_record(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The record of a set, a new one where there is none.

    Raises:
        StackError: the folder holds a set of other settings, or its record is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return {**settings, **run_record(), "scenes": {}}
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        different = [name for name in settings if record[name] != settings[name]]
        dict(record["scenes"])
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(f"{path} is damaged: remove that set") from error
    if different:
        raise StackError(
            f"{folder} holds a set with another {' and '.join(different)}: choose another "
            "--output_dir or remove it"
        )
    return dict(record)


def make_set(name: str, options: MakeBenchOptions) -> str:
    """Make a set, or what is missing of it; returns its digest.

    Raises:
        StackError: as of `read_record` and `read_photos`; a file cannot be written.
    """
    folder = options.output_dir / name
    make_folder(folder)
    settings = {
        "set": name,
        "version": VERSION,
        "seed": options.seed,
        "scale": options.scale,
        "photographs": digest_of_pixels(read_photos(options.photos)),
    }
    record = read_record(folder, settings)
    todo = [setup for setup in SETS[name] if setup.name not in record["scenes"]]
    drawn = [setup.scaled(options.scale) for setup in todo]
    make = partial(
        make_scene, folder=folder, set_name=name, photos=options.photos, seed=options.seed
    )
    workers = min(options.workers, len(drawn))
    made = (
        in_processes(make, drawn, workers, as_they_come=True)
        if workers > 1
        else ((setup, make(setup)) for setup in drawn)
    )
    for setup, known in tqdm(made, name, len(drawn), disable=None):
        record["scenes"][setup.name] = known
        record["scenes"] = dict(sorted(record["scenes"].items()))
        record["digest"] = digest_of_set(
            {scene: known["digest"] for scene, known in record["scenes"].items()}
        )
        write_json(folder / RECORD, record)
    return str(record["digest"])


def main(argv: Sequence[str] | None = None) -> int:
    """Make the sets and print their digests. Returns the exit status."""
    (options,) = parse(get_parser(), argv, MakeBenchOptions)
    for name in options.sets:
        digest = make_set(name, options)
        print(f"{options.output_dir / name}: {len(SETS[name])} scenes, digest {digest[:16]}")
    return 0


if __name__ == "__main__":
    run_main(main)
