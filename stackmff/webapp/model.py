"""The 3D view as a file: a binary glTF with the picture for its texture.

Source: glTF 2.0, https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, sections 3 and 4.4;
KHR_materials_unlit, since the picture has its light already.
"""

import json
import struct

import numpy as np

MAGIC, VERSION = 0x46546C67, 2
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942
FLOATS, NUMBERS = 5126, 5125  # component types: float32, uint32


def glb(heights: np.ndarray, texture: bytes, tallest: float) -> bytes:
    """A binary glTF of a surface over the picture's plane, y up, its longer side 1.

    Args:
        heights: (h, w) float in [0, 1], 1 is nearest.
        texture: JPEG.
        tallest: height of 1, in units of the longer side.
    """
    height, width = heights.shape
    side = max(height, width)
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    places = np.stack([(x - 0.5) * width / side, (0.5 - y) * height / side, heights * tallest], -1)
    at = np.arange(height * width, dtype=np.uint32).reshape(height, width)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, :-1], at[1:, 1:]
    corners = np.stack([a, c, b, b, c, d], -1)
    points = places.reshape(-1, 3).astype("<f4")
    parts = [
        points.tobytes(),
        np.stack([x, y], -1).reshape(-1, 2).astype("<f4").tobytes(),
        corners.reshape(-1).astype("<u4").tobytes(),
        texture,
    ]
    views, binary = [], b""
    for part in parts:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(part)})
        binary += part + bytes(-len(part) % 4)
    count = len(points)
    kinds = [(FLOATS, count, "VEC3"), (FLOATS, count, "VEC2"), (NUMBERS, corners.size, "SCALAR")]
    accessors: list[dict[str, object]] = [
        {"bufferView": k, "componentType": kind, "count": count, "type": shape}
        for k, (kind, count, shape) in enumerate(kinds)
    ]
    accessors[0] |= {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
    colour = {"baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1}
    unlit = "KHR_materials_unlit"
    mesh = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}
    record = {
        "asset": {"version": "2.0", "generator": "stackmff"},
        "extensionsUsed": [unlit],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [mesh]}],
        "materials": [
            {"pbrMetallicRoughness": colour, "doubleSided": True, "extensions": {unlit: {}}}
        ],
        "textures": [{"source": 0}],
        "images": [{"bufferView": 3, "mimeType": "image/jpeg"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(record, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), JSON_CHUNK) + text
    body += struct.pack("<II", len(binary), BINARY_CHUNK) + binary
    return struct.pack("<III", MAGIC, VERSION, 12 + len(body)) + body
