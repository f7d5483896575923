"""cli.py: the commands of an installed package are those of the scripts."""

import numpy as np
import pytest
from drawn import draw_stack, texture

from stackmff import cli
from stackmff.images.formats import read_picture, write_picture


@pytest.fixture
def folder(tmp_path):
    for k, frame in enumerate(draw_stack(texture(64, 96, 3), 3)):
        write_picture(tmp_path / "set" / "shots" / f"{k}.png", frame)
    return tmp_path / "set" / "shots"


def test_one_stack_and_a_folder_of_stacks_give_one_picture(folder, tmp_path):
    assert not cli.main(["fuse", str(folder), "--output", str(tmp_path / "a.png")])
    assert not cli.main(["batch", str(folder.parent), "--output_dir", str(tmp_path / "out")])
    pictures = [read_picture(path) for path in (tmp_path / "a.png", tmp_path / "out" / "shots.png")]
    np.testing.assert_array_equal(*pictures)


def test_aligned_frames_are_written(folder, tmp_path):
    assert not cli.main(["align", str(folder), "--output_dir", str(tmp_path / "aligned")])
    names = sorted(path.name for path in (tmp_path / "aligned").iterdir())
    assert names == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "usage: stackmff"),
        (["--help"], 0, "batch"),
        (["fuze"], 2, "error: fuze is not a command: use fuse, batch, align, app"),
    ],
)
def test_what_there_is_to_call(words, status, said, capsys):
    assert cli.main(words) == status
    out, err = capsys.readouterr()
    assert said in (err if status else out)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_names_the_command(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0 and f"usage: stackmff {name} " in capsys.readouterr().out
