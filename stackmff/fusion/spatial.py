"""Fusion in the image plane: methods that decide which frame is sharp at each pixel.

Each takes frames (N, H, W, C), uint8 or uint16, C as in images/formats.py, and returns the fused
picture (H, W, C) of the same dtype.
"""

import cv2
import numpy as np

from stackmff.images.colour import luma
from stackmff.images.guided_filter import guided_filter


def in_floats(frame: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 or uint16 as float32 in [0, 1]."""
    return frame.astype(np.float32) * np.float32(1 / np.iinfo(frame.dtype).max)


def in_integers(picture: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """(H, W, C) float as uint8 or uint16; values outside [0, 1] are clipped."""
    white = np.iinfo(dtype).max
    return np.clip(np.rint(picture * np.float32(white)), 0, white).astype(dtype)


def take_frames(frames: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Pick each pixel of (N, H, W, C) from the frame that (H, W) integers name: (H, W, C)."""
    return np.take_along_axis(frames, index[None, ..., None], axis=0)[0]


def majority(index: np.ndarray, count: int, side: int) -> np.ndarray:
    """The most frequent frame in a window around each place; a tie keeps the place's own frame.

    Args:
        index: (h, w) integers in [0, count).
        side: of the window, odd.
    """
    out, most = index.copy(), np.zeros(index.shape, np.float32)
    for k in range(count):
        own = (index == k).astype(np.float32)
        votes = cv2.boxFilter(own, -1, (side, side), normalize=False) + own / 2
        out[votes > most] = k
        most = np.maximum(most, votes)
    return out


def fuse_dct(frames: np.ndarray, block: int, consistency: int) -> np.ndarray:
    """Take each block from the frame with the largest variance in the block's DCT.

    By Parseval's theorem that is the variance of its pixels, so no transform is computed.

    Args:
        frames: (N, H, W, C).
        block: side, px.
        consistency: side, in blocks, of the window whose majority decides; 1: each block alone.
    Source:
        Haghighat, Aghagolzadeh and Seyedarabi, "Multi-focus image fusion for visual sensor networks
        in DCT domain", Computers & Electrical Engineering 2011.
    """
    height, width = frames.shape[1:3]
    rows, columns = -(-height // block), -(-width // block)
    best, index = None, np.zeros((rows, columns), np.int64)
    for k, frame in enumerate(frames):
        plane = luma(frame)
        padded = cv2.copyMakeBorder(
            plane, 0, rows * block - height, 0, columns * block - width, cv2.BORDER_REFLECT
        )
        variance = padded.reshape(rows, block, columns, block).var(axis=(1, 3))
        if best is None:
            best = variance
            continue
        index[variance > best] = k
        best = np.maximum(best, variance)
    if consistency > 1:
        index = majority(index, len(frames), consistency)
    index = index.repeat(block, 0).repeat(block, 1)[:height, :width]
    return take_frames(frames, index)


def sift_activity(plane: np.ndarray, bin_size: int) -> np.ndarray:
    """The L1 norm of the unnormalised dense SIFT descriptor (4x4 cells) at each pixel.

    A gradient is distributed over eight orientations with weights that sum to 1. Its orientations
    therefore sum to its length, and the norm needs no orientations: gradient lengths, pooled by
    triangles twice as wide as a bin, at four by four places.

    Args:
        plane: (H, W) float32.
        bin_size: distance between the cells, px.
    Returns:
        (H, W) float32.
    """
    slope = np.array([[-0.5, 0, 0.5]], np.float32)
    down, across = (
        cv2.filter2D(plane, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT)
        for kernel in (slope.T, slope)
    )
    length = np.sqrt(down**2 + across**2)
    places = np.abs(np.arange(-bin_size, bin_size + 1, dtype=np.float32))
    triangle = (1 - places / bin_size) / bin_size
    cells = np.zeros(3 * bin_size + 1, np.float32)
    cells[::bin_size] = 1
    kernel = np.convolve(triangle, cells)
    # Of odd length, so that the four cells lie symmetrically about its centre.
    kernel = kernel if len(kernel) % 2 else np.append(kernel, 0)
    return cv2.sepFilter2D(length, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT)


def fuse_dsift(frames: np.ndarray, bin_size: int, window: int) -> np.ndarray:
    """Dense SIFT: sliding windows vote for the frame with the largest activity.

    Where all windows over a pixel agree, their frame is taken. Elsewhere it is, among the frames
    that got a vote, the one with the largest activity at the pixel itself. (There the paper
    searches for the matching feature in the other picture; in aligned frames it lies at the same
    place.)

    Args:
        frames: (N, H, W, C).
        bin_size: distance between the descriptor's cells, px.
        window: side of the voting windows, px.
    Source:
        Liu, Liu and Wang, "Multi-focus image fusion with dense SIFT", Information Fusion 2015.
    """
    activities = [sift_activity(luma(frame), bin_size) for frame in frames]
    kernel = np.ones((window, window), np.uint8)
    # A window of even side extends further up and left than down and right. The centres of the
    # windows over a pixel therefore extend further down and right: the anchor is mirrored.
    anchor = (window - 1 - window // 2,) * 2
    best = np.full(activities[0].shape, -np.inf, np.float32)
    winner = np.zeros(best.shape, np.int64)
    for k, activity in enumerate(activities):
        total = cv2.blur(activity, (window, window), borderType=cv2.BORDER_REFLECT)
        winner[total > best] = k
        best = np.maximum(best, total)
    index, own = winner.copy(), np.full(best.shape, -np.inf, np.float32)
    for k, activity in enumerate(activities):
        voted = cv2.dilate((winner == k).astype(np.uint8), kernel, anchor=anchor) > 0
        better = voted & (activity > own)
        index[better] = k
        own[better] = activity[better]
    return take_frames(frames, index)


def fuse_gff(
    frames: np.ndarray,
    base_radius: int,
    base_epsilon: float,
    detail_radius: int,
    detail_epsilon: float,
) -> np.ndarray:
    """Guided filtering fusion: a base and a detail layer with weights smoothed along the frame.

    Args:
        frames: (N, H, W, C).
        base_radius, detail_radius: of the guided filter, px.
        base_epsilon, detail_epsilon: its regularisation, for luma in [0, 1].
    Source:
        Li, Kang and Hu, "Image fusion with guided filtering", IEEE TIP 2013: base by a mean over
        31x31, saliency by a Gaussian of sigma 5 over the absolute Laplacian.
    """
    best, index = None, np.zeros(frames.shape[1:3], np.int64)
    for k, frame in enumerate(frames):
        laplacian = cv2.Laplacian(luma(frame), cv2.CV_32F)
        saliency = cv2.GaussianBlur(np.abs(laplacian), (11, 11), 5)
        if best is None:
            best = saliency
            continue
        index[saliency > best] = k
        best = np.maximum(best, saliency)
    totals = np.zeros((2, *index.shape), np.float32)
    layers = np.zeros((2, *frames.shape[1:]), np.float32)
    settings = ((base_radius, base_epsilon), (detail_radius, detail_epsilon))
    for k, frame in enumerate(frames):
        picture = in_floats(frame)
        base = cv2.blur(picture, (31, 31), borderType=cv2.BORDER_REFLECT).reshape(picture.shape)
        guide, chosen = luma(frame), (index == k).astype(np.float32)
        for layer, total, part, (radius, epsilon) in zip(
            layers, totals, (base, picture - base), settings
        ):
            weight = np.maximum(
                guided_filter(guide, chosen, radius, epsilon, cv2.BORDER_REFLECT), 0
            )
            weight += np.float32(1e-6)  # so that their sum is above 0 everywhere
            layer += weight[..., None] * part
            total += weight
    return in_integers((layers / totals[..., None]).sum(0), frames.dtype)
