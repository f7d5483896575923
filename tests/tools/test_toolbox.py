"""tools/toolbox.py: one stack by any method, its file, and what makes no sense."""

import numpy as np
import pytest
import tifffile
from drawn import write_set

from stackmff.evaluation.metrics import psnr
from stackmff.fusion.methods import METHODS
from stackmff.images.folders import list_frames
from stackmff.images.formats import read_picture
from tools import toolbox


def test_the_command(tmp_path, capsys, monkeypatch):
    write_set(tmp_path, [3])
    out = tmp_path / "out.png"
    folder = str(tmp_path / "dof_stack" / "scene0")
    toolbox.main(["--method", "GFF", "--stack_path", folder, "--output", str(out)])
    assert "3 frames by GFF" in capsys.readouterr().out
    answer = read_picture(tmp_path / "AiF" / "scene0.png")
    assert psnr(read_picture(out), answer, 255) > 30
    for words, sentence in (
        (["--method", "SIFT"], "'SIFT' is not a method"),
        (["--output", "out.xyz"], "out.xyz needs a suffix"),
        (["--output", f"{folder}/out.png"], "would be a frame next time"),
    ):
        with pytest.raises(SystemExit, match="2"):
            toolbox.main(["--stack_path", folder, *words])
        assert sentence in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    toolbox.main(["--method", "LP", "--stack_path", folder, "--iterative"])
    assert (tmp_path / "results" / "scene0_LP-iterative.png").is_file()
    pages = np.stack([read_picture(path) for path in list_frames(folder)])
    tifffile.imwrite("own.tif", pages, photometric="rgb")
    toolbox.main(["--method", "LP", "--stack_path", "own.tif"])
    assert (tmp_path / "results" / "own_LP.png").is_file()
    with pytest.raises(SystemExit, match="2"):
        toolbox.main(["--method", "LP", "--stack_path", "own.tif", "--output", "own.tif"])
    assert "own.tif is the stack itself" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        toolbox.main(["--help"])
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in METHODS)
