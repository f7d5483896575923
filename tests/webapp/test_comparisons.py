"""webapp/comparisons.py, other_pictures.py: methods to compare with, pictures to paint with."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from stackmff.errors import StackError
from stackmff.fusion.methods import build_method
from stackmff.fusion.retouch import apply_strokes, load_strokes, pictures_of
from stackmff.images.formats import decode
from stackmff.webapp.jobs import MethodSpec
from stackmff.webapp.worker import fuse_by_method
from tests.shelves import exported, finish, result_in, run_of, until

SHAPE = (2, 40, 60, 3)
STROKE = {"picture": "version-1", "radius": 4, "softness": 0, "points": [[20, 20]]}


def version_of(stack, value):
    """A version whose picture is of one value, with a slab."""
    run_of(stack)
    folder = stack.folder / f"run-{stack.runs}" / "full"
    np.save(folder / "fused.npy", np.full(SHAPE[1:], value, np.uint16))
    (folder / "slabs").mkdir()
    np.save(folder / "slabs" / "slab_1-2.npy", np.full(SHAPE[1:], value + 5, np.uint16))
    finish(stack)


def test_a_method_fuses_the_frames_that_were_kept(tmp_path):
    result_in(tmp_path / "full", ("0.png", "1.png", "2.png"), (3, *SHAPE[1:]))
    frames = np.random.default_rng(0).integers(0, 256, (3, *SHAPE[1:]), np.uint8)
    frames.tofile(tmp_path / "full" / "frames.raw")
    spec = MethodSpec(str(tmp_path / "full"), str(tmp_path / "full" / "frames.raw"), "LP")
    fuse_by_method(spec, None)  # the record keeps the first two
    made = np.load(tmp_path / "full" / "methods" / "LP.npy")
    assert np.array_equal(made, build_method("LP")(frames[:2]))
    assert [path.name for path in (tmp_path / "full" / "methods").iterdir()] == ["LP.npy"]


def test_a_version_is_compared_with_a_method(stack):
    version_of(stack, 1)
    with pytest.raises(StackError, match="no method 'best'"):
        stack.fuse_by_method(1, "best")
    with pytest.raises(LookupError):
        stack.shown(1).plane("method-LP")
    stack.fuse_by_method(1, "LP")
    stack.fuse_by_method(1, "LP")  # it goes on already
    assert [one["method"] for one in stack.state()["comparing"]] == ["LP"]
    until(lambda: not stack.state()["comparing"])
    assert stack.state()["results"][0]["methods"] == ["LP"], stack.refused
    assert stack.shown(1).tile("method-LP", 0, 0, 0)
    stack.fuse_by_method(1, "LP")
    assert not stack.method_jobs  # it was done
    stack.fuse_by_method(1, "DCT")
    stack.delete_version(1)
    assert not stack.method_jobs and not stack.state()["comparing"]


@pytest.mark.slow
def test_a_scale_bar_and_films_are_exported(sessions, stack):
    version_of(stack, 2000)
    session = next(iter(sessions.by_token.values()))
    plain = decode(exported(session, stack, 1)).picture
    barred = decode(exported(session, stack, 1, pixel_size=1.5, label="{stack}")).picture
    assert (plain != barred).any()
    with pytest.raises(StackError, match="not a number of micrometres"):
        exported(session, stack, 1, pixel_size="1")
    gif = exported(session, stack, 1, what="rocking-gif")
    assert gif.name.endswith("_rocking.gif")
    with Image.open(gif) as film:
        assert film.n_frames > 9 and film.info["loop"] == 0


def test_a_stroke_of_another_version_outlives_it(sessions, stack, tmp_path):
    version_of(stack, 1000)
    version_of(stack, 2000)
    with pytest.raises(StackError, match="no Version 7: choose"):
        stack.paint(2, STROKE | {"picture": "version-7"})
    stack.paint(2, STROKE)
    slab = STROKE | {"picture": "version-2-slab_1-2", "points": [[40, 20]]}
    stack.paint(2, slab)
    stack.delete_version(1)
    result = stack.shown(2)
    assert [result.picture[20, x, 0] for x in (20, 40, 5)] == [1000, 2005, 2000]
    assert result.pixel(20, 20)["stroke"]["frame"] == "Version 1"
    stack.undo(2, 1)
    stack.redo(2)
    version_of(stack, 3000)  # takes the strokes over, with what they show
    stack.delete_version(2)
    stack.open_results.clear()  # as after a restart
    assert [stack.shown(3).picture[20, x, 0] for x in (20, 40, 5)] == [1000, 2005, 3000]
    session = next(iter(sessions.by_token.values()))
    strokes_file = exported(session, stack, 3, what="strokes")
    with zipfile.ZipFile(strokes_file) as archive:
        archive.extractall(tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*.json")
    assert len(json.loads(path.read_text())["strokes"]) == 2
    names, fused = result.names, np.array(stack.shown(3).fused)
    strokes = load_strokes(path, names, fused.shape[:2])
    apply_strokes(fused, result.frames, strokes, pictures=pictures_of(path, strokes, fused.shape))
    assert np.array_equal(fused, stack.shown(3).picture)
    stack.undo(3, 2)
    uploaded = session.room_for_strokes(stack, f"C:\\{strokes_file.name}", 1)
    shutil.copyfile(strokes_file, uploaded)
    assert len(stack.replay_archive(3, uploaded)) == 2
    assert np.array_equal(fused, stack.shown(3).picture)
    assert stack.shown(3).pixel(20, 20)["stroke"]["frame"] == "Loaded picture"
    assert not list(stack.arriving.iterdir())
    uploaded = session.room_for_strokes(stack, "other.zip", 2)
    with pytest.raises(StackError, match=r"other\.zip is being loaded already"):
        session.room_for_strokes(stack, "other.zip", 2)
    uploaded.write_bytes(b"PK")
    with pytest.raises(StackError, match="is not an archive of brush strokes"):
        stack.replay_archive(3, uploaded)
    assert not list(stack.arriving.iterdir())
    with zipfile.ZipFile(exported(session, stack, 3, what="slabs")) as archive:
        archive.extractall(tmp_path / "slabs")
    assert (decode(tmp_path / "slabs" / "slab_1-2.tif").picture == 3005).all()
