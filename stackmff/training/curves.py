"""The curves of a training run as one picture, drawn from its log."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from stackmff.display.drawing import draw_text, text_width
from stackmff.files import parse_json

WIDTH, HEIGHT = 760, 360  # px of a plot with its labels
LEFT, RIGHT, TOP, BOTTOM = 84, 20, 44, 46  # px around its axes
MOST_POINTS = 300  # of a curve; more are averaged
LARGEST = 1e30  # value that is drawn; beyond it, arithmetic of axes overflows
INK, FAINT, GREY = (30, 30, 30), (226, 226, 226), (110, 110, 110)
COLOURS = [(31, 97, 168), (214, 96, 24), (44, 140, 72), (150, 60, 150), (120, 90, 60)]
COLOURS += [(200, 40, 60), (20, 150, 160), (160, 130, 0), (90, 80, 190)]
COLOURS += [(110, 110, 110), (230, 110, 170), (60, 60, 20), (130, 190, 80)]


Curve = tuple[Sequence[float], Sequence[float]]  # steps and values, equally many


class Plot(NamedTuple):
    """What one of the plots shows.

    Args:
        title: with the unit, above the axes.
        curves: {name: Curve}.
        is_log: whether the axis of the values is logarithmic; values of 0 or less are left out.
    """

    title: str
    curves: Mapping[str, Curve]
    is_log: bool = False


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high in at most `most` steps.

    They are 1, 2 or 5 times a power of ten apart; there is at least one if low < high.
    """
    span = high - low
    power = 10.0 ** np.floor(np.log10(span / most))
    step = next(power * k for k in (1, 2, 5, 10, 20) if span / (power * k) <= most)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return [float(k * step) + 0.0 for k in np.arange(first, last + 1)]  # no -0


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten from low to high, also 2 and 5 times them if there are few."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps: tuple[tuple[int, ...], ...] = (1, 2, 5), (1,)
    for factors in steps:
        ticks = [k * 10.0**p for p in powers for k in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    if len(ticks) < 2:  # within a part of a power
        return round_ticks(low, high, most)
    return ticks[:: -(-len(ticks) // most)]


def thin_out(steps: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """A curve as two arrays of at most MOST_POINTS, by averaging neighbours."""
    x, y = np.asarray(steps, float), np.asarray(values, float)
    if len(x) <= MOST_POINTS:
        return x, y
    parts = np.linspace(0, len(x), MOST_POINTS + 1).round().astype(int)[:-1]
    sizes = np.diff([*parts, len(x)])
    return np.add.reduceat(x, parts) / sizes, np.add.reduceat(y, parts) / sizes


def range_of_axis(values: Iterable[float], is_log: bool) -> tuple[float, float]:
    """(low, high) of an axis, with some room around the values."""
    values = list(values)
    low, high = float(min(values)), float(max(values))
    if is_log:
        room = max((high / low) ** 0.06, 1.05)
        return low / room, high * room
    room = 0.06 * (high - low) or max(abs(high) * 0.05, 1e-3)
    return low - room, high + room


class Axes:
    """The axes of a plot: from steps and values to px.

    Args:
        curves: {name: (steps, values)}, not empty.
        is_log: whether the axis of the values is logarithmic.
    """

    def __init__(self, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], is_log: bool) -> None:
        self.is_log = is_log
        self.low, self.high = range_of_axis(np.concatenate([v for _, v in curves.values()]), is_log)
        self.first = min(0.0, min(float(s[0]) for s, _ in curves.values()))
        self.last = max(self.first + 1, max(float(s[-1]) for s, _ in curves.values()))
        self.right, self.bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(self, steps: float | np.ndarray, values: float | np.ndarray) -> np.ndarray:
        """Columns and rows of points, (2,) or (2, n)."""
        across = (np.asarray(steps) - self.first) / (self.last - self.first)
        values, low, high = (np.asarray(v, float) for v in (values, self.low, self.high))
        if self.is_log:
            values, low, high = np.log10(values), np.log10(low), np.log10(high)
        up = (values - low) / (high - low)
        return np.stack(
            [LEFT + across * (self.right - LEFT), self.bottom - up * (self.bottom - TOP)]
        )

    def draw(self, picture: np.ndarray) -> None:
        """Draw the axes, their ticks and labels into a picture."""
        right, bottom = self.right, self.bottom
        for tick in (log_ticks if self.is_log else round_ticks)(self.low, self.high):
            y = round(float(self.place(self.first, tick)[1]))
            cv2.line(picture, (LEFT, y), (right, y), FAINT)
            label = f"{tick:g}"
            draw_text(picture, label, LEFT - 8 - text_width(label, 13), y + 5, 13, GREY)
        for tick in round_ticks(self.first, self.last, 8):
            x = round(float(self.place(tick, self.high)[0]))
            cv2.line(picture, (x, bottom), (x, bottom + 4), GREY)
            label = f"{tick:g}"
            draw_text(picture, label, x - text_width(label, 13) / 2, bottom + 19, 13, GREY)
        draw_text(picture, "step", right - text_width("step", 13), bottom + 37, 13, GREY)
        cv2.rectangle(picture, (LEFT, TOP), (right, bottom), GREY)


def draw_plot(picture: np.ndarray, plot: Plot) -> None:
    """Draw a plot into a white (HEIGHT, WIDTH, 3) uint8 picture, in place."""
    draw_text(picture, plot.title, LEFT, 26, 17, INK)
    curves = {}
    for name, (steps, values) in plot.curves.items():
        points = [
            (step, value)
            for step, value in zip(steps, values)
            if np.isfinite(value) and (value > 0 or not plot.is_log)
        ]
        if points:
            curves[name] = thin_out([step for step, _ in points], [value for _, value in points])
    if not curves:
        draw_text(picture, "nothing was logged", LEFT, HEIGHT // 2, 15, GREY)
        return
    axes = Axes(curves, plot.is_log)
    axes.draw(picture)
    for colour, thinned in zip(cycle(COLOURS), curves.values()):
        places = np.round(16 * axes.place(*thinned).T).astype(np.int32)  # sixteenths of px
        cv2.polylines(picture, [places], False, colour, 2, cv2.LINE_AA, shift=4)
        for x, y in places if len(places) <= 40 else ():
            cv2.circle(picture, (int(x), int(y)), 3 * 16, colour, -1, cv2.LINE_AA, shift=4)
    draw_legend(picture, list(curves), axes.right)


def draw_legend(picture: np.ndarray, names: Sequence[str], right: float) -> None:
    """The names of the curves, each in its colour, beside the title; none for one curve."""
    if len(names) < 2:
        return
    for colour, name in list(zip(cycle(COLOURS), names))[::-1]:
        right -= text_width(name, 13)
        draw_text(picture, name, right, 26, 13, colour)
        right -= 14


def read_log(path: Path) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """{group: {name: (steps, values)}} of a log.jsonl; damaged lines and values are left out."""
    found: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = parse_json(line)
            step = float(row["step"])
            groups = {name: dict(row[name]) for name in set(row) - {"epoch", "step"}}
        except (ValueError, TypeError, KeyError):
            continue
        for group, scores in groups.items():
            for name, value in scores.items():
                if isinstance(value, int | float) and max(abs(value), abs(step)) <= LARGEST:
                    steps, values = found.setdefault(group, {}).setdefault(name, ([], []))
                    steps.append(step)
                    values.append(float(value))
    return found


def draw_run(path: Path) -> np.ndarray:
    """Draw the curves of a run.

    Args:
        path: its log.jsonl.
    Returns:
        (3 HEIGHT, 2 WIDTH, 3) uint8 RGB: the losses, PSNR and SSIM of the validation, learning
        rate, gradient norm and speed.
    """
    log = read_log(path)
    training, validation = log.get("train", {}), log.get("validation", {})
    losses: dict[str, Curve | None] = {
        "training": training.get("loss"),
        "validation": validation.get("loss"),
    }
    not_terms = {"loss", "lr", "gradient_norm", "samples_per_second"}
    not_terms |= {"megapixel_frames_per_second"}
    losses |= {name: curve for name, curve in training.items() if name not in not_terms}

    def one(group: Mapping[str, Curve], name: str) -> dict[str, Curve]:
        return {name: group[name]} if name in group else {}

    plots = [
        Plot("Loss", {name: curve for name, curve in losses.items() if curve}, True),
        Plot("Learning rate", one(training, "lr")),
        Plot("Validation: PSNR, dB", one(validation, "PSNR")),
        Plot("Validation: SSIM", one(validation, "SSIM")),
        Plot("Gradient norm", one(training, "gradient_norm"), True),
        Plot("Samples per second", one(training, "samples_per_second")),
    ]
    sheet = np.full((3 * HEIGHT, 2 * WIDTH, 3), 255, np.uint8)
    for k, plot in enumerate(plots):
        top, left = k // 2 * HEIGHT, k % 2 * WIDTH
        draw_plot(sheet[top : top + HEIGHT, left : left + WIDTH], plot)
    return sheet
