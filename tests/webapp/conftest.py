"""Servers without projects, and with them."""

import pytest

from stackmff.webapp.sessions import Sessions
from stackmff.webapp.uploads import UploadLimits


@pytest.fixture
def sessions(tmp_path):
    (tmp_path / "temporary").mkdir()
    made = Sessions(UploadLimits(10**8, 10**6), keep_seconds=600, folder=tmp_path / "temporary")
    yield made
    made.close()
    assert not list((tmp_path / "temporary").iterdir())


@pytest.fixture
def stack(sessions):
    """The first stack of a new session."""
    return sessions.get(sessions.new()).add_stack()


@pytest.fixture
def projects(tmp_path):
    """Makes the sessions of one server after the other on one folder of projects."""
    made = []

    def start():
        made.append(Sessions(UploadLimits(10**8, 10**6), projects=tmp_path / "projects"))
        return made[-1]

    yield start
    for one in made:
        one.close()
