"""What the scenes of stackmff-bench show: surfaces, lens and noise of each, and random ones.

`SMALL` and `LARGE` are its sets. `draw_setup` draws others of the small kind, to train or to test
with.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np

from stackmff.synthesis.aperture import MOST
from stackmff.synthesis.shapes import SHAPES
from stackmff.synthesis.surface_detail import Tone

# Of a surface within its range of disparity.
Relief = Literal["flat", "slant", "bumps"]


@dataclass(frozen=True)
class Part:
    """A surface of a setup.

    Attributes:
        shape: one of shapes.SHAPES; None covers everything.
        low, high: range of its disparity.
        relief: how it uses that range.
        tone: "photo" is a piece of a photograph as it is; the others as of `surface_colour`.
        lights: how many points of light are on it.
        focused: whether focal planes are laid through it, where there are no even ones.
    """

    shape: str | None
    low: float
    high: float
    relief: Relief = "slant"
    tone: Tone | Literal["photo"] = "photo"
    lights: int = 0
    focused: bool = True


@dataclass(frozen=True)
class Setup:
    """A scene to be drawn.

    Attributes:
        name: of the scene.
        parts: from back to front; the first covers everything.
        n_frames: N.
        max_coc: circle of confusion, px per unit of disparity.
        size: (height, width), px.
        even: focal planes from 1 to 0 in even steps; else through the parts alone.
        blades: of the aperture; 0 for a disc.
        noise: (full well, read noise) in electrons; None for none.
        gain: of the brightest parts of the photographs; 1 leaves them.
        most: cells across the aperture, at most; see `aperture.render`.
    """

    name: str
    parts: tuple[Part, ...]
    n_frames: int
    max_coc: float
    size: tuple[int, int] = (384, 512)
    even: bool = True
    blades: int = 0
    noise: tuple[float, float] | None = None
    gain: float = 1.0
    most: int = MOST

    def scaled(self, factor: float) -> "Setup":
        """The same scene as a picture of another size, its blur in proportion."""
        height, width = (max(8, round(side * factor)) for side in self.size)
        return replace(self, size=(height, width), max_coc=self.max_coc * factor)


def _rear(high: float = 0.2) -> Part:
    """A slanted photograph that covers everything, of disparities from 0 to `high`."""
    return Part(None, 0.0, high)


# Small pictures, as the field's data sets have: 5 to 11 frames, blur of 3.5 to 16 px.
SMALL = (
    Setup(
        "bumps",
        (Part(None, 0.0, 1.0, "bumps"),),
        n_frames=9,
        max_coc=11.0,
        gain=4.0,
    ),
    Setup(
        "grass",
        (_rear(0.15), Part("blob", 0.3, 0.5), Part("branches", 0.7, 0.87), Part("blades", 0.96, 1)),
        n_frames=7,
        max_coc=9.0,
    ),
    Setup(
        "hair",
        (
            _rear(),
            Part("polygon", 0.45, 0.58),
            Part("holed_disc", 0.67, 0.8, "flat"),
            Part("curves", 0.94, 1.0, "flat"),
        ),
        n_frames=6,
        max_coc=5.0,
        gain=5.0,
    ),
    Setup(
        "iso3200",
        (_rear(), Part("holed_disc", 0.5, 0.75), Part("blades", 0.92, 1.0, "flat")),
        n_frames=7,
        max_coc=9.0,
        noise=(700.0, 3.0),
    ),
    Setup(
        "iso800",
        (
            _rear(0.23),
            Part("blob", 0.38, 0.51, "bumps"),
            Part("grid", 0.7, 0.86),
            Part("branches", 0.95, 1.0),
        ),
        n_frames=6,
        max_coc=7.0,
        noise=(2500.0, 3.0),
    ),
    Setup(
        "letters",
        (
            _rear(0.18),
            Part("grid", 0.37, 0.62, "flat"),
            Part("letters", 0.74, 0.85),
            Part("grid", 0.95, 1.0, "flat"),
        ),
        n_frames=8,
        max_coc=10.0,
        blades=6,
        gain=6.0,
    ),
    Setup(
        "many",
        (
            _rear(0.05),
            Part("letters", 0.1, 0.2),
            Part("blob", 0.29, 0.39),
            Part("curves", 0.44, 0.53),
            Part("holed_disc", 0.58, 0.66, "flat"),
            Part("branches", 0.73, 0.82, "flat"),
            Part("rays", 0.86, 0.95),
            Part("blades", 0.98, 1),
        ),
        n_frames=5,
        max_coc=3.5,
        size=(480, 640),
    ),
    Setup("slant", (Part(None, 0.0, 1.0),), n_frames=8, max_coc=7.0),
    Setup(
        "web",
        (
            _rear(0.14),
            Part("polygon", 0.26, 0.41),
            Part("rays", 0.55, 0.66, "flat"),
            Part("blob", 0.8, 0.9, "bumps"),
            Part("curves", 0.97, 1.0, "flat"),
        ),
        n_frames=11,
        max_coc=16.0,
        blades=5,
    ),
    Setup(
        "wires",
        (
            _rear(),
            Part("blob", 0.37, 0.48, "bumps"),
            Part("curves", 0.63, 0.82),
            Part("branches", 0.94, 1.0, "flat"),
        ),
        n_frames=7,
        max_coc=8.0,
    ),
)

CAMERA = (1024, 1536)  # px, of the pictures at camera scale
CELLS = 9  # across the aperture, which halves the time

# As of many megapixels: blur of 100 to 260 px, dark bodies before bright grounds, points of light.
LARGE = (
    Setup(
        "backdrop",
        (
            Part(None, 0.0, 0.0, "flat", "plain", focused=False),
            Part("blob", 0.58, 0.62, "bumps"),
            Part("holed_disc", 0.73, 0.77),
            Part("branches", 0.87, 0.89, "flat"),
            Part("curves", 0.97, 1.0, "slant", "dark"),
        ),
        n_frames=11,
        max_coc=260.0,
        size=CAMERA,
        even=False,
        most=CELLS,
    ),
    Setup(
        "backlit",
        (
            Part(None, 0.0, 0.0, "flat", "plain", focused=False),
            Part("branches", 0.5, 0.5, "flat", "dark"),
            Part("blob", 0.6, 0.66, "bumps", "dark"),
            Part("blades", 1.0, 1.0, "flat", "dark"),
        ),
        n_frames=10,
        max_coc=150.0,
        size=CAMERA,
        even=False,
        most=CELLS,
        noise=(20000.0, 4.0),
    ),
    Setup(
        "lights",
        (
            Part(None, 0.0, 0.0, "flat", "dark", 60),
            Part("polygon", 0.45, 0.45, "flat", "normal"),
            Part("rays", 0.9, 0.96, "slant", "normal", 25),
        ),
        n_frames=8,
        max_coc=110.0,
        size=CAMERA,
        even=False,
        most=CELLS,
        blades=6,
    ),
    Setup(
        "sheet",
        (Part(None, 0.0, 0.25, "bumps"), Part("curves", 1.0, 1.0, "flat", "normal")),
        n_frames=10,
        max_coc=100.0,
        size=CAMERA,
        even=False,
        most=CELLS,
        noise=(2500.0, 3.0),
    ),
    Setup(
        "specimen",
        (
            Part(None, 0.0, 0.0, "flat", "bright"),
            Part("branches", 0.62, 0.66, "slant", "dark"),
            Part("blob", 0.7, 0.86, "bumps", "dark", 12),
            Part("branches", 0.92, 0.98, tone="dark"),
        ),
        n_frames=12,
        max_coc=120.0,
        size=CAMERA,
        even=False,
        most=CELLS,
        noise=(20000.0, 4.0),
    ),
)

SETS = {"small": SMALL, "large": LARGE}


def draw_setup(rng: np.random.Generator, size: tuple[int, int] = (384, 512)) -> Setup:
    """A random small scene, of the kinds of SMALL.

    Args:
        rng: NumPy generator.
        size: (height, width), px.
    """
    max_coc = float(np.exp(rng.uniform(np.log(3), np.log(18))))
    n_frames = int(np.clip(1 + max_coc / rng.uniform(0.8, 2), 4, 12))
    noise = (float(np.exp(rng.uniform(np.log(500), np.log(20000)))), 3.0)
    blades = int(rng.integers(5, 9)) if rng.random() < 0.3 else 0
    noisy, gain = rng.random() < 0.25, float(rng.uniform(3, 8))
    gain = gain if rng.random() < 0.3 else 1.0
    if rng.random() < 0.2:
        relief: Relief = "bumps" if rng.random() < 0.5 else "slant"
        parts = [Part(None, 0.0, 1.0, relief)]
    else:
        count = int(np.exp(rng.uniform(np.log(1), np.log(8))))
        parts = [Part(None, 0.0, float(rng.uniform(0, 0.25)))]
        bounds = np.linspace(rng.uniform(0.3, 0.6), 1, count + 1)
        for low, high in itertools.pairwise(bounds):
            middle = rng.uniform(low, high)
            relief = cast(Relief, str(rng.choice(["flat", "slant", "slant", "bumps"])))
            ends = float(middle), float(rng.uniform(middle, high))
            parts.append(Part(str(rng.choice(list(SHAPES))), *ends, relief))
        parts[-1] = replace(parts[-1], high=1.0)
    return Setup(
        "random",
        tuple(parts),
        n_frames,
        max_coc,
        size,
        blades=blades,
        noise=noise if noisy else None,
        gain=gain,
    )
