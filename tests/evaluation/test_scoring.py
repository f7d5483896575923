"""evaluation/scoring.py: registration, and scoring in several processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import blobs, texture

from stackmff.errors import StackError
from stackmff.evaluation import matching, scoring
from stackmff.evaluation.metrics import score
from stackmff.evaluation.scoring import Task
from stackmff.images.formats import write_picture
from tests.waiting import LATEST

TESTS = Path(__file__).parents[1]


@pytest.fixture
def folders(tmp_path):
    """Two results and their answers."""
    for i, name in enumerate(("scene2", "scene10")):
        answer = texture(32, 40, i)
        write_picture(tmp_path / "AiF" / f"{name}.png", answer)
        write_picture(tmp_path / "fused" / f"{name}.tif", np.minimum(answer, 250) + np.uint8(i + 1))
    return tmp_path / "fused", tmp_path / "AiF"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_registration_recovers_a_known_map_and_gain(dtype):
    scale = dtype(np.iinfo(dtype).max // 255)
    answer = blobs(192) * scale
    matrix = np.array([[1.01, 0.006, 2.3], [-0.006, 0.99, -1.6]])
    moved = cv2.warpAffine(answer, matrix, (192, 192), flags=cv2.INTER_LANCZOS4, borderMode=1)
    dimmed = np.round(moved * np.array([0.9, 0.8, 0.95])).astype(dtype)
    white = int(np.iinfo(dtype).max)
    assert score(dimmed, answer, white)["PSNR"] < 25
    fused, inside = scoring.register(dimmed, answer)
    assert fused.shape == inside.shape == (144, 144, 3) and fused.dtype == np.float32
    np.testing.assert_array_equal(inside, answer[24:-24, 24:-24])
    assert score(fused, inside, white)["PSNR"] > 45


def test_registration_does_not_resample_what_is_in_place():
    answer = blobs(128)
    fused, inside = scoring.register(answer.copy(), answer)
    np.testing.assert_array_equal(fused, inside)
    dimmed, inside = scoring.register(np.uint8(answer // 2), answer)
    assert np.abs(dimmed - inside).max() <= 2


def test_processes_score_as_one_does(folders, monkeypatch):
    scenes = matching.find_scenes(None, folders[1])
    files = matching.match(folders[0], scenes, folders[1])
    tasks = [Task(m, n, path, scenes[n]) for m in "ba" for n, path in files.items()]
    alone = scoring.score_tasks(tasks, scoring.Scoring())
    assert list(alone) == ["b", "a"] and list(alone["a"]) == ["scene2", "scene10"]
    monkeypatch.setattr(scoring, "POOL_WORTH", 0)
    assert scoring.score_tasks(tasks, scoring.Scoring(), 2) == alone
    (folders[0] / "scene10.tif").write_bytes(b"II*\0 no picture")
    with pytest.raises(StackError, match=r"scene10\.tif"):
        scoring.score_tasks(tasks, scoring.Scoring(), 2)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_scoring_and_leaves_no_process(tmp_path, times):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import fake_toolbox\n"
        "from stackmff.evaluation import scoring\n"
        "from stackmff.processes import run_main\n"
        "scoring.POOL_WORTH = 0\n"
        "work = fake_toolbox.tell_and_wait, ['', *sys.argv[2:]], 2, 'waiting'\n"
        "run_main(lambda: scoring.in_parallel(*work))\n"
    )
    files = [tmp_path / name for name in "ab"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, TESTS, *files],
        cwd=TESTS.parent,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not all(path.exists() and path.read_text() for path in files) and process.poll() is None:
        time.sleep(0.05)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all
        time.sleep(0.02)
    _, error = process.communicate(timeout=LATEST)
    assert error in ("interrupted\n", "" if times > 1 else None)
    assert process.returncode in (130, -signal.SIGINT)
    for path in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
