"""The fused picture as a relief: draped over its focus map, shaded, seen at an angle."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from stackmff.display.drawing import reduced
from stackmff.images.guided_filter import guided_filter
from stackmff.images.ramps import smoothstep

# The picture lies on the ground, its centre at the origin; its longer side is 1. The camera looks
# horizontally through a shifted lens, as in architectural photography: verticals stay vertical, so
# that each column of the view can be drawn on its own.
YAW = np.radians(-14)
DISTANCE = 3.0  # from the camera to the centre of the picture
EYE = 2.3  # height of the camera
RELIEF = 0.15  # height of the highest point
FLOOR = -0.04  # underside of the block
LIGHT = np.array([-0.45, 0.55, 0.75])  # direction to the light: left, back, above
PAPER = (250, 250, 248)
LEFT_WALL = np.array((150, 150, 152), np.float32)
FRONT_WALL = np.array((182, 182, 184), np.float32)
LEAST_WIDTH = 640  # px of the view, even of smaller pictures
FINER = 2  # supersampling of the view, against jagged edges
BORDER = 40  # nearer to the borders than 1/BORDER of the side, pixels are less certain


def relief(
    focus_map: np.ndarray,
    picture: np.ndarray,
    sure: np.ndarray | np.float32 | float,
    first_is_near: bool | None = None,
    side: int = 1000,
    profile: bytes | None = None,
) -> np.ndarray:
    """Draw a picture as a relief.

    Args:
        focus_map: (H, W) uint16, 0 the first frame, 65535 the last.
        picture: (h, w, C) uint8 or uint16, C as in images/formats.py; it has the proportions of the
            focus map and may be larger.
        sure: (H, W) float in [0, 1], how far the focus map can be trusted at each pixel; or 1.
        first_is_near: whether the first frame is focused nearest; None: guess.
        side: longest side of the copy that is drawn, px.
        profile: ICC profile of the picture; None: sRGB.
    Returns:
        (h, w, 3) uint8 sRGB on light paper, w about `side`, cropped to the drawing and a margin.
    """
    texture, heights = surface(focus_map, picture, sure, first_is_near, side, profile)
    if min(heights.shape) < 2:  # a line has no slope
        return texture
    view, _ = _render(texture, heights * np.float32(RELIEF), YAW, _span(heights.shape, [YAW]))
    return _framed(view)


def rocking(
    texture: np.ndarray, heights: np.ndarray, count: int = 11, swing: float = 12.0
) -> list[np.ndarray]:
    """Draw a relief as it is turned from one side to the other.

    Args:
        texture, heights: as of `surface`, both sides at least 2 px.
        count: of views.
        swing: angle to either side, degrees.
    Returns:
        Views (h, w, 3) uint8 sRGB, all of one size.
    """
    # Slow at both ends, as a pendulum.
    yaws = [float(YAW + np.radians(swing) * x) for x in -np.cos(np.linspace(0, np.pi, count))]
    span = _span(heights.shape, yaws)
    drawn = [_render(texture, heights * np.float32(RELIEF), yaw, span) for yaw in yaws]
    highest = min(top for _, top in drawn)
    lowest = max(top + len(view) for view, top in drawn)
    out = []
    for view, top in drawn:
        whole = np.full((lowest - highest, *view.shape[1:]), PAPER, np.uint8)
        whole[top - highest : top - highest + len(view)] = view
        out.append(_framed(whole))
    return out


def surface(
    focus_map: np.ndarray,
    picture: np.ndarray,
    sure: np.ndarray | np.float32 | float,
    first_is_near: bool | None = None,
    side: int = 1000,
    profile: bytes | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Make the surface that a relief is drawn from; arguments as of `relief`.

    Returns:
        (texture (h, w, 3) uint8 sRGB, heights (h, w) float32 in [0, 1], 1 the nearest).
    """
    texture = reduced(picture, side, profile)
    height, width = texture.shape[:2]
    if min(height, width) < 2:
        return texture, np.zeros((height, width), np.float32)
    focus = np.float32(focus_map) / 65535
    # Averaged over certain pixels: the value of an uncertain one is near the middle frame.
    sure = np.broadcast_to(np.float32(sure), focus.shape) + np.float32(1e-3)
    size = (width, height)
    weights = cv2.resize(sure, size, interpolation=cv2.INTER_AREA)
    focus = cv2.resize(focus * sure, size, interpolation=cv2.INTER_AREA) / weights
    if first_is_near is None:
        first_is_near = guess_first_is_near(focus, weights)
    near = 1 - focus if first_is_near else focus
    return texture, heights_of(near, weights, texture)


def guess_first_is_near(focus: np.ndarray, sure: np.ndarray) -> bool:
    """Guess whether the first frame is focused nearer than the last.

    The frames themselves do not tell. In most pictures the centre and the lower part are nearer
    than the margins and the upper part.

    Args:
        focus, sure: (H, W) float in [0, 1].
    """
    height, width = focus.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    expected = 0.4 * y - x * x - y * y
    total = sure.sum()
    expected = expected - (expected * sure).sum() / total
    return bool((expected * sure * focus).sum() <= 0)


def heights_of(near: np.ndarray, sure: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """Fit a smooth surface through the certain pixels.

    Where there are none, the surface goes on as at the nearest ones, and far from all of them at
    their mean. So it does at the borders, where frames that were moved end and what is left tells
    nothing of the focus.

    Args:
        near: (H, W) float in [0, 1], larger is nearer.
        sure: (H, W) float in [0, 1].
        texture: (H, W, 3) uint8; the surface may have steps at its edges.
    Returns:
        (H, W) float32 in [0, 1].
    """
    side = max(near.shape)
    near = np.asarray(near, np.float32)
    # Noise makes a network certain of single pixels.
    sure = np.asarray(sure, np.float32) * _rise(
        cv2.GaussianBlur(sure, (0, 0), side / 120), 0.2, 0.5
    )
    sure = sure * _from_border(near.shape, side / BORDER) + np.float32(1e-6)
    trusted = near[sure > 0.3] if (sure > 0.3).sum() > 0.01 * sure.size else near
    low, high = np.percentile(trusted, [2, 98])
    spread = max(high - low, 0.2)  # the noise of a flat scene stays flat
    near = np.clip((near - low) / spread, 0, 1).astype(np.float32)
    filled = cv2.medianBlur(_fill(near, sure), 5)
    guide = cv2.cvtColor(texture, cv2.COLOR_RGB2GRAY) / np.float32(255)
    radius = max(2, side // 60)
    smooth = guided_filter(guide, filled, radius, 1e-3)
    return np.clip(cv2.GaussianBlur(smooth, (0, 0), side / 400), 0, 1)


def _from_border(shape: tuple[int, ...], reach: float) -> np.ndarray:
    """Smooth rise from about 0 at the borders of (H, W) to 1 from `reach` px on inwards."""
    inwards = [np.minimum(np.arange(n), np.arange(n)[::-1]) for n in shape]
    away = np.minimum(inwards[0][:, None], inwards[1]).astype(np.float32)
    return _rise(away, 0, min(reach, (min(shape) + 1) / 4))


def _rise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth step from 0 at `low` to 1 at `high`."""
    return smoothstep((values - np.float32(low)) / np.float32(high - low))


def _fill(values: np.ndarray, weights: np.ndarray, pull: float = 1.5) -> np.ndarray:
    """Average values (H, W) by weights over neighbourhoods as large as it takes to be certain.

    `pull` is the weight of the next larger neighbourhood. It is halved at each level, so that long
    slopes are kept.

    Source: pull-push, Gortler et al., The Lumigraph, SIGGRAPH 1996.
    """
    if min(values.shape) <= 2:
        return np.full(values.shape, (values * weights).sum() / weights.sum(), np.float32)
    down = cv2.pyrDown(weights)
    coarse = _fill(cv2.pyrDown(values * weights) / (down + np.float32(1e-9)), down, pull / 2)
    coarse = cv2.pyrUp(coarse, dstsize=values.shape[::-1])
    return (values * weights + coarse * np.float32(pull)) / (weights + np.float32(pull))


def _shade(heights: np.ndarray) -> np.ndarray:
    """Brightness of a surface, (H, W) float32, 1 where it is level. Heights as in `_render`."""
    step = 1 / max(heights.shape)
    dy, dx = np.gradient(heights, step)
    # Rows go down, towards the viewer; the axis y goes up, away from it.
    normal = np.stack([-dx, dy, np.ones_like(dx)], axis=2)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    light = LIGHT / np.linalg.norm(LIGHT)
    lit = np.clip(normal @ light.astype(np.float32), 0, None) / light[2]
    shade: np.ndarray = np.clip(0.45 + 0.55 * lit, 0.5, 1.25).astype(np.float32)
    return shade


def _span(shape: Sequence[int], yaws: Sequence[float]) -> tuple[float, float]:
    """How far to the left and right a picture of (H, W) px reaches when it is turned so."""
    side = max(shape)
    half_height, half_width = (length / side / 2 for length in shape)
    corners = np.array(
        [
            _turn(x, y, yaw)
            for yaw in yaws
            for x in (-half_width, half_width)
            for y in (-half_height, half_height)
        ]
    )
    views = corners[:, 0] / (corners[:, 1] + DISTANCE)
    return views.min(), views.max()


def _render(
    texture: np.ndarray, heights: np.ndarray, yaw: float, span: tuple[float, float]
) -> tuple[np.ndarray, int]:
    """Draw a block whose top is the picture.

    Args:
        texture: (H, W, 3) uint8.
        heights: (H, W) float32, in units of the longer side of the picture.
        yaw: angle by which it is turned.
        span: as of `_span`.
    Returns:
        (view (h, w, 3) uint8, its first row, from the height of the camera).
    """
    side = max(heights.shape)
    half_height, half_width = (length / side / 2 for length in heights.shape)
    lit = np.clip(np.float32(texture) * _shade(heights)[..., None], 0, 255)
    columns = FINER * max(side, LEAST_WIDTH)
    reach = np.hypot(half_width, half_height)
    # Lines of sight: column u sees the points x = u y_away, y_away measured from below the camera.
    away = np.linspace(DISTANCE - reach, DISTANCE + reach, columns, dtype=np.float32)
    u = np.linspace(*span, columns, dtype=np.float32)
    scale = columns / (span[1] - span[0])  # px of the view per unit of u
    x, y = _turn(u[None] * away[:, None], away[:, None] - DISTANCE, yaw, -1)  # (rows, columns)
    map_x = ((x + half_width) * side - 0.5).astype(np.float32)
    map_y = ((half_height - y) * side - 0.5).astype(np.float32)
    inside = (np.abs(x) <= half_width) & (np.abs(y) <= half_height)
    settings = {"interpolation": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    seen = cv2.remap(lit, map_x, map_y, **settings)  # rows from the front to the back
    z = cv2.remap(heights, map_x, map_y, **settings)
    lines = scale * (EYE - z) / away[:, None]  # rows below the camera's height
    lines[~inside] = np.inf
    first = inside.argmax(0)  # row of the front edge in each column
    base = scale * (EYE - FLOOR) / away[first]
    top = np.floor(lines[np.isfinite(lines)].min())
    count = int(np.ceil(base.max() - top)) + 1
    # A row is visible where it is higher in the view than all rows in front of it.
    horizon = np.minimum.accumulate(lines, axis=0) - top
    rows = np.full((count, columns), -1, np.float32)
    for column in range(columns):
        if not inside[:, column].any():
            continue
        edge, last = first[column], len(away) - inside[::-1, column].argmax()
        visible = horizon[edge:last, column]
        line = np.arange(count, dtype=np.float32)
        rows[:, column] = np.interp(-line, -visible, np.arange(edge, last), left=-2, right=-1)
        rows[line > base[column] - top, column] = -1
    grid = np.broadcast_to(np.arange(columns, dtype=np.float32), rows.shape)
    view = cv2.remap(seen, grid, np.maximum(rows, 0), **settings)
    view[rows == -1] = PAPER
    # The walls below the front edges; the one that faces the light is brighter.
    front = y[first, np.arange(columns)] < -half_height + 2 / side
    wall = np.where(front[:, None], FRONT_WALL, LEFT_WALL)  # (columns, 3)
    below = rows == -2
    view[below] = np.broadcast_to(wall, view.shape)[below]
    return np.round(view).astype(np.uint8), int(top)


def _turn(x: Any, y: Any, yaw: float, way: int = 1) -> tuple[Any, Any]:
    """Rotate points about the centre of the picture by an angle; way -1: back."""
    cosine, sine = np.cos(yaw), way * np.sin(yaw)
    return cosine * x - sine * y, sine * x + cosine * y


def _framed(view: np.ndarray) -> np.ndarray:
    """Shrink the view to its final size and add a margin of paper."""
    height, width = (max(1, length // FINER) for length in view.shape[:2])
    view = cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA)
    margin = max(width // 25, 4)
    return cv2.copyMakeBorder(
        view, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=PAPER
    )
