"""utils.py: the free memory that limits are compared with."""

import utils


def write_group(folder, limit, used, freed):
    """A control group of version 2 in `folder`."""
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {freed}\n")


def test_free_memory_is_the_least_that_any_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "CONTROL_GROUPS", tmp_path)
    machine = utils.free_memory()
    assert machine > 2**20
    write_group(tmp_path, 1000, 700, 50)
    assert utils.free_memory() == 350
    write_group(tmp_path, 1000, 1100, 50)
    assert utils.free_memory() == 0
    write_group(tmp_path, "max", 700, 50)
    assert utils.free_memory() > 2**20
