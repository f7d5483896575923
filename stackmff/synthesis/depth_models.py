"""Networks that estimate depth from one photograph: their input, and what their output means.

A network is a file (ONNX, or OpenVINO's .xml) of a form in FORMS, or a name in HUB, which
torch.hub or transformers downloads. synthesis/depth_engines.py runs them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from stackmff.errors import StackError
from stackmff.options import Options, option
from stackmff.synthesis.depth_maps import Meaning

Colour = tuple[float, float, float]  # of R, G and B

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
HALF: Colour = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Form:
    """The input of a network, and what its output means.

    Attributes:
        size: (height, width) px of its input, if its file leaves that open.
        meaning: of its output.
        fit: how a photograph gets that size. "stretch": each side by itself. "cover": roughly in
            its proportions, so that it covers `size`. "pad": in its proportions within `size`, the
            rest filled with `mean`.
        mean, std: of R, G and B in [0, 1]; the mean is subtracted, then it is divided by std.
        multiple: px, of which the sides of "cover" are multiples.
        step: metres per level of 16 bits, for metric distance.
        output: name of the output; without one of that name, the first one is used.
    """

    size: tuple[int, int]
    meaning: Meaning
    fit: Literal["stretch", "cover", "pad"] = "stretch"
    mean: Colour = (0.0, 0.0, 0.0)
    std: Colour = (1.0, 1.0, 1.0)
    multiple: int = 32
    step: float = 0.001
    output: str | None = None


class HubNetwork(NamedTuple):
    """A network that is downloaded."""

    source: str  # "transformers", or a repository of torch.hub
    name: str  # there
    form: str  # of FORMS


ANYTHING = Form(
    (518, 518), "disparity", "cover", IMAGENET_MEAN, IMAGENET_STD, multiple=14, step=0.002
)
# Metric3D returns metres for a camera with a focal length of 1000 px: relative for any other.
METRIC3D = Form(
    (616, 1064),
    "relative",
    "pad",
    IMAGENET_MEAN,
    IMAGENET_STD,
    multiple=28,
    output="predicted_depth",
)
FORMS = {
    "fastdepth": Form((224, 224), "metric"),
    "midas_small": Form((256, 256), "disparity", mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "midas_large": Form((384, 384), "disparity"),  # its authors' export includes the normalisation
    "dpt": Form((384, 384), "disparity", mean=HALF, std=HALF),
    "depth_anything_v2": ANYTHING,
    "depth_anything_v2_metric": replace(ANYTHING, meaning="metric"),
    "metric3d": METRIC3D,
    "zoedepth": Form((384, 512), "metric", "cover", HALF, HALF, step=0.002),
}
HUB = {
    "metric3d_vit_small": HubNetwork("yvanyin/metric3d", "metric3d_vit_small", "metric3d"),
    "metric3d_vit_large": HubNetwork("yvanyin/metric3d", "metric3d_vit_large", "metric3d"),
    "depth_anything_v2_small": HubNetwork(
        "transformers", "depth-anything/Depth-Anything-V2-Small-hf", "depth_anything_v2"
    ),
    "depth_anything_v2_indoor": HubNetwork(
        "transformers",
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        "depth_anything_v2_metric",
    ),
    "depth_anything_v2_outdoor": HubNetwork(
        "transformers",
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
        "depth_anything_v2_metric",
    ),
    "zoedepth": HubNetwork("transformers", "Intel/zoedepth-nyu-kitti", "zoedepth"),
}


@dataclass(frozen=True)
class DepthModelOptions(Options):
    """Which network estimates depth, and its form where that is not known."""

    title = "network"

    model: str = option(
        help="an ONNX file (or OpenVINO's .xml), or a network that is downloaded: "
        + ", ".join(HUB),
        metavar="NAME|FILE",
    )
    kind: str | None = option(
        None,
        help="which network a file holds, for its size, normalisation and meaning (default: by "
        "the name of the file)",
        choices=tuple(FORMS),
    )
    meaning: Meaning | None = option(
        None,
        help="of the output of a file: metric distance in metres, distance without a unit, or "
        "disparity, which is larger nearer (default: by --kind)",
    )
    size: tuple[int, int] | None = option(
        None,
        help="of the input of a file, px, if the file leaves it open (default: by --kind)",
        low=14,
        high=8192,
        nargs=2,
        metavar=("H", "W"),
    )
    mean: Colour | None = option(
        None,
        help="subtracted from the input, which is in 0..1 (default: by --kind)",
        low=0,
        high=1,
        nargs=3,
        metavar=("R", "G", "B"),
    )
    std: Colour | None = option(
        None,
        help="then the input is divided by this, 0..1 (default: by --kind)",
        above=0,
        high=1,
        nargs=3,
        metavar=("R", "G", "B"),
    )
    step: float | None = option(
        None,
        help="metres per level of 16 bits, for metric distance (default: by --kind, 0.001 or "
        "0.002)",
        above=0,
        high=1000,
        metavar="M",
    )
    output_name: str | None = option(None, help="the output of a file to use (default: the first)")
    sharpen: bool = option(
        True, help="leave the edges of depth as soft as the network's", flag="no_sharpen"
    )

    def contradiction(self) -> str | None:
        """See `Options.contradiction`."""
        if self.model not in HUB:
            return None
        for name in ("kind", "size", "mean", "std", "meaning", "step", "output_name"):
            if getattr(self, name) is not None:
                return f"--{name} is for files, and --model {self.model} is not one: remove it"
        return None


def input_size(form: Form, height: int, width: int) -> tuple[int, int]:
    """(h, w) px of the input for a photograph of height x width."""
    if form.fit != "cover":
        return form.size
    scale = max(form.size[0] / height, form.size[1] / width)
    scale = min(scale, 2 * max(form.size) / max(height, width))  # of panoramas
    rows, columns = (max(1, round(side * scale / form.multiple)) for side in (height, width))
    return rows * form.multiple, columns * form.multiple


def inner_size(form: Form, size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """(h, w) of the photograph within an input of `size`: smaller only where it is padded."""
    if form.fit != "pad":
        return size
    scale = min(size[0] / height, size[1] / width)
    rows, columns = (max(1, round(side * scale)) for side in (height, width))
    return min(size[0], rows), min(size[1], columns)


def feed(picture: np.ndarray, form: Form, size: tuple[int, int]) -> np.ndarray:
    """A photograph as a network's input.

    Args:
        picture: (H, W, 3) uint8 RGB.
        form: of the network.
        size: (h, w) of the input, px.
    Returns:
        (3, h, w) float32.
    """
    inner = inner_size(form, size, picture.shape[0], picture.shape[1])
    shrinking = inner[0] <= picture.shape[0]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    small = cv2.resize(picture, (inner[1], inner[0]), interpolation=method)
    mean, std = np.array(form.mean, np.float32), np.array(form.std, np.float32)
    values = (small.astype(np.float32) / 255 - mean) / std
    down, right = size[0] - inner[0], size[1] - inner[1]
    # The mean is 0 after its subtraction.
    values = np.pad(
        values, ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0))
    )
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def cut_padding(
    values: np.ndarray, form: Form, size: tuple[int, int], height: int, width: int
) -> np.ndarray:
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


def form_of(path: Path, options: DepthModelOptions) -> Form:
    """The form of a file: that of --kind, else of the file's name, with what the options change.

    Raises:
        StackError: neither is known, nor is --meaning given.
    """
    form = FORMS.get(options.kind or path.stem.lower().replace("-", "_"))
    if form is None:
        if not options.meaning:
            raise StackError(
                f"{path} has no known name: give --kind ({', '.join(FORMS)}), or --meaning, "
                "--size, --mean and --std"
            )
        form = Form((384, 384), options.meaning)
    return replace(
        form,
        size=options.size or form.size,
        mean=options.mean or form.mean,
        std=options.std or form.std,
        meaning=options.meaning or form.meaning,
        step=options.step or form.step,
        output=options.output_name or form.output,
    )
