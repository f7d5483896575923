"""The wheel: built, installed outside the checkout into an environment without torch, it fuses."""

import os
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from drawn import draw_stack, texture

from stackmff.images.formats import read_picture, write_picture

ROOT = Path(__file__).parents[1]
SNIPPET = """
import sys
import numpy as np
import stackmff

result = stackmff.fuse(sys.argv[1])
result.save("fused.tif")
assert result.picture.dtype == np.uint8 and result.focus_map.shape == result.picture.shape[:2]
assert stackmff.frame_weights(sys.argv[1]).shape == (3, 64, 96)
assert len(stackmff.align(sys.argv[1]).frames) == 3
assert not {name.partition(".")[0] for name in sys.modules} & {"torch", "skimage", "network"}
assert "site-packages" in stackmff.__file__
try:
    stackmff.fuse(sys.argv[1], engine="torch", device="cpu")
except stackmff.StackError as error:
    assert "stackmff[torch]" in str(error), error
else:
    raise AssertionError("there is no torch here")
"""


def distribution_name(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0]


def needed(requirements):
    """The installed distributions that requirements without extras ask for, all together."""
    found, open_names = {}, [distribution_name(one) for one in requirements]
    while open_names:
        name = re.sub(r"[-_.]+", "-", open_names.pop()).lower()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        further = [one for one in found[name].requires or [] if "extra ==" not in one]
        for one in further:
            try:
                metadata.distribution(distribution_name(one))
            except metadata.PackageNotFoundError:
                continue  # for another system or version of Python
            open_names.append(distribution_name(one))
    return found.values()


def link_distribution(distribution, place):
    """Link the top-level files and folders of an installed distribution into another place."""
    home = Path(distribution.locate_file(""))
    tops = {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "bin")}
    for top in tops - {"__pycache__"}:
        target = place / top
        if not target.exists():
            target.symlink_to(home / top)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The python of an environment that has the wheel and what it requires, nothing else.

    What is required is linked from the environment of the tests, so that no network is needed.
    """
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", place / "env"], check=True)
    scheme = {"base": str(place / "env"), "platbase": str(place / "env")}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    python = place / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", wheel]
    subprocess.run(install, check=True, capture_output=True)
    (own,) = metadata.distributions(name="stackmff", path=[str(site)])
    for distribution in needed(one for one in own.requires if "extra ==" not in one):
        link_distribution(distribution, site)
    return python


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack") / "shots"
    for k, frame in enumerate(draw_stack(texture(64, 96, 3), 3)):
        write_picture(folder / f"{k}.png", frame)
    return folder


def run(*words, cwd):
    """Run a command outside the checkout, without its import path; what it printed."""
    hidden = ("PYTHONPATH", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    words = [str(word) for word in words]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_the_installed_command_fuses_without_torch(bare, shots, tmp_path):
    run(bare.with_name("stackmff"), "fuse", shots, cwd=tmp_path)
    import predict

    predict.main(["--stack_path", str(shots), "--output", str(tmp_path / "here.png")])
    pictures = [
        read_picture(path) for path in (tmp_path / "results/shots.png", tmp_path / "here.png")
    ]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_the_installed_library_fuses_without_torch(bare, shots, tmp_path):
    run(bare, "-c", SNIPPET, shots, cwd=tmp_path)
    assert (tmp_path / "fused.tif").is_file()


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_every_module_of_the_installed_package_is_there(bare, tmp_path):
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "stackmff").rglob("*.py")}
    code = "import stackmff, pathlib; print(pathlib.Path(stackmff.__file__).parents[1])"
    site = Path(run(bare, "-c", code, cwd=tmp_path).strip())
    assert all((site / path).is_file() for path in ours)
    assert (site / "stackmff" / "py.typed").is_file()
    assert (site / "stackmff" / "webapp" / "page" / "index.html").is_file()
