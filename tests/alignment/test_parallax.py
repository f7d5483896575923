"""Parallax: known displacements found again, none where nothing but blur changes."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from stackmff.alignment import parallax, resampling
from stackmff.alignment.align import align_by_options
from stackmff.alignment.command import AlignCommand, get_parser
from stackmff.alignment.geometry import Alignment, common_area, covered, places_of, spread
from stackmff.alignment.measure import Measuring, apply, measure
from stackmff.alignment.record import load_alignment, save_alignment
from stackmff.errors import StackError
from stackmff.images.rectangles import Box
from stackmff.options import parse

HEIGHT, WIDTH, ROOM = 120, 160, 20  # px; of a frame, and what its scene is larger on each side
STEP = 1.5  # px that the near half moves from frame to frame, the far half goes the other way


def scene(seed):
    """Texture of several sizes in [20, 220], with room around, float32."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT + 2 * ROOM, WIDTH + 2 * ROOM, 3)
    total = sum(
        2**k * cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), 1.2 * 2**k)
        for k in range(3)
    )
    return 20 + 200 * (total - total.min()) / np.ptp(total)


def nearness(x):
    """How near the scene is at columns x, from -1 on the left to 1 on the right."""
    return np.tanh((x - WIDTH / 2) / 20)


def blurred(picture, k):
    """A scene that is sharp on the left in frame 0 and on the right in frame 4."""
    soft = cv2.GaussianBlur(picture, (0, 0), 1.5)
    place = np.linspace(0, 4, picture.shape[1], dtype=np.float32)[:, None]
    share = np.clip(np.abs(place - k) / 2, 0, 1)
    return picture * (1 - share) + soft * share


def taken(picture, k, parallax):
    """What frame k of five shows from a camera that goes upward: (HEIGHT, WIDTH, 3) uint8."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    # The place in the frame of a point is shifted by (k - 2) STEP nearness(its column).
    y = y - parallax * STEP * (k - 2) * nearness(x) + ROOM - 0.6 * (k - 2)
    seen = cv2.remap(blurred(picture, k), np.float32(x + ROOM), np.float32(y), cv2.INTER_LANCZOS4)
    return np.uint8(np.rint(np.clip(seen, 0, 255)))


def stack(seed, parallax=1.0):
    picture = scene(seed)
    return np.stack([taken(picture, k, parallax) for k in range(5)])


@pytest.fixture(scope="module")
def frames():
    return stack(0)


@pytest.fixture(scope="module")
def alignment(frames):
    return measure(frames)


def inner(values):
    """Without what frames do not share."""
    return values[..., 12:-12, 12:-12, :]


def errors(alignment):
    """Mean distance, px, of each frame's places from the true ones."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    out = []
    for k in range(5):
        found = places_of(alignment, k, Box(0, HEIGHT, 0, WIDTH))
        true = np.dstack([x, y + (k - 2) * (0.6 + STEP * nearness(x))])
        out.append(inner(np.abs(found - true)).max(-1).mean())
    return out


def test_known_displacements_are_found(frames, alignment):
    assert sorted(alignment.fields) == [0, 1, 3, 4] and alignment.spacing == 8
    assert max(errors(alignment)) < 0.2
    whole = measure(frames, wanted=Measuring(local=False))
    assert whole.fields == {} and max(errors(whole)) > 1


def test_the_parts_of_frames_lie_on_the_reference(frames, alignment):
    aligned = frames.copy()
    assert apply(aligned, alignment) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(aligned[2], frames[2])
    whole = frames.copy()
    apply(whole, measure(frames, wanted=Measuring(local=False)))
    ends = [0, 4]
    after = np.abs(inner(aligned[ends].astype(float) - frames[2])).mean()
    before = np.abs(inner(whole[ends].astype(float) - frames[2])).mean()
    assert after < 0.5 * before


def test_blur_alone_is_no_parallax():
    for seed in (1, 2):
        frames = stack(seed, parallax=0)
        alignment = measure(frames)
        assert alignment.moved == [True, True, False, True, True] and alignment.fields == {}
        plain = measure(frames, wanted=Measuring(local=False))
        for found, expected in zip(alignment.transforms, plain.transforms):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "moved, field, speaks",
    [
        (1.0, 1.0, True),
        (0.3, 0.3, False),  # explains all, and is too short to count
        (1.0, -1.0, False),  # long enough, and explains nothing
        (0.0, 0.0, False),
    ],
)
def test_only_a_field_that_is_long_and_explains_much_speaks(moved, field, speaks):
    """moved, field: px, where the second frame has what the first shows, and is said to have it."""
    picture = np.float32(scene(4)[..., 0])
    other = cv2.warpAffine(
        picture,
        np.float32([[1, 0, -moved], [0, 1, 0]]),
        picture.shape[::-1],
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    lumas = {k: np.uint16(np.clip(luma, 0, 255) * 257) for k, luma in enumerate((picture, other))}
    level = parallax._Level(1, lumas, picture.shape)
    fields = {k: np.zeros((*parallax.grid_of(picture.shape), 2), np.float32) for k in range(2)}
    fields[1][..., 0] = field

    def run(function, items):
        return [function(item) for item in items]

    motion = parallax._Motion({0: np.eye(3), 1: np.eye(3)}, fields)
    assert parallax._speaks(level, motion, [(0, 1)], run) is speaks


def test_still_frames_stay():
    picture = scene(3)
    frames = np.stack([taken(blurred(picture, k), 2, 0) for k in range(5)])
    alignment = measure(frames, wanted=Measuring(thorough=True))
    assert not any(alignment.moved) and alignment.fields == {}


def bent(step=3.0, spacing=8):
    """An Alignment whose second frame has a field that rises to the right."""
    columns = 2 + WIDTH // spacing
    field = np.zeros((HEIGHT // spacing, columns, 2), np.float32)
    field[..., 0] = step * np.linspace(-1, 1, columns, dtype=np.float32)
    matrices = [np.eye(2, 3), np.eye(2, 3)]
    return Alignment(
        0, (HEIGHT, WIDTH), matrices, np.ones((2, 3)), fields={1: field}, spacing=spacing
    )


def test_a_field_is_the_same_in_every_window():
    alignment = bent()
    whole = spread(alignment.fields[1], 8, Box(0, HEIGHT, 0, WIDTH))
    part = spread(alignment.fields[1], 8, Box(37, 90, 27, 160))
    np.testing.assert_allclose(part, whole[37:90, 27:160], atol=1e-5)
    # The middle of cell (i, j) is at px 8 i + 5.5.
    middles = (whole[5:-8:8, 5:-8:8] + whole[6:-8:8, 6:-8:8]) / 2
    expected = alignment.fields[1][: middles.shape[0], : middles.shape[1]]
    np.testing.assert_allclose(middles[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-3)


def test_frames_are_resampled_in_strips(frames, monkeypatch):
    whole, strips = frames[1].copy(), frames[1].copy()
    resampling.resample(whole, bent(), 1)
    monkeypatch.setattr(resampling, "STRIP", 16)
    monkeypatch.setattr(resampling, "TILE", 50)
    resampling.resample(strips, bent(), 1)
    assert np.abs(whole.astype(int) - strips).max() <= 2  # places are rounded to 1/32 px
    assert (whole != frames[1]).any()


@pytest.mark.parametrize("moves", ["as a whole", "by parts"])
def test_large_frames_are_resampled_by_a_cheaper_kernel(frames, monkeypatch, moves):
    """Where detail is several px wide, as in them, nobody sees the difference."""
    alignment = bent()
    if moves == "as a whole":
        matrix = np.array([[1.002, 0.001, 0.4], [-0.001, 1.002, -0.3]])
        alignment = replace(alignment, transforms=[np.eye(2, 3), matrix], fields={})
    soft = cv2.GaussianBlur(frames[1], (0, 0), 1.5)
    fine, cheap = soft.copy(), soft.copy()
    resampling.resample(fine, alignment, 1)
    monkeypatch.setattr(resampling, "CUBIC_FROM", 1)
    resampling.resample(cheap, alignment, 1)
    difference = np.abs(fine.astype(int) - cheap)
    assert 0 < difference.max() <= 4 and difference.mean() < 0.5
    assert np.abs(fine.astype(int) - soft).mean() > 4 * difference.mean()


@pytest.mark.parametrize("kind", ["grey", "16 bits with alpha"])
def test_every_kind_of_frame_is_resampled(frames, kind):
    frame = frames[1][..., :1] if kind == "grey" else np.dstack([frames[1], frames[1][..., 0]])
    frame = frame.copy() if kind == "grey" else frame.astype(np.uint16) * 257
    before = frame.copy()
    resampling.resample(frame, bent(0.0), 1)
    np.testing.assert_array_equal(frame, before)
    resampling.resample(frame, bent(), 1)
    assert frame.shape == before.shape and (frame != before).any()


def test_what_a_bent_frame_covers():
    alignment = bent()
    assert covered(alignment, 1, Box(0, HEIGHT, 10, WIDTH - 10)) is None
    mask = covered(alignment, 1, Box(0, HEIGHT, 0, WIDTH))
    assert not mask[:, :2].any() and not mask[:, -2:].any() and mask[:, 4:-4].all()
    area = common_area(alignment)
    assert area[:2] == (0, HEIGHT)
    assert 3 <= area.left <= 6 and WIDTH - 6 <= area.right <= WIDTH - 3
    assert covered(alignment, 1, area) is None


def test_fields_are_read_as_they_were_written(alignment, tmp_path):
    names = [f"{k}.png" for k in range(5)]
    save_alignment(tmp_path / "a.json", alignment, names)
    loaded = load_alignment(tmp_path / "a.json", names[::-1], alignment.size, 3)
    assert sorted(loaded.fields) == [0, 1, 3, 4] and loaded.spacing == alignment.spacing
    for k, field in loaded.fields.items():
        np.testing.assert_array_equal(field, alignment.fields[4 - k])
        assert field.dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(spacing=6),
        lambda record: record.pop("spacing"),
        lambda record: record.update(spacing="8"),
        lambda record: record["frames"]["1.png"]["field"].pop("y"),
        lambda record: record["frames"]["1.png"]["field"]["x"].pop(),
        lambda record: record["frames"]["1.png"].update(field={"x": ["1 2"], "y": ["1"]}),
        lambda record: record["frames"]["1.png"].update(field={"x": ["a"], "y": ["1"]}),
        lambda record: record["frames"]["1.png"].update(field={"x": [], "y": []}),
        lambda record: record["frames"]["1.png"].update(field={"x": ["999999"], "y": ["0"]}),
    ],
)
def test_fields_that_are_none_are_refused(tmp_path, change):
    path = tmp_path / "a.json"
    save_alignment(path, bent(), ["0.png", "1.png"])
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(StackError, match="is not an alignment"):
        load_alignment(path, ["0.png", "1.png"], (HEIGHT, WIDTH), 3)


def test_the_option(frames):
    words = ["--stack_path", "a", "--output_dir", "b"]
    names = [f"{k}.png" for k in range(5)]
    for more, count in (([], 4), (["--parallax", "off"], 0)):
        (command,) = parse(get_parser(), [*words, *more], AlignCommand)
        assert len(align_by_options(command.alignment, frames, names).fields) == count
