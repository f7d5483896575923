"""What a lens sees of surfaces that hide one another, by accumulation over its aperture.

A lens is a sum of small openings, and through each of them a surface of disparity d appears shifted
by (d - focus) times the place of the opening. Here the surfaces are shifted, composited as seen
through that opening, and only then added up, in linear light. What a blurred edge hides is so
hidden where the light really passes: `refocus.refocus_layers`, which blurs each surface with its
cover alone, is exact only where at most one of two surfaces is out of focus.

The openings are the cells of a square grid over the aperture, each weighted by its share of it.
Within a cell surfaces are blurred by the cell's own small circle of confusion (a square), so that
the cells fit together without gaps: smooth blur and discs of light without a grid of dots, by far
fewer openings than with pinholes. At the rim of the aperture a light is spread over that part of a
cell that lies within it: discs have the aperture's shape, however few the cells. A surface in focus
is neither shifted nor blurred: it has the very pixels of the answer, which is the view through a
pinhole in the middle.

NumPy and OpenCV alone. A scene of three surfaces, ten frames of 512x384 and circles of confusion to
16 px takes about three seconds of a core.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from scipy.special import ndtr

from stackmff.images.rectangles import Box
from stackmff.synthesis.square_blur import LARGE_VARIANCE, LINEAR_VARIANCE, box_blur, doubled

CELL = 1.5  # px of blur that one cell of the aperture may make, as long as there are enough cells
FEWEST, MOST = 5, 12  # cells across the aperture
SAMPLES = 16  # per cell and side, to weigh the cells
SHARP = 4.0  # px of blur; nearer to focus, linear interpolation would soften what is seen
# From (red, green, blue, cover) to four times what is uncovered; OpenCV wants all channels.
UNCOVERED = np.array([[0, 0, 0, -1, 1]] * 4, np.float32)
NO_LIGHTS = np.zeros((0, 6), np.float32)
WHOLE = np.ones((1, 1))  # a cell that lies in the aperture with all of its area


@dataclass(frozen=True)
class Plane:
    """The disparity of a slanted plane.

    Attributes:
        middle: disparity in the middle of the surface's array, larger = nearer.
        right, down: how much it changes per px to the right and downwards.
    """

    middle: float
    right: float = 0.0
    down: float = 0.0

    def over(self, height: int, width: int) -> np.ndarray:
        """The disparity of each pixel, (height, width) float32."""
        y = np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2)
        x = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)
        return np.float32(self.middle) + y * np.float32(self.down) + x * np.float32(self.right)


@dataclass(frozen=True)
class Sheet:
    """A surface of a scene.

    Attributes:
        colour: (H, W, 3) float32 linear light, also above 1, not multiplied by the cover.
        cover: (H, W) float32 in [0, 1], how much of each pixel it covers.
        disparity: a Plane, or (H, W) float32 of a curved surface; larger = nearer.
        lights: (L, 6) float32, points of light on it, rows of (x, y, red, green, blue, sigma_px):
            Gaussian spots with these values in their middle, in multiples of white, drawn so
            that out of focus they are even discs however bright they are.
    """

    colour: np.ndarray
    cover: np.ndarray
    disparity: Plane | np.ndarray
    lights: np.ndarray = field(default_factory=NO_LIGHTS.copy)


class Light(NamedTuple):
    """A point of light.

    Attributes:
        x, y: px.
        colour: (3,) float32 in its middle, when in focus.
        sigma_px: of the spot.
        disparity: where it is.
    """

    x: float
    y: float
    colour: np.ndarray
    sigma_px: float
    disparity: float

    @classmethod
    def on(cls, row: np.ndarray, disparity: np.ndarray) -> "Light":
        """The light of a row of `Sheet.lights` on a surface of disparity (H, W)."""
        x, y, sigma = float(row[0]), float(row[1]), float(row[5])
        return cls(x, y, row[2:5], sigma, float(disparity[round(y), round(x)]))

    def add(
        self, picture: np.ndarray, x: float, y: float, side: float, parts: np.ndarray = WHOLE
    ) -> None:
        """Add it to a picture, spread over a square.

        Squares side by side add up to an even area, because each side is where the next begins.

        Args:
            picture: (H, W, C) float32 linear light, changed in place in the first three channels.
            x, y: middle of the square in it, px.
            side: of the square, px; 0 for the spot in focus.
            parts: (P, P), how much of the light each part of the square has, rows downwards.
        """
        reach, side = side / 2 + 4 * self.sigma_px, max(side, 1e-3 * self.sigma_px)
        bounds = (np.arange(len(parts) + 1) / len(parts) - 0.5) * (side / self.sigma_px)
        spans, profiles = [], []
        for middle, size in ((y, picture.shape[0]), (x, picture.shape[1])):
            span = slice(max(int(middle - reach), 0), min(int(middle + reach) + 2, size))
            if span.start >= span.stop:
                return
            places = (np.arange(span.start, span.stop) - middle) / self.sigma_px
            passed = ndtr(places[:, None] - bounds)  # of the light before each bound
            spans.append(span)
            profiles.append(passed[:, :-1] - passed[:, 1:])
        down, across = profiles
        # Each profile has the light of one part, whose area is the square of their distance.
        density = 2 * np.pi * (self.sigma_px * len(parts) / side) ** 2 / parts.sum()
        spot = (down @ (parts * density) @ across.T).astype(np.float32)
        picture[*spans, :3] += spot[..., None] * self.colour


class Opening(NamedTuple):
    """A cell of the aperture.

    Attributes:
        x, y: its centre, in diameters from the middle.
        share: of the light that passes the aperture.
        parts: (P, P), how much of each part of the cell lies in the aperture; 1 x 1 if all does.
    """

    x: float
    y: float
    share: float
    parts: np.ndarray


@lru_cache(maxsize=64)
def openings(across: int, blades: int = 0, rotation: float = 0.0) -> tuple[Opening, ...]:
    """The cells of a grid that have a share of the aperture; the shares sum to 1.

    Args:
        across: cells from one side of a disc to the other.
        blades: corners of a polygon of the disc's area; 0 for the disc.
        rotation: of the polygon, radians.
    """
    wide = across + 2 * (blades > 0)  # the corners of a polygon stand out of the disc
    line = ((np.arange(wide * SAMPLES) + 0.5) / SAMPLES - wide / 2) / across
    x, y = np.meshgrid(line, line)
    radius = 2 * np.hypot(x, y)
    if blades:
        wedge = 2 * np.pi / blades
        angle = (np.arctan2(y, x) + rotation) % wedge - wedge / 2
        radius = radius * np.cos(angle) * np.sqrt(blades / np.pi * np.tan(np.pi / blades))
    parts = (radius <= 1).reshape(wide, SAMPLES, wide, SAMPLES).swapaxes(1, 2).astype(float)
    inside = parts.mean((2, 3))
    centres = (np.arange(wide) + 0.5 - wide / 2) / across
    return tuple(
        Opening(
            float(centres[column]),
            float(centres[row]),
            float(inside[row, column] / inside.sum()),
            parts[row, column] if inside[row, column] < 1 else WHOLE,
        )
        for row, column in zip(*np.nonzero(inside))
    )


class _Cut:
    """A sheet cut to what it covers, ready to be looked at.

    Args:
        sheet: (H, W) px, with a margin on each side.
        margin: px.

    Attributes:
        box: what it was cut to, of (h, w) px in the sheet.
        pixels: (h, w, 4) float32, linear light multiplied by the cover, and the cover.
        fine: (2 h, 2 w, 4) float32, `pixels` of twice the size; None until they are needed.
        disparity: (h, w) float32; low, high: its bounds where the sheet covers anything.
        plane: the same, if it is a plane; centre: (2,) px in the sheet, where its middle is.
        size: (height, width) of the picture, which has no margin, px.
        lights: of the sheet, in its px.
    """

    def __init__(self, sheet: Sheet, margin: int) -> None:
        height, width = sheet.cover.shape
        spare = 5  # px without cover, for the kernels
        self.box = Box.around(sheet.cover).grown(spare, sheet.cover.shape)
        here = self.box.slices
        cover = sheet.cover[here].astype(np.float32)[..., None]
        self.pixels = np.concatenate([sheet.colour[here] * cover, cover], 2).astype(np.float32)
        self.margin = margin
        self.size = height - 2 * margin, width - 2 * margin  # of the picture
        self.plane = sheet.disparity if isinstance(sheet.disparity, Plane) else None
        whole = sheet.disparity
        if isinstance(whole, Plane):
            whole = whole.over(height, width)
        self.centre = np.array([width - 1, height - 1]) / 2  # where a plane's middle is
        self.disparity = np.ascontiguousarray(whole[here], np.float32)
        seen = self.disparity[cover[..., 0] > 0]
        self.low, self.high = float(seen.min()), float(seen.max())
        self.fine: np.ndarray | None = None
        self.lights = [Light.on(sheet.lights[k], whole) for k in range(len(sheet.lights))]

    def steepness(self) -> float:
        """The largest change of the disparity from pixel to pixel."""
        if self.plane:
            return float(np.hypot(self.plane.right, self.plane.down))
        down, right = np.gradient(self.disparity)
        return float(np.hypot(down, right).max())

    def blur_range(self, focus: float, aperture_px: float) -> tuple[float, float]:
        """The least and the largest circle of confusion, px."""
        ends = abs(self.low - focus), abs(self.high - focus)
        least = 0.0 if self.low <= focus <= self.high else min(ends)
        return aperture_px * least, aperture_px * max(ends)


class _Focused:
    """A cut sheet for one focal plane.

    Args:
        cut: the sheet.
        focus: disparity of the focal plane.
        aperture_px: circle of confusion, px per unit of disparity.
        across: cells across the aperture.

    Attributes:
        pixels: (s h, s w, 4) float32, those of the cut, blurred as through one cell.
        scale: s; 2 near the focus, where linear interpolation would soften what is seen.
        flag: of OpenCV, by which they are interpolated.
        target: the part of the picture in which the sheet can be seen.
    """

    def __init__(self, cut: _Cut, focus: float, aperture_px: float, across: int) -> None:
        self.cut, self.focus = cut, focus
        self.aperture_px, self.across = aperture_px, across
        least, largest = cut.blur_range(focus, aperture_px)
        moves = largest > 1e-4
        self.scale = 2 if least < SHARP and moves else 1
        pixels = cut.pixels
        if self.scale == 2:
            if cut.fine is None:
                cut.fine = doubled(pixels)
                cut.fine[..., 3] = np.minimum(cut.fine[..., 3], 1)
            pixels = cut.fine
        side = (aperture_px / across) * np.abs(cut.disparity - np.float32(focus))
        variance = side**2 / 12
        if self.scale == 1 and moves:  # what interpolation will add
            less = np.maximum(variance - np.float32(LINEAR_VARIANCE), 0)
            variance = np.where(variance < LARGE_VARIANCE, less, variance)
        if self.scale == 2:
            variance = 4 * cv2.resize(variance, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        self.pixels = box_blur(pixels, variance)
        self.flag = cv2.INTER_CUBIC if self.scale == 2 else cv2.INTER_LINEAR
        reach, margin = int(np.ceil(largest)) + 4, cut.margin
        self.target = cut.box.moved(-margin, -margin).grown(reach, cut.size)

    def through(self, opening: Opening, room: np.ndarray | None = None) -> np.ndarray:
        """What is seen of it through a cell, (h, w, 4) premultiplied, at `target`; into `room`."""
        seen = self._surface(opening, room)
        margin = self.cut.margin
        for light in self.cut.lights:
            coc = self.aperture_px * (light.disparity - self.focus)
            x = light.x + coc * opening.x - margin - self.target.left
            y = light.y + coc * opening.y - margin - self.target.top
            side = abs(coc) / self.across
            parts = opening.parts if side > 1 else WHOLE  # finer than a pixel no shape shows
            light.add(seen, x, y, side, parts if coc > 0 else parts[::-1, ::-1])
        return seen

    def _surface(self, opening: Opening, room: np.ndarray | None) -> np.ndarray:
        """As `through`, without the lights."""
        cut, target = self.cut, self.target
        size = target.size[::-1]
        corner = np.array([target.left, target.top], np.float64) + cut.margin
        origin = np.array([cut.box.left, cut.box.top], np.float64)
        move = self.aperture_px * np.array([opening.x, opening.y])
        if cut.plane is None:
            across, down = self._sources(move, corner - origin, size)
            return cv2.remap(
                self.pixels, across, down, self.flag, room, borderMode=cv2.BORDER_REPLICATE
            )
        # x' = x + move (middle + slope (x - centre) - focus)
        slope = np.array([cut.plane.right, cut.plane.down])
        back = np.linalg.inv(np.eye(2) + np.outer(move, slope))
        offset = move * (cut.plane.middle - slope @ cut.centre - self.focus)
        matrix = np.empty((2, 3))
        matrix[:, :2] = self.scale * back
        matrix[:, 2] = self.scale * (back @ (corner - offset) - origin)
        flags = self.flag | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            self.pixels, matrix, size, room, flags=flags, borderMode=cv2.BORDER_REPLICATE
        )

    def _sources(
        self, move: np.ndarray, start: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where a curved surface is seen: the column and the row, each (h, w) float32."""
        x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in size))
        x, y = x + np.float32(start[0]), y + np.float32(start[1])
        seen = cv2.remap(
            self.cut.disparity, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for turn in range(4):  # contracts by the steepness, which `render` has bounded
            shift = seen - np.float32(self.focus)
            column, row = x - np.float32(move[0]) * shift, y - np.float32(move[1]) * shift
            if turn < 3:
                seen = cv2.remap(
                    self.cut.disparity,
                    *(column, row, cv2.INTER_LINEAR),
                    borderMode=cv2.BORDER_REPLICATE,
                )
        return column * np.float32(self.scale), row * np.float32(self.scale)


def render(
    sheets: Sequence[Sheet],
    focus_disparities: Sequence[float] | np.ndarray,
    aperture_px: float,
    margin: int,
    blades: int = 0,
    rotation: float = 0.0,
    most: int = MOST,
) -> tuple[np.ndarray, np.ndarray]:
    """The frames that a lens takes of surfaces, and the picture with all of them sharp.

    Args:
        sheets: from back to front, of one size; the first covers everything.
        focus_disparities: N focal planes.
        aperture_px: circle of confusion (a diameter), px per unit of disparity.
        margin: px on each side of the sheets that the pictures do not have; half of the largest
            circle of confusion, or more.
        blades: corners of the aperture; 0 for a disc.
        rotation: of the blades, radians.
        most: cells across the aperture, at most; there are fewer where blur is small.
    Returns:
        frames (N, H, W, 3) and answer (H, W, 3), float32 linear light, not clipped.
    Raises:
        ValueError: the sheets differ in size, the first has gaps, the margin is too small, or a
            surface is so steep that it would hide parts of itself.
    """
    cuts = [_Cut(sheet, margin) for sheet in sheets if sheet.cover.any()]
    _check(sheets, cuts, focus_disparities, aperture_px, margin)
    frames = np.stack(
        [
            _frame(cuts, float(focus), aperture_px, (blades, rotation), most)
            for focus in focus_disparities
        ]
    )
    inside = slice(margin, -margin or None), slice(margin, -margin or None)
    return frames, sharp(sheets)[inside]


def sharp(sheets: Sequence[Sheet]) -> np.ndarray:
    """The view through a pinhole, with every surface sharp: (H, W, 3) float32 linear light."""
    picture = np.zeros_like(sheets[0].colour)
    for sheet in sheets:
        picture = picture * (1 - sheet.cover[..., None]) + sheet.colour * sheet.cover[..., None]
        for row in sheet.lights:
            light = Light.on(row, np.zeros(sheet.cover.shape))
            light.add(picture, light.x, light.y, 0)
    return picture


def _check(
    sheets: Sequence[Sheet],
    cuts: Sequence[_Cut],
    focus_disparities: Sequence[float] | np.ndarray,
    aperture_px: float,
    margin: int,
) -> None:
    """Raise ValueError where `render` cannot be exact."""
    if len({sheet.cover.shape for sheet in sheets}) != 1:
        raise ValueError("the surfaces differ in size")
    if not sheets[0].cover.min() >= 1:
        raise ValueError("the rearmost surface does not cover everything")
    for cut in cuts:
        largest = max(cut.blur_range(focus, aperture_px)[1] for focus in focus_disparities)
        if largest / 2 > margin:
            raise ValueError(f"a margin of {margin} px is less than half of {largest:.1f} px")
        if cut.steepness() * aperture_px / 2 >= 1:
            raise ValueError("a surface is so steep that it would hide parts of itself")


def _frame(
    cuts: Sequence[_Cut],
    focus: float,
    aperture_px: float,
    shape: tuple[int, float],
    most: int,
) -> np.ndarray:
    """The frame of one focal plane, (H, W, 3) float32 linear light."""
    largest = max(cut.blur_range(focus, aperture_px)[1] for cut in cuts)
    across = int(np.clip(np.ceil(largest / CELL), min(FEWEST, most), most))
    focused = [_Focused(cut, focus, aperture_px, across) for cut in cuts]
    total = np.zeros((*cuts[0].size, 4), np.float32)
    for share, view in _views(focused, openings(across, *shape)):
        cv2.scaleAdd(view, share, total, total)
    return total[..., :3]


def _views(
    focused: Sequence[_Focused], cells: Sequence[Opening]
) -> Iterator[tuple[float, np.ndarray]]:
    """The share of each cell and the view (H, W, 4) through it, which the next one overwrites."""
    rear, *others = focused
    others = [sheet for sheet in others if sheet.target.area]
    room = np.empty((*rear.cut.size, 4), np.float32)
    for cell in cells:
        view = rear.through(cell, room)
        for sheet in others:
            seen = sheet.through(cell)
            part = view[sheet.target.slices]
            cv2.multiply(part, cv2.transform(seen, UNCOVERED), part)
            cv2.add(part, seen, part)
        yield cell.share, view
