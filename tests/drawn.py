"""Small data sets drawn in code, for the tests of the loader, the training and the scoring."""

import io

import cv2
import numpy as np
import tifffile
from PIL import Image

from stackmff.images.formats import write_picture


def texture(height, width, seed):
    """A colour picture with detail, (H, W, 3) uint8."""
    noise = np.random.default_rng(seed).random((height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.0)
    return np.uint8(np.round(255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())))


def draw_stack(answer, n_frames):
    """Frames that are each sharp in one upright stripe: a list of (H, W, 3) uint8."""
    focus = np.linspace(0, n_frames - 1, answer.shape[1])[None, :, None]
    frames = []
    for k in range(n_frames):
        blurred = cv2.GaussianBlur(answer, (0, 0), 2.0)
        away = np.clip(np.abs(focus - k), 0, 1)
        frames.append(np.uint8(np.round(answer * (1 - away) + blurred * away)))
    return frames


def draw_moved_stack():
    """Four frames moved by a hand, the third of them next to the first in focus, which does not
    show while they lie as they were taken."""
    frames = draw_stack(texture(128, 336, 0), 4)
    starts = 40 + np.random.default_rng(0).integers(-30, 31, 4)
    return [frames[k][:, start : start + 256] for k, start in zip((0, 2, 1, 3), starts)]


def write_set(folder, counts, height=48, width=48, first=0):
    """Write a data set of len(counts) scenes, scene i of counts[i] frames; returns the folder.

    Scenes of one size are those of another set, unless `first` makes them begin elsewhere.
    """
    for i, n_frames in enumerate(counts):
        answer = texture(height, width, first + i)
        write_picture(folder / "AiF" / f"scene{i}.png", answer)
        for k, frame in enumerate(draw_stack(answer, n_frames)):
            write_picture(folder / "dof_stack" / f"scene{i}" / f"{k}.png", frame)
    return folder


def waves(channels=3, dtype=np.uint8, height=37, width=53):
    """A smooth picture with all channels different, which lossy formats keep well."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    layers = [np.sin(5 * x + 3 * k * y + k) * 0.4 + 0.5 for k in range(channels)]
    return np.round(np.dstack(layers) * np.iinfo(dtype).max).astype(dtype)


def saved(picture, kind, **options):
    """A file of Pillow's format `kind`, as bytes."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture.squeeze())
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(samples, **options):
    """A file of tifffile, as bytes."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def blobs(size):
    """A smooth picture (size, size, 3) uint8 that interpolates well."""
    noise = cv2.GaussianBlur(np.random.default_rng(5).random((size, size, 3)), (0, 0), 4)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return np.uint8(np.round(40 + 150 * noise))
