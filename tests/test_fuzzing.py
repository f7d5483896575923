"""Files that are damaged at random: each is used, or refused in one sentence. See check_fuzz.py."""

import numpy as np
import pytest
from damaging import damaged_bytes, damaged_json
from drawn import texture
from fuzzing import SIZE, kinds_of, pictures, run_one

from stackmff.errors import StackError
from stackmff.images.formats import decode

# Of each kind; decoders of films are in check_fuzz.py alone, in a process of their own.
COUNTS = {"picture": 200, "TIFF directory": 150, "TIFF": 60, "stack": 40}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return kinds_of(tmp_path_factory.mktemp("made"), heavy=False)


NAMES = [*COUNTS, "alignment", "strokes", "record", "card", "log", "dataset", "photographs"]
NAMES += ["depth kind", "depth map", "shard"]


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_end_in_a_result_or_a_sentence(tmp_path, kinds, name):
    place = tmp_path / "records"
    place.mkdir()
    kinds[name].beside(place)
    for number in range(COUNTS.get(name, 50)):
        outcome = run_one(kinds[name], place, (1, number))
        assert outcome in ("same", "other", "named", "refused"), number


def test_all_kinds_are_run(kinds):
    assert set(kinds) == {*NAMES, "film"}


def test_whole_files_are_taken(tmp_path, kinds):
    """Else a refusal of damaged ones would mean nothing."""
    for name, data in pictures(texture(*SIZE, 0)).items():
        (tmp_path / name).write_bytes(data)
        assert decode(tmp_path / name).picture.size
    for name, kind in kinds.items():
        place = tmp_path / name / "records"
        place.mkdir(parents=True)
        kind.beside(place)
        for file, data in kind.files.items():
            (place / file).write_bytes(data)
            if name == "record":  # its results are elsewhere
                with pytest.raises(StackError, match="has the result of"):
                    kind.use(place / file, data)
            else:
                assert kind.use(place / file, data) in ("same", "other")


def test_the_same_seed_damages_in_the_same_way():
    data = bytes(range(256)) * 4
    for damage, whole in ((damaged_bytes, data), (damaged_json, b'{"a": [1, {"b": null}]}')):
        one, other = (
            [damage(whole, np.random.default_rng((0, k))) for k in range(50)] for _ in "12"
        )
        assert one == other and len(set(one)) > 20
