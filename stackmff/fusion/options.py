"""Options of fusion."""

from pathlib import Path

from stackmff.alignment.options import add_align_options, check_align_choices
from stackmff.images.formats import FORMATS
from stackmff.options import number
from stackmff.shipped import WEIGHTS


def add_fuse_options(parser):
    """The options that predict.py and predict_dataset.py share."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--model_path",
        type=Path,
        default=WEIGHTS,
        help="checkpoint of the network (default: weights/checkpoint.pth beside the program)",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="auto (CUDA, else MPS, else CPU), cpu, mps, cuda or cuda:K (default: %(default)s)",
    )
    group.add_argument(
        "--engine",
        choices=("auto", "openvino", "torch"),
        default="auto",
        help="what runs the network: OpenVINO on a CPU, where the checkpoint has an export, or "
        "torch (default: %(default)s)",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="of OpenVINO: bf16 where the processor has it (default: %(default)s)",
    )
    group.add_argument(
        "--low_memory",
        action="store_true",
        help="keep the frames in a file without a name beside the result, not in memory (default: "
        "where they would take more than half of the free memory)",
    )
    group = add_align_options(parser)
    group.add_argument(
        "--align",
        choices=("auto", "on", "off"),
        default="auto",
        help="auto: measure, and align where neighbouring frames show that it is needed; on: also "
        "compare frames farther apart; off: take the frames as they are (default: %(default)s)",
    )
    group.add_argument(
        "--crop",
        action="store_true",
        help="cut the results to the area that every frame covers (default: they have the "
        "reference's size, and where frames end the others are mixed)",
    )
    group = parser.add_argument_group("choices")
    group.add_argument(
        "--prefer",
        choices=("near", "far"),
        help="what is shown where a near and a far thing share a pixel, as beside the edges of "
        "what is out of focus (default: as the network weighs them)",
    )
    group.add_argument(
        "--near",
        choices=("first", "last"),
        help="which end of the stack is focused the nearest (default: first for --prefer; the "
        "relief of --preview goes by the picture)",
    )
    group.add_argument(
        "--smooth",
        type=number(float, low=0, high=1000),
        default=0.0,
        metavar="PX",
        help="smooth the focus map over about this radius, along the edges of the picture and from "
        "where it is sure (default: %(default)g, as it is)",
    )
    group.add_argument(
        "--slab",
        type=number(int, low=2),
        metavar="N",
        help="also fuse every N neighbouring frames to a 16-bit TIFF of its own, for retouching",
    )
    group = parser.add_argument_group("format")
    group.add_argument(
        "--bits",
        type=int,
        choices=(8, 16),
        help="of each channel of the fused picture; a mixture of 8-bit frames has more than 8 to "
        "show (default: as the frames have)",
    )
    group.add_argument(
        "--out_format",
        choices=[*FORMATS, "same"],
        help="format of the fused picture, same: that of the first frame "
        "(default: png, or the suffix of --output where there is one)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--verbose", action="store_true", help="print the frames in their order")
    group.add_argument(
        "--quiet", action="store_true", help="print no progress and no notes, errors only"
    )


def check_choices(parser, args, shows_maps=False):
    """End with exit status 2 where options contradict each other.

    Args:
        shows_maps: whether focus maps are wanted in any case, as for a report.
    """
    if args.align == "off":
        for option in ("use_alignment", "save_alignment", "crop", "strict"):
            if getattr(args, option):
                parser.error(f"--{option} contradicts --align off: leave one of them out")
        check_align_choices(parser, args, "--align off")
    if args.align == "on" and args.use_alignment:
        parser.error("--align on measures, and --use_alignment takes what was: leave one out")
    check_align_choices(parser, args)
    if args.smooth and not (args.focus_map or args.preview or shows_maps):
        parser.error("--smooth is for the focus map: give --focus_map or --preview too")
    if args.near and not args.prefer and not args.preview:
        parser.error("--near is for --prefer and --preview: give one of them too")
