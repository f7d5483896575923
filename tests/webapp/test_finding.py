"""webapp/finding.py: several stacks at once, below the root and in the folder of a card."""

import cv2
import pytest

from stackmff.errors import StackError
from stackmff.webapp.sessions import Sessions
from stackmff.webapp.uploads import UploadLimits
from tests.drawn import draw_stack, texture
from tests.shelves import bring, finish, run_of, stack_of, until


def scene(seed):
    """A scene with large shapes, so that it is unlike others."""
    return cv2.resize(texture(6, 8, seed), (80, 60), interpolation=cv2.INTER_CUBIC)


def bring_card(stack):
    """Upload two brackets of three frames and a single picture, as a card's folder has them."""
    frames = [*draw_stack(scene(1), 3), *draw_stack(scene(2), 3), scene(5)]
    for k, frame in enumerate(frames):
        bring(stack, f"IMG_{k:02}.png", cv2.imencode(".png", frame)[1].tobytes())


def test_the_folder_of_a_card_is_split(sessions):
    session = sessions.get(sessions.new())
    stack = session.add_stack("100CANON")
    bring_card(stack)
    session.finder.split(stack)  # it waits until the frames are read
    assert session.state()["finding"]
    until(lambda: not session.state()["finding"])
    assert session.state()["told"] == ["Split into 3 stacks by likeness"]
    told = {one["name"]: one["frames"] for one in session.state()["stacks"]}
    assert told == {"IMG_00": 3, "IMG_03": 3, "Single pictures": 1}
    second = session.stack(2)
    names = [frame["name"] for frame in second.state()["list"]]
    assert names == ["IMG_03.png", "IMG_04.png", "IMG_05.png"]
    assert all(path.parent == second.incoming and path.exists() for path in second.uploads)
    assert len(stack.uploads) == 3 and stack.held + second.held < session.held
    for frame in second.frames.values():
        for suffix in (".jpg", ".png"):
            assert (second.thumbs / f"{frame['id']}{suffix}").exists()
    second.fuse({})
    until(lambda: second.fuse_job is None)
    assert second.failure is None and second.versions


@pytest.mark.slow
def test_what_is_one_stack_stays_so(sessions):
    session = sessions.get(sessions.new())
    stack = session.add_stack("flower")
    for k, frame in enumerate(draw_stack(scene(3), 4)):
        bring(stack, f"{k}.png", cv2.imencode(".png", frame)[1].tobytes())
    session.finder.split(stack)
    until(lambda: not session.state()["finding"])
    assert session.state()["told"] == ["flower looks like one stack, and was not split"]
    assert len(session.stacks) == 1 and len(stack.frames) == 4
    run_of(stack, ("0.png", "1.png"))
    with pytest.raises(StackError, match="was fused as one"):
        session.finder.split(stack)
    finish(stack)
    with pytest.raises(StackError, match="was fused as one"):
        session.finder.split(stack)


def test_all_stacks_below_a_folder_of_the_root_are_opened(tmp_path):
    root = tmp_path / "root"
    (root / "shoot").mkdir(parents=True)
    for k, name in enumerate(("ants", "bees")):
        stack_of(root / "shoot" / name, seed=k)
    stack_of(tmp_path / "elsewhere")
    (root / "shoot" / "leak").mkdir()
    for k in range(2):
        (root / "shoot" / "leak" / f"{k}.png").symlink_to(tmp_path / "elsewhere" / f"{k}.png")
    made = Sessions(UploadLimits(10**8, 10**6), root, folder=tmp_path)
    try:
        session = made.get(made.new())
        with pytest.raises(StackError, match="not below the folder"):
            session.finder.find_below("..")
        session.finder.find_below("shoot")
        until(lambda: not session.state()["finding"])
        assert sorted(one["name"] for one in session.state()["stacks"]) == ["ants", "bees"]
        assert session.state()["told"] == [
            "leak has links that lead out of the shared folder, skipped"
        ]
        until(lambda: all(len(stack.frames) == 3 for stack in session.stacks.values()))
    finally:
        made.close()
