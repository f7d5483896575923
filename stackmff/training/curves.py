"""The curves of a training run as one picture, drawn from its log."""

import json
from itertools import cycle
from typing import NamedTuple

import cv2
import numpy as np

from stackmff.display.drawing import draw_text, text_width

WIDTH, HEIGHT = 760, 360  # px of a plot with its labels
LEFT, RIGHT, TOP, BOTTOM = 84, 20, 44, 46  # px around its axes
MOST_POINTS = 300  # of a curve; more are averaged
INK, FAINT, GREY = (30, 30, 30), (226, 226, 226), (110, 110, 110)
COLOURS = [(31, 97, 168), (214, 96, 24), (44, 140, 72), (150, 60, 150), (120, 90, 60)]
COLOURS += [(200, 40, 60), (20, 150, 160), (160, 130, 0), (90, 80, 190)]


class Plot(NamedTuple):
    """What one of the plots shows.

    Args:
        title: with the unit; what is above the axes.
        curves: {name: (steps, values)}, two lists of one length.
        is_log: whether the values are on a logarithmic axis; those of 0 or less are left out.
    """

    title: str
    curves: dict
    is_log: bool = False


def round_ticks(low, high, most=6):
    """Round numbers from low to high in `most` steps or less.

    They are 1, 2 or 5 times a power of ten apart; at least one of them where low < high.
    """
    span = high - low
    power = 10.0 ** np.floor(np.log10(span / most))
    step = next(power * k for k in (1, 2, 5, 10, 20) if span / (power * k) <= most)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return [float(k * step) + 0.0 for k in np.arange(first, last + 1)]  # no -0


def log_ticks(low, high, most=6):
    """Powers of ten from low to high, with 2 and 5 times them where there are few."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [k * 10.0**p for p in powers for k in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    if len(ticks) < 2:  # within a part of a power
        return round_ticks(low, high, most)
    return ticks[:: -(-len(ticks) // most)]


def thin_out(steps, values):
    """Two lists as arrays of MOST_POINTS at the most, by means of neighbours."""
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    if len(steps) <= MOST_POINTS:
        return steps, values
    parts = np.linspace(0, len(steps), MOST_POINTS + 1).round().astype(int)[:-1]
    sizes = np.diff([*parts, len(steps)])
    return tuple(np.add.reduceat(part, parts) / sizes for part in (steps, values))


def limits_of(values, is_log):
    """(low, high) of an axis, with some room around the values."""
    low, high = float(min(values)), float(max(values))
    if is_log:
        room = max((high / low) ** 0.06, 1.05)
        return low / room, high * room
    room = 0.06 * (high - low) or max(abs(high) * 0.05, 1e-3)
    return low - room, high + room


def draw_plot(picture, plot):
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
            curves[name] = thin_out(*zip(*points))
    if not curves:
        draw_text(picture, "nothing was logged", LEFT, HEIGHT // 2, 15, GREY)
        return
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    low, high = limits_of(np.concatenate([v for _, v in curves.values()]), plot.is_log)
    first = min(0.0, min(float(s[0]) for s, _ in curves.values()))
    last = max(first + 1, max(float(s[-1]) for s, _ in curves.values()))
    scale = np.log10 if plot.is_log else np.asarray

    def place(steps, values):
        x = LEFT + (np.asarray(steps) - first) / (last - first) * (right - LEFT)
        y = bottom - (scale(values) - scale(low)) / (scale(high) - scale(low)) * (bottom - TOP)
        return x, y

    for tick in (log_ticks if plot.is_log else round_ticks)(low, high):
        y = round(float(place(first, tick)[1]))
        cv2.line(picture, (LEFT, y), (right, y), FAINT)
        label = f"{tick:g}"
        draw_text(picture, label, LEFT - 8 - text_width(label, 13), y + 5, 13, GREY)
    for tick in round_ticks(first, last, 8):
        x = round(float(place(tick, high)[0]))
        cv2.line(picture, (x, bottom), (x, bottom + 4), GREY)
        label = f"{tick:g}"
        draw_text(picture, label, x - text_width(label, 13) / 2, bottom + 19, 13, GREY)
    draw_text(picture, "step", right - text_width("step", 13), bottom + 37, 13, GREY)
    cv2.rectangle(picture, (LEFT, TOP), (right, bottom), GREY)
    for colour, (steps, values) in zip(cycle(COLOURS), curves.values()):
        points = np.round(16 * np.stack(place(steps, values), 1)).astype(np.int32)  # sixteenths
        cv2.polylines(picture, [points], False, colour, 2, cv2.LINE_AA, shift=4)
        if len(points) <= 40:
            for x, y in points:
                cv2.circle(picture, (int(x), int(y)), 3 * 16, colour, -1, cv2.LINE_AA, shift=4)
    draw_legend(picture, curves, right)


def draw_legend(picture, curves, right):
    """The names of the curves, each in its colour, beside the title."""
    if len(curves) < 2:
        return
    for colour, name in list(zip(cycle(COLOURS), curves))[::-1]:
        right -= text_width(name, 13)
        draw_text(picture, name, right, 26, 13, colour)
        right -= 14


def read_log(path):
    """{group: {name: (steps, values)}} of a log.jsonl; lines that were cut short are left out."""
    found = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        for group in set(row) - {"epoch", "step"}:
            for name, value in row[group].items():
                steps, values = found.setdefault(group, {}).setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return found


def draw_run(path):
    """Draw a run.

    Args:
        path: its log.jsonl.
    Returns:
        (3 HEIGHT, 2 WIDTH, 3) uint8 RGB: the losses, PSNR and SSIM of the validation, learning
        rate, norm of the gradient and speed.
    """
    log = read_log(path)
    training, validation = log.get("train", {}), log.get("validation", {})
    losses = {"training": training.get("loss"), "validation": validation.get("loss")}
    not_terms = {"loss", "lr", "gradient_norm", "samples_per_second"}
    not_terms |= {"megapixel_frames_per_second"}
    losses |= {name: curve for name, curve in training.items() if name not in not_terms}

    def one(group, name):
        return {name: group[name]} if name in group else {}

    plots = [
        Plot("Loss", {name: curve for name, curve in losses.items() if curve}, True),
        Plot("Learning rate", one(training, "lr")),
        Plot("Validation: PSNR, dB", one(validation, "PSNR")),
        Plot("Validation: SSIM", one(validation, "SSIM")),
        Plot("Norm of the gradient", one(training, "gradient_norm"), True),
        Plot("Samples a second", one(training, "samples_per_second")),
    ]
    sheet = np.full((3 * HEIGHT, 2 * WIDTH, 3), 255, np.uint8)
    for k, plot in enumerate(plots):
        top, left = k // 2 * HEIGHT, k % 2 * WIDTH
        draw_plot(sheet[top : top + HEIGHT, left : left + WIDTH], plot)
    return sheet
