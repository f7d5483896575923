"""Estimate depth maps of photographs by a network, for --depth_path of make_dataset.py.

OUT/<photograph>.png   16 bit, of the photograph's size, its edges on the photograph's edges
OUT/depth.json         what the values mean, and how they were made; make_dataset.py reads it
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from stackmff.files import make_folder, remove_leftovers, write_json
from stackmff.images.folders import by_stem
from stackmff.machine import available_cores
from stackmff.options import HelpFormatter, Options, add_options, option, parse
from stackmff.processes import run_main
from stackmff.records import run_record
from stackmff.synthesis.depth_engines import DepthEngineOptions, open_model
from stackmff.synthesis.depth_estimation import DepthEstimator, check_output, maker_of, part_done
from stackmff.synthesis.depth_maps import SIDE_FILE, describe_maps
from stackmff.synthesis.depth_models import DepthModelOptions
from stackmff.synthesis.options import PhotoOptions, folder
from stackmff.synthesis.photos import list_photos


@dataclass(frozen=True)
class EstimationFiles(Options):
    """The photographs, and where their depth maps go."""

    title = "files"

    image_path: Path = option(
        help="photographs; other files are ignored", metavar="DIR", convert=folder
    )
    output_dir: Path = option(
        help="the depth maps", metavar="DIR", convert=folder, aliases=("output_path",)
    )


@dataclass(frozen=True)
class EstimationRun(Options):
    """How the work is done."""

    title = "run"

    engine: DepthEngineOptions
    batch_size: int = option(
        1, help="photographs that the network takes at a time", low=1, high=1024
    )
    workers: int = option(
        available_cores(),
        help="threads that read, sharpen and write (default: one per core)",
        low=1,
        high=1024,
    )


@dataclass(frozen=True)
class EstimationOptions(Options):
    """All options of the command."""

    files: EstimationFiles
    network: DepthModelOptions
    photos: PhotoOptions
    run: EstimationRun

    def contradiction(self) -> str | None:
        """See `Options.contradiction`."""
        photos, output = self.files.image_path, self.files.output_dir
        if not photos.is_dir():
            return f"--image_path {photos} is not a folder: give a folder of photographs"
        if output.resolve() == photos.resolve():
            return "--output_dir is --image_path: the maps would be taken for photographs"
        return None


def get_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        description="Estimate the depth of photographs. Maps that exist already are not made "
        "again, so an interrupted run can be continued.",
        formatter_class=HelpFormatter,
    )
    add_options(parser, EstimationOptions)
    return parser


def estimate(options: EstimationOptions) -> int:
    """Estimate what is missing, and report what was left out.

    Returns:
        The exit status.
    Raises:
        StackError: there are no photographs, the network is not available, or the folder holds
            other maps.
    """
    output, sharpened = options.files.output_dir, options.network.sharpen
    photos = list_photos([options.files.image_path])
    by_stem(photos)  # each names a map
    model = open_model(options.network, options.run.engine, available_cores())
    make_folder(output)
    side = describe_maps(model.form.meaning, model.form.step)
    side |= {"made_by": maker_of(model, options.run.engine.precision, sharpened)}
    check_output(output, side)
    remove_leftovers(output)
    # First of all, so that there is never a map without its meaning.
    write_json(output / SIDE_FILE, side | {"run": run_record()})
    todo, left_out = part_done(photos, output), {}
    limits, work = options.photos.limits, options.run
    estimator = DepthEstimator(
        model, output, limits, sharpened, batch_size=work.batch_size, workers=work.workers
    )
    for path, wrong in tqdm(estimator.run(todo), "depth", len(todo), disable=None):
        if wrong:
            left_out[path.name] = wrong
            # The map of what the photograph was before, if any.
            (output / f"{path.stem}.png").unlink(missing_ok=True)
            tqdm.write(f"left out: {wrong}", file=sys.stderr)
    write_json(output / SIDE_FILE, side | {"left_out": left_out, "run": run_record()})
    made = len(photos) - len(left_out)
    print(
        f"{output}: {made} depth maps, {len(todo) - len(left_out)} of them new, "
        f"{len(left_out)} photographs left out"
    )
    return 1 if not made or (options.photos.strict and left_out) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    (options,) = parse(get_parser(), argv, EstimationOptions)
    cv2.setNumThreads(1)  # each thread of the pool has a photograph of its own
    return estimate(options)


if __name__ == "__main__":
    run_main(main)
