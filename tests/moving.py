"""Frames of a scene that are moved in known ways, for the tests of alignment."""

import cv2
import numpy as np

from stackmff.alignment.geometry import Alignment
from stackmff.alignment.registration import farthest

HEIGHT, WIDTH, ROOM = 96, 128, 32  # px; of a frame, and what its scene is larger on each side


def scene(seed, height=HEIGHT, width=WIDTH):
    """(height, width, 3) float32 texture of several sizes in [20, 220], with room around."""
    rng = np.random.default_rng(seed)
    shape = (height + 2 * ROOM, width + 2 * ROOM, 3)
    layers = [
        2**k * cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), 1.5 * 2**k)
        for k in range(4)
    ]
    total = sum(layers)
    return 20 + 200 * (total - total.min()) / np.ptp(total)


def motion(shift=(0, 0), scale=1.0, degrees=0.0):
    """(2, 3) about the centre of a frame, from pixel of the scene to pixel of the frame."""
    angle = np.deg2rad(degrees)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    return np.column_stack([linear, centre + shift - linear @ centre])


def squared(matrix):
    return np.vstack([matrix, [0, 0, 1]])


def view(picture, matrix=None, size=(WIDTH, HEIGHT)):
    """What a camera moved by `matrix` sees of a scene: (96, 128, 3) uint8."""
    inverse = np.linalg.inv(squared(motion() if matrix is None else matrix))
    inverse[:2, 2] += ROOM
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(picture, inverse[:2], size, flags=flags)
    return np.uint8(np.rint(np.clip(seen, 0, 255)))


def defocused(picture, focus):
    """A scene that is sharp at `focus` of its width, in [0, 1], and blurred away from it."""
    blurs = [cv2.GaussianBlur(picture, (0, 0), sigma) for sigma in (0.3, 1, 2)]
    place = 2 * np.abs(np.linspace(0, 1, picture.shape[1], dtype=np.float32) - focus)[:, None]
    shares = [np.clip(1 - np.abs(place - k), 0, 1) for k in range(3)]
    return sum(blur * share for blur, share in zip(blurs, shares))


def errors(alignment, motions):
    """How far, px, each frame's transform is from the true one at the worst corner."""
    reference = np.linalg.inv(squared(motions[alignment.reference]))
    return [
        farthest(np.linalg.inv(squared(matrix) @ reference) @ squared(found), alignment.size)
        for matrix, found in zip(motions, alignment.transforms)
    ]


MOTIONS = [
    motion((1.4, -0.7), 1.01, 0.3),
    motion((0.6, 0.2), 1.005, 0.1),
    motion(),
    motion((-0.8, 0.5), 0.996, -0.2),
    motion((-1.1, 1.6), 0.99, -0.4),
]


def moving_frames():
    """Five frames of one scene, focused from left to right, each moved as MOTIONS say."""
    picture = scene(0)
    return np.stack([view(defocused(picture, k / 4), MOTIONS[k]) for k in range(5)])


def shifted(*shifts, size=(40, 60)):
    """The Alignment of frames that are shifted by (x, y) px against the first."""
    matrices = [np.array([[1.0, 0, x], [0, 1, y]]) for x, y in shifts]
    return Alignment(0, size, matrices, np.ones((len(shifts), 3)))
