"""Networks that see depth in one photograph: how they are fed, and what their numbers mean.

A network is a file (ONNX, or OpenVINO's .xml) of a form in FORMS, or a name in HUB, which is
downloaded by torch.hub or transformers. synthesis/depth_engines.py runs them.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from stackmff.errors import StackError

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclass(frozen=True)
class Form:
    """What a network is fed, and what it gives.

    Attributes:
        size: (height, width) px of its input, where its file leaves that open.
        meaning: of depth.MEANINGS.
        fit: how a photograph gets that size. "stretch": its sides one by one. "cover": about in its
            proportions, so that it covers `size`. "pad": in its proportions inside of `size`, the
            rest filled with `mean`.
        mean, std: of R, G and B in [0, 1], taken off and divided by.
        multiple: of px that the sides of "cover" are.
        step: metres a level of 16 bits, of metric distance.
        output: name of the output, where there is one of that name; else the first one.
    """

    size: tuple
    meaning: str
    fit: str = "stretch"
    mean: tuple = (0.0, 0.0, 0.0)
    std: tuple = (1.0, 1.0, 1.0)
    multiple: int = 32
    step: float = 0.001
    output: str | None = None


ANYTHING = Form((518, 518), "disparity", "cover", **IMAGENET, multiple=14, step=0.002)

# Metric3D gives metres of a camera with a focal length of 1000 px: relative for any other.
METRIC3D = Form((616, 1064), "relative", "pad", **IMAGENET, multiple=28, output="predicted_depth")
FORMS = {
    "fastdepth": Form((224, 224), "metric"),
    "midas_small": Form((256, 256), "disparity", **IMAGENET),
    "midas_large": Form((384, 384), "disparity"),  # its authors' export holds the normalisation
    "dpt": Form((384, 384), "disparity", **HALF),
    "depth_anything_v2": ANYTHING,
    "depth_anything_v2_metric": replace(ANYTHING, meaning="metric"),
    "metric3d": METRIC3D,
    "zoedepth": Form((384, 512), "metric", "cover", **HALF, step=0.002),
}
HUB = {
    # name: (where from, the name there, form)
    "metric3d_vit_small": ("yvanyin/metric3d", "metric3d_vit_small", "metric3d"),
    "metric3d_vit_large": ("yvanyin/metric3d", "metric3d_vit_large", "metric3d"),
    "depth_anything_v2_small": (
        "transformers",
        "depth-anything/Depth-Anything-V2-Small-hf",
        "depth_anything_v2",
    ),
    "depth_anything_v2_indoor": (
        "transformers",
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        "depth_anything_v2_metric",
    ),
    "depth_anything_v2_outdoor": (
        "transformers",
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
        "depth_anything_v2_metric",
    ),
    "zoedepth": ("transformers", "Intel/zoedepth-nyu-kitti", "zoedepth"),
}


def input_size(form, height, width):
    """(h, w) px of the input for a photograph of height x width."""
    if form.fit != "cover":
        return form.size
    scale = max(form.size[0] / height, form.size[1] / width)
    scale = min(scale, 2 * max(form.size) / max(height, width))  # of panoramas
    return tuple(
        max(1, round(side * scale / form.multiple)) * form.multiple for side in (height, width)
    )


def inner_size(form, size, height, width):
    """(h, w) of the photograph inside of an input of `size`: less only where it is padded."""
    if form.fit != "pad":
        return size
    scale = min(size[0] / height, size[1] / width)
    return tuple(
        min(most, max(1, round(side * scale))) for side, most in zip((height, width), size)
    )


def feed(picture, form, size):
    """A photograph to a network's input.

    Args:
        picture: (H, W, 3) uint8 RGB; form: Form; size: (h, w) of the input.
    Returns:
        (3, h, w) float32.
    """
    inner = inner_size(form, size, *picture.shape[:2])
    shrinking = inner[0] <= picture.shape[0]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    small = cv2.resize(picture, inner[::-1], interpolation=method)
    values = (small.astype(np.float32) / 255 - np.float32(form.mean)) / np.float32(form.std)
    down, right = size[0] - inner[0], size[1] - inner[1]
    # The mean is 0 after it was taken off.
    values = np.pad(
        values, ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0))
    )
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def cut_padding(values, form, size, height, width):
    """The part of a network's output (h', w') that shows the photograph of height x width."""
    inner = inner_size(form, size, height, width)
    rows, columns = (
        slice(
            round((most - side) // 2 * have / most),
            round(((most - side) // 2 + side) * have / most),
        )
        for side, most, have in zip(inner, size, values.shape)
    )
    return values[rows, columns]


def form_of(path, args):
    """The Form of a file: that of --kind, else of its own name, with what the options change.

    Raises:
        StackError: neither is there, nor --meaning.
    """
    name = args.kind or path.stem.lower().replace("-", "_")
    form = FORMS.get(name)
    if form is None:
        if not args.meaning:
            raise StackError(
                f"{path} is of no known name: say by --kind what it is ({', '.join(FORMS)}), or by "
                "--meaning, --size, --mean and --std"
            )
        form = Form((384, 384), args.meaning)
    changes = {
        "size": args.size and tuple(args.size),
        "mean": args.mean and tuple(args.mean),
        "std": args.std and tuple(args.std),
        "meaning": args.meaning,
        "step": args.step,
        "output": args.output_name,
    }
    return replace(form, **{name: value for name, value in changes.items() if value})
