"""records.py: what a run notes of itself."""

import os
import subprocess

from stackmff.records import commit_of, run_record


def git(folder, *words):
    who = {
        f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-C", folder, *words], env=os.environ | who, check=True, capture_output=True
    )
    return done.stdout.decode().strip()


def test_the_commit_and_whether_the_tree_was_changed(tmp_path):
    clone, inside = tmp_path / "clone", tmp_path / "clone" / "environment"
    inside.mkdir(parents=True)
    assert commit_of(clone) is None
    git(clone, "init", "-q")
    assert commit_of(clone) is None  # nothing is checked out
    (clone / "a.py").write_text("1")
    git(clone, "add", "a.py")
    git(clone, "commit", "-q", "-m", "a")
    commit = git(clone, "rev-parse", "HEAD")
    assert commit_of(clone) == commit and len(commit) == 40
    (clone / "results.txt").write_text("of a run")
    assert commit_of(clone) == commit
    (clone / "a.py").write_text("2")
    assert commit_of(clone) == f"{commit} with changes"
    assert commit_of(inside) is None  # an installation inside another's clone


def test_a_record_has_versions_of_its_own(monkeypatch):
    record = run_record()
    assert {"python", "numpy"} <= set(record["versions"])
    record["versions"]["x"] = "1"
    assert "x" not in run_record()["versions"]
