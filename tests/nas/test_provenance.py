import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from nas import provenance
from nas.provenance import commit, file_sha256


def git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the two packages' place, the module in it, and nothing under version control yet."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "checkout" / "nas"
    folder.mkdir(parents=True)
    (folder.parent / "latencykit").mkdir()
    (folder.parent / "latencykit" / "core.py").write_text("A = 1\n")
    (folder.parent / "notes.txt").write_text("notes\n")
    shutil.copy(provenance.__file__, folder / "provenance.py")
    monkeypatch.setattr(provenance, "__file__", str(folder / "provenance.py"))
    return folder


@pytest.fixture
def checkout(package):
    """The same, committed."""
    git(package.parent, "init", "--quiet")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "--quiet", "--message", "first")
    return package.parent


def test_a_files_hash_is_sha256_of_its_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"\0\r\n")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"\0\r\n").hexdigest()


def test_there_is_no_commit_outside_a_checkout(package):
    assert commit() == ""


def test_there_is_no_commit_in_a_checkout_without_one(package):
    git(package.parent, "init", "--quiet")
    git(package.parent, "add", ".")
    assert commit() == ""


def test_there_is_no_commit_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit() == ""


def test_the_checkout_of_another_project_around_an_installed_package_is_not_ours(package):
    around = package.parent
    git(around, "init", "--quiet")
    (around / "theirs.py").write_text("")
    git(around, "add", "theirs.py")
    git(around, "commit", "--quiet", "--message", "theirs")
    assert commit() == ""


def test_a_checkout_gives_its_commit(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert len(commit()) >= 12
    assert head.startswith(commit())


@pytest.mark.parametrize("changed", ["nas/provenance.py", "latencykit/core.py"])
def test_a_changed_source_puts_a_plus_behind_the_commit(checkout, changed):
    clean = commit()
    path = checkout / changed
    path.write_text(path.read_text() + "# changed\n")
    assert commit() == f"{clean}+"
    git(checkout, "add", ".")
    assert commit() == f"{clean}+"  # staged is not committed
    git(checkout, "commit", "--quiet", "--message", "second")
    assert commit() not in ("", clean, f"{clean}+")
    assert not commit().endswith("+")


def test_files_beside_the_packages_do_not_count_as_a_change(checkout):
    clean = commit()
    (checkout / "notes.txt").write_text("more\n")
    (checkout / "nas" / "untracked.txt").write_text("")
    assert commit() == clean


def test_this_checkouts_commit_is_what_git_says():
    root = Path(provenance.__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    assert git(root, "rev-parse", "HEAD").startswith(commit().removesuffix("+") or "no commit")
