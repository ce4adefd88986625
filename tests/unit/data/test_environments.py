"""Zips of environments: what is kept, and the tricks that a hostile one may try."""

from __future__ import annotations

import os
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from futurebroker.data import environments
from futurebroker.data.environments import check_environment, pack_environment, sign, unpack_environment
from futurebroker.exceptions import EnvironmentRefusedError

LIBRARY = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def make_folder(folder: Path) -> Path:
    """Something like an environment."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python3").write_text("#!/bin/sh\n")
    (folder / "bin/python3").chmod(0o755)
    (folder / "bin/python").symlink_to("python3")
    (folder / LIBRARY / "futurebroker/__pycache__").mkdir(parents=True)
    (folder / LIBRARY / "futurebroker/__init__.py").write_text("")
    (folder / LIBRARY / "futurebroker/__pycache__/x.pyc").write_bytes(b"x")
    (folder / "lib64").symlink_to("lib")
    (folder / LIBRARY / "data").write_text("data")
    (folder / LIBRARY / "data").chmod(0o640)
    return folder


def make_zip(path: Path, extra: Callable[[zipfile.ZipFile], object] = lambda archive: None, prefix: str = "") -> Path:
    """The least that is an environment, and something else."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{prefix}bin/python3", "#!/bin/sh\n")
        archive.writestr(f"{prefix}{LIBRARY}/futurebroker/__init__.py", "")
        extra(archive)
    return path


def link(name: str, target: str) -> Callable[[zipfile.ZipFile], object]:
    """Adds a symbolic link."""

    def add(archive: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, target)

    return add


def test_modes_and_inner_links_are_kept(tmp_path: Path) -> None:
    """An interpreter must stay executable, and links links; bytecode is left out."""
    folder = make_folder(tmp_path / "env")
    zipped = pack_environment(folder, tmp_path / "env.zip")
    python = unpack_environment(zipped, tmp_path / "out", "e")
    assert python == tmp_path / "out/bin/python3"
    assert os.access(python, os.X_OK)
    assert os.readlink(tmp_path / "out/bin/python") == "python3"
    assert os.readlink(tmp_path / "out/lib64") == "lib"
    assert stat.S_IMODE((tmp_path / "out" / LIBRARY / "data").stat().st_mode) == 0o640
    assert not list((tmp_path / "out").rglob("*.pyc"))


def test_links_that_lead_out_are_packed_as_files(tmp_path: Path) -> None:
    """As a venv's interpreter is; a link to a folder outside can't be kept, and is named."""
    (tmp_path / "real-python").write_text("the interpreter")
    (tmp_path / "elsewhere").mkdir()
    folder = make_folder(tmp_path / "env")
    (folder / "bin/python3").unlink()
    (folder / "bin/python3").symlink_to(tmp_path / "real-python")
    (folder / "bin/inner").symlink_to(folder / "bin/python")  # absolute, but inside
    (folder / "bin/nowhere").symlink_to("/no/such/file")
    zipped = pack_environment(folder, tmp_path / "env.zip")
    unpack_environment(zipped, tmp_path / "out", "e")
    assert (tmp_path / "out/bin/python3").read_text() == "the interpreter"
    assert not (tmp_path / "out/bin/python3").is_symlink()
    assert not os.path.lexists(tmp_path / "out/bin/nowhere")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentRefusedError, match="more is a link to a folder outside"):
        pack_environment(folder, tmp_path / "env2.zip")
    assert sorted(path.name for path in tmp_path.glob("*.zip*")) == ["env.zip"]


def test_a_folder_around_everything_is_left_out(tmp_path: Path) -> None:
    """As ``zip -r env.zip env`` makes it."""
    zipped = make_zip(tmp_path / "e.zip", prefix="myenv/")
    assert check_environment(zipped, "e").prefix == "myenv/"
    assert unpack_environment(zipped, tmp_path / "out", "e") == tmp_path / "out/bin/python3"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (lambda a: a.writestr("../evil", "x"), "leads out of the folder"),
        (lambda a: a.writestr("lib/../../evil", "x"), "leads out of the folder"),
        (lambda a: a.writestr("/etc/evil", "x"), "leads out of the folder"),
        (lambda a: a.writestr("C:evil", "x"), "leads out of the folder"),
        (link("bin/evil", "/etc/passwd"), "the link 'bin/evil' leads out"),
        (link("bin/evil", "../../evil"), "the link 'bin/evil' leads out"),
        (lambda a: (link("way", "lib")(a), a.writestr("way/evil", "x")), "lies behind a link"),
        (lambda a: (a.writestr("twice", "1"), link("twice", "lib")(a)), "comes twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_tricks_with_paths_are_refused(tmp_path: Path, extra: Callable[[zipfile.ZipFile], object], reason: str) -> None:
    """Before a byte is written, and nothing is left."""
    zipped = make_zip(tmp_path / "e.zip", extra)
    with pytest.raises(EnvironmentRefusedError, match=reason):
        check_environment(zipped, "e")
    with pytest.raises(EnvironmentRefusedError, match=reason):
        unpack_environment(zipped, tmp_path / "out", "e")
    assert os.listdir(tmp_path) == ["e.zip"]


def test_devices_are_refused(tmp_path: Path) -> None:
    """Neither file, folder nor link."""

    def add(archive: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo("fifo")
        entry.external_attr = (stat.S_IFIFO | 0o644) << 16
        archive.writestr(entry, "")

    with pytest.raises(EnvironmentRefusedError, match="neither file, folder nor link"):
        check_environment(make_zip(tmp_path / "e.zip", add), "e")


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the zip says of itself."""

    def bomb(archive: zipfile.ZipFile) -> None:
        archive.writestr("zeros", bytes(2_000_000), compress_type=zipfile.ZIP_DEFLATED)

    zipped = make_zip(tmp_path / "e.zip", bomb)
    assert check_environment(zipped, "e").nbytes > 2_000_000
    monkeypatch.setattr(environments, "RATIO_FROM", 1_000_000)
    with pytest.raises(EnvironmentRefusedError, match="which no software does"):
        check_environment(zipped, "e")
    monkeypatch.setattr(environments, "BYTES_MAX", 1_000_000)
    with pytest.raises(EnvironmentRefusedError, match="more than the 1,000,000 it may"):
        check_environment(zipped, "e")
    monkeypatch.setattr(environments, "ENTRIES_MAX", 2)
    with pytest.raises(EnvironmentRefusedError, match="3 entries"):
        check_environment(zipped, "e")


def test_a_file_that_is_longer_than_it_says_ends_there(tmp_path: Path) -> None:
    """The sizes that were checked are in the index; the data may disagree."""
    zipped = make_zip(tmp_path / "e.zip", lambda a: a.writestr("liar", b"x" * 1000))
    data = bytearray(zipped.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the entry of the last file in the index
    data[at + 20 : at + 28] = (10).to_bytes(4, "little") * 2
    zipped.write_bytes(data)
    with pytest.raises(EnvironmentRefusedError, match="damaged"):
        unpack_environment(zipped, tmp_path / "out", "e")
    assert os.listdir(tmp_path) == ["e.zip"]


def test_it_must_hold_a_python_of_ours(tmp_path: Path) -> None:
    """Of the same minor version, with our package."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(EnvironmentRefusedError, match="holds no Python"):
        check_environment(tmp_path / "a.zip", "e")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("bin/python3", "")
        archive.writestr("lib/python3.99/site-packages/futurebroker/__init__.py", "")
    with pytest.raises(EnvironmentRefusedError, match=r"of Python 3\.99, and the workers run 3\.\d+; make it with"):
        check_environment(tmp_path / "b.zip", "e")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("bin/python3", "")
        archive.writestr(f"{LIBRARY}/__editable__.futurebroker.pth", "/somewhere")
    with pytest.raises(EnvironmentRefusedError, match="isn't installed in it"):
        check_environment(tmp_path / "c.zip", "e")
    with pytest.raises(EnvironmentRefusedError, match="no such folder"):
        pack_environment(tmp_path / "nothing")


def test_a_signature_covers_name_hash_and_size() -> None:
    """One for another environment, or by another secret, is another."""
    ours = sign(b"secret", "e", "00", 5)
    others = [sign(b"x", "e", "00", 5), sign(b"secret", "f", "00", 5), sign(b"secret", "e", "01", 5)]
    assert ours == sign(b"secret", "e", "00", 5)
    assert ours not in [*others, sign(b"secret", "e", "00", 6)]
