"""The options of synthesis: photographs, depth, lens, camera, and stacks that are changed.

`DatasetOptions` are those of make_dataset.py. train.py shares `PhotoOptions`, `DepthOptions` and
`LensOptions`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stackmff.errors import StackError
from stackmff.options import Options, number, option
from stackmff.synthesis.depth_maps import SIDE_FILE, DepthKind, side_file

NUM_FRAMES, MAX_COC = 16, 16.0  # of a photograph with depth
RANDOM_SCENES, RANDOM_SIZE, RANDOM_COC = 1000, 224, 30.0  # of random scenes
READ_NOISE = 3.0  # electrons, where --noise gives none
LEAST_FULL_WELL = 10  # electrons


def folder(word: str) -> Path:
    """A folder named on the command line; DIR/ and DIR are recorded alike."""
    return Path(os.path.normpath(word))


@dataclass(frozen=True)
class PhotoLimits(Options):
    """What a photograph must have to be used; see `photos.what_is_unfit`."""

    min_side: int = option(
        128,
        help="a photograph whose shorter side is below this is too small",
        low=1,
        high=65536,
        metavar="PX",
    )
    min_colour: float = option(
        1.0,
        help="mean difference of R, G and B, in levels of 255, below which a photograph counts as "
        "grey; 0 accepts grey ones",
        low=0,
        high=255,
        metavar="LEVELS",
    )
    min_sharpness: float = option(
        0.35,
        help="ratio of the finest detail to the next coarser, in the sharpest places, below which "
        "a photograph is blurred; sharp ones have 0.65 to 2.7, blurred by 2 px 0.22 to 0.48",
        low=0,
        high=10,
        metavar="RATIO",
    )


@dataclass(frozen=True)
class PhotoOptions(Options):
    """Which photographs are used, and what follows from one that is not."""

    title = "photographs (unfit ones are reported and left out)"

    limits: PhotoLimits = PhotoLimits()
    strict: bool = option(False, help="exit with status 1 if anything was left out")


@dataclass(frozen=True)
class DepthOptions(Options):
    """Where the depth of photographs is, and what it means."""

    depth_path: Path | None = option(
        None,
        help="depth maps named like the photographs: 8 or 16 bit PNG or TIFF, or .npy "
        "(default: none, random scenes)",
        metavar="DIR",
        convert=folder,
    )
    depth_suffix: str = option(
        "", help="what follows the photograph's name in the map's: art.png, art_disp.png"
    )
    depth_kind: DepthKind | None = option(
        None,
        help="what a larger value means: farther or nearer (default: as "
        f"{SIDE_FILE} beside the maps says)",
    )


@dataclass(frozen=True)
class LensOptions(Options):
    """How many frames a stack has, and how much blur; the defaults depend on what it is made of."""

    num_frames: int | None = option(
        None,
        help=f"frames of a stack (default: {NUM_FRAMES}; random scenes 2 to 40, by their blur)",
        low=2,
        high=256,
        metavar="N",
    )
    max_coc: float | None = option(
        None,
        help="diameter of the largest circle of confusion "
        f"(default: {MAX_COC:g}; random scenes up to {RANDOM_COC:g})",
        low=0.5,
        high=128,
        metavar="PX",
    )


@dataclass(frozen=True)
class RefocusOptions(Options):
    """How the frames of a photograph with depth are blurred."""

    title = "lens"

    refocus: Literal["thin_lens", "published"] = option("thin_lens", help="how blur is made")
    lens: LensOptions = LensOptions()
    depth_range: Literal["asis", "max"] | None = option(
        None,
        help="published: regions of the values as stored (default), or of floor(254 d / max d)",
    )


@dataclass(frozen=True)
class CameraOptions(Options):
    """The faults of a camera that the frames get; None: not specified, 0: none."""

    title = "camera (without these and --clean, random scenes have faults at random)"

    noise: tuple[float, ...] | None = option(
        None,
        help="photon noise of a sensor that holds E electrons, 10 or more, 2500 is about ISO 800, "
        f"and READ electrons of read noise, {READ_NOISE:g} if not given (default: none)",
        low=0,
        high=1e6,
        metavar=("E", "READ"),
    )
    jpeg: int | None = option(
        None, help="JPEG quality of the frames (default: none)", low=1, high=100, metavar="Q"
    )
    flicker: float | None = option(
        None,
        help="standard deviation of the frames' exposure, as a share (default: none)",
        low=0,
        high=0.3,
        metavar="SIGMA",
    )
    shake: float | None = option(
        None,
        help="standard deviation of each frame's shift, down and to the right (default: none)",
        low=0,
        high=100,
        metavar="PX",
    )

    def contradiction(self) -> str | None:
        """See `Options.contradiction`."""
        if self.noise and (len(self.noise) > 2 or self.noise[0] < LEAST_FULL_WELL):
            return f"--noise: give E, at least {LEAST_FULL_WELL}, and at most READ after it"
        return None

    def given(self) -> dict[str, Any]:
        """The faults that were given, 0 included, as arguments of `camera.develop`."""
        noise = None if self.noise is None else (*self.noise, READ_NOISE)[:2]
        values = {
            "noise": noise,
            "jpeg": self.jpeg,
            "flicker": self.flicker,
            "shake": self.shake,
        }
        return {name: value for name, value in values.items() if value is not None}

    def faults(self) -> dict[str, Any]:
        """The faults that frames get, as arguments of `camera.develop`; {} for none."""
        return {name: value for name, value in self.given().items() if value}


def _frames_to_keep(word: str) -> int | None:
    """K of --keep, None for all."""
    if word == "all":
        return None
    return 2 if word == "ends" else number(int, 2, 10**6)(word)


@dataclass(frozen=True)
class FrameOptions(Options):
    """Which frames of a stack are taken, and in which order."""

    keep: int | None = option(
        None,
        help="frames to keep: all, the first and the last, or K evenly spread from the first to "
        "the last (default: all)",
        low=2,
        high=10**6,
        metavar="all|ends|K",
        convert=_frames_to_keep,
    )
    shuffle: bool = option(False, help="put the frames of each stack in random order")


@dataclass(frozen=True)
class RestackOptions(Options):
    """The stacks that are changed, and how."""

    title = "stacks from stacks"

    stack_path: Path | None = option(
        None,
        help="a data set whose stacks are changed by --keep, --shuffle and the camera's options, "
        "and whose answers stay unchanged (default: none, make new stacks)",
        metavar="DIR",
        convert=folder,
    )
    frames: FrameOptions = FrameOptions()


@dataclass(frozen=True)
class SceneOptions(Options):
    """The scenes that are made."""

    title = "scenes"

    num_scenes: int | None = option(
        None, help=f"random scenes (default: {RANDOM_SCENES})", low=1, high=10**7
    )
    size: int | None = option(
        None,
        help=f"side of random scenes (default: {RANDOM_SIZE}), or longer side of photographs "
        "(default: unchanged)",
        low=16,
        high=16384,
        metavar="PX",
    )
    clean: bool = option(
        False, help="random scenes without the noise, JPEG artefacts and flicker of half of them"
    )


@dataclass(frozen=True)
class FileOptions(Options):
    """What a data set is made of, and where it goes."""

    title = "files"

    image_path: Path | None = option(
        None, help="all-in-focus photographs", metavar="DIR", convert=folder
    )
    depth: DepthOptions = DepthOptions()
    output_dir: Path | None = option(
        None, help="the data set", metavar="DIR", aliases=("output_path",)
    )
    save_masks: bool = option(False, help="also write masks/<scene>/: where each frame is sharp")
    demo: bool = option(
        False, help="12 frames of scikit-image's Middlebury motorcycle, blur up to 16 px"
    )
    benchmark: Path | None = option(
        None,
        help="instead of --output_dir: a fixed test set of scikit-image's pictures, as data sets "
        "below this folder: aligned, noisy, few (3 frames), pairs and dense (30 frames)",
        metavar="DIR",
        convert=folder,
    )


@dataclass(frozen=True)
class MakingOptions(Options):
    """How the work is done."""

    title = "run"

    seed: int = option(0, help="seed of everything random", low=0, high=2**32 - 1)
    workers: int = option(
        os.cpu_count() or 1, help="processes (default: one per core)", low=1, high=1024
    )


@dataclass(frozen=True)
class DatasetOptions(Options):
    """All options of make_dataset.py; synthesis/checks.py completes them."""

    files: FileOptions = FileOptions()
    stacks: RestackOptions = RestackOptions()
    refocus: RefocusOptions = RefocusOptions()
    scenes: SceneOptions = SceneOptions()
    camera: CameraOptions = CameraOptions()
    photos: PhotoOptions = PhotoOptions()
    run: MakingOptions = MakingOptions()

    @property
    def output(self) -> Path:
        """The folder of the data set.

        Raises:
            StackError: none is given.
        """
        if self.files.output_dir is None:
            raise StackError("--output_dir is needed: the folder that the data set is written to")
        return self.files.output_dir


def known_kind(depth: DepthOptions) -> DepthKind:
    """What the depth maps hold, according to --depth_kind or the side file.

    Raises:
        StackError: neither tells, they contradict each other, or there is no --depth_path.
    """
    if depth.depth_path is None:
        raise StackError("--depth_path is needed: the folder of the depth maps")
    kind = (side_file(depth.depth_path) or {}).get("kind")
    if kind and depth.depth_kind not in (None, kind):
        raise StackError(
            f"--depth_kind {depth.depth_kind} contradicts {SIDE_FILE} in {depth.depth_path}, which "
            f"says {kind}: remove --depth_kind, or correct that file"
        )
    kind = depth.depth_kind or kind
    if not kind:
        raise StackError(
            "--depth_kind distance or disparity is needed: does a larger value mean farther "
            f"or nearer? (no {SIDE_FILE} in {depth.depth_path})"
        )
    return "disparity" if kind == "disparity" else "distance"
