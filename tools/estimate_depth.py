"""Depth maps of photographs, by a network: what make_dataset.py --depth_path takes.

OUT/<photograph>.png   16 bit, of the photograph's size, its edges on the photograph's edges
OUT/depth.json         what the values mean, and what they were made by; make_dataset.py reads it
"""

import argparse
import os
import sys
from pathlib import Path

import cv2
from tqdm import tqdm

from stackmff.files import make_folder, remove_leftovers, write_json
from stackmff.images.folders import by_stem
from stackmff.machine import available_cores
from stackmff.options import number
from stackmff.processes import run_main
from stackmff.records import run_record
from stackmff.synthesis.depth_engines import open_model
from stackmff.synthesis.depth_estimation import check_output, estimate, maker_of, part_done
from stackmff.synthesis.depth_maps import MEANINGS, SIDE_FILE, describe_maps
from stackmff.synthesis.depth_models import FORMS, HUB
from stackmff.synthesis.options import add_photo_options, add_strict_option
from stackmff.synthesis.photos import list_photos

OF_FILES = ("kind", "size", "mean", "std", "meaning", "step", "output_name", "engine")


def get_parser():
    """The options of tools/estimate_depth.py."""
    parser = argparse.ArgumentParser(
        description="Estimate the depth of photographs. What is done is not done again, so that a "
        "run that was stopped goes on.",
    )
    files = parser.add_argument_group("files")
    folder = {"metavar": "DIR", "type": os.path.normpath, "required": True}
    files.add_argument("--image_path", **folder, help="photographs; other files are passed over")
    files.add_argument("--output_path", **folder, help="the depth maps")
    network = parser.add_argument_group("network")
    network.add_argument(
        "--model",
        metavar="NAME|FILE",
        required=True,
        help="an ONNX file (or OpenVINO's .xml), or a network that is downloaded: "
        + ", ".join(HUB),
    )
    network.add_argument(
        "--kind",
        choices=FORMS,
        help="which network a file holds, for its size, normalisation and meaning (default: by "
        "the name of the file)",
    )
    network.add_argument(
        "--meaning",
        choices=MEANINGS,
        help="of what a file gives: metric distance in metres, distance in no unit, or disparity, "
        "which is larger nearer (default: by --kind)",
    )
    network.add_argument(
        "--size",
        type=number(int, 14, 8192),
        nargs=2,
        metavar=("H", "W"),
        help="of a file's input, px, where the file leaves it open (default: by --kind)",
    )
    rgb = {"nargs": 3, "metavar": ("R", "G", "B")}
    network.add_argument(
        "--mean",
        type=number(float, 0, 1),
        **rgb,
        help="taken off the input, which is in 0..1 (default: by --kind)",
    )
    network.add_argument(
        "--std",
        type=number(float, high=1, above=0),
        **rgb,
        help="then it is divided by this, 0..1 (default: by --kind)",
    )
    network.add_argument(
        "--step",
        type=number(float, high=1000, above=0),
        metavar="M",
        help="metres a level of 16 bits, of metric distance (default: by --kind, 0.001 or 0.002)",
    )
    network.add_argument("--output_name", help="the output of a file to take (default: the first)")
    network.add_argument(
        "--no_sharpen",
        action="store_true",
        help="leave the edges of depth as soft as the network's (default: off)",
    )
    add_strict_option(add_photo_options(parser))
    run = parser.add_argument_group("run")
    run.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:K or mps (default: %(default)s)"
    )
    run.add_argument(
        "--engine",
        choices=("auto", "openvino", "onnxruntime"),
        default="auto",
        help="what runs a file (default: onnxruntime on a GPU where it is installed for it, else "
        "OpenVINO)",
    )
    run.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="of the computation; with onnxruntime it is the file's (default: fp32 on a CPU, fp16 "
        "mixed with fp32 on a GPU)",
    )
    run.add_argument(
        "--batch_size",
        type=number(int, 1, 1024),
        default=1,
        help="photographs that the network takes at a time (default: %(default)s)",
    )
    run.add_argument(
        "--workers",
        type=number(int, 1, 1024),
        default=available_cores(),
        help="threads that read, sharpen and write (default: one a core)",
    )
    return parser


def check_arguments(parser, args):
    """Refuse contradictions."""
    if not Path(args.image_path).is_dir():
        parser.error(f"--image_path {args.image_path} is no folder: give one of photographs")
    if Path(args.output_path).resolve() == Path(args.image_path).resolve():
        parser.error("--output_path is --image_path: maps would be taken for photographs")
    if args.model in HUB:
        for name in OF_FILES:
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name} is for a file, --model {args.model} is none")
    if args.engine == "openvino" and args.device not in ("auto", "cpu"):
        parser.error(f"--engine openvino runs on the CPU, not on {args.device}: --device cpu")


def main(argv=None):
    """Estimate what is missing, and say what was left out. Returns the exit status."""
    parser = get_parser()
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    cv2.setNumThreads(1)  # the threads of the pool have a photograph each
    photos = list_photos([args.image_path])
    by_stem(photos)  # each names a map
    model = open_model(args, available_cores())
    output = Path(args.output_path)
    make_folder(output)
    side = describe_maps(model.form.meaning, model.form.step)
    side |= {"made_by": maker_of(model, args)}
    check_output(output, side)
    remove_leftovers(output)
    # First of all: there is no map at any moment without what it means.
    write_json(output / SIDE_FILE, side | {"run": run_record()})
    todo = part_done(photos, output)
    left_out = {}
    for path, wrong in tqdm(estimate(todo, model, args, output), "depth", len(todo), disable=None):
        if wrong:
            left_out[path.name] = wrong
            (output / f"{path.stem}.png").unlink(missing_ok=True)  # of what it was before
            tqdm.write(f"left out: {wrong}", file=sys.stderr)
    write_json(output / SIDE_FILE, side | {"left_out": left_out, "run": run_record()})
    made = len(photos) - len(left_out)
    print(
        f"{output}: {made} depth maps, {len(todo) - len(left_out)} of them new, "
        f"{len(left_out)} photographs left out"
    )
    return 1 if not made or (args.strict and left_out) else 0


if __name__ == "__main__":
    run_main(main)
