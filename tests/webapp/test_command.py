"""What the command of the page's server makes of its options."""

from pathlib import Path

from stackmff.options import parse
from stackmff.webapp.command import AppOptions, get_parser, make_sessions


def test_own_network_reaches_every_run(tmp_path: Path) -> None:
    """A class of the user's own was loaded by nothing: its checkpoint could not be read."""
    words = ["--temp_dir", str(tmp_path), "--network", "my_net.py:MyNet"]
    (options,) = parse(get_parser(), words, AppOptions)
    values = make_sessions(options).shared.fuse_values
    assert values["network"] == "my_net.py:MyNet"
    assert Path(values["model_path"]).is_absolute()
