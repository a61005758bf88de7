"""Files are written whole or not at all, and are on the disk before they bear their name."""

import errno
import os
import stat
from pathlib import Path

import pytest

from vitaos.files import PARTIAL_SUFFIX, atomic_write, partial_path, replace_file, write_text


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new, half")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b" and half")
    assert path.read_bytes() == b"new, half and half"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "state.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_files_own_name(tmp_path: Path) -> None:
    path = tmp_path / "state.bin"

    def write() -> None:
        with atomic_write(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        write()
    path.mkdir()
    (path / "something").touch()
    with pytest.raises(IsADirectoryError, match=rf"directory: '{path}'"):
        write_text(path, "text")


def test_content_and_folder_are_synced_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content reaches the disk before the rename, the rename before the call returns."""
    path = tmp_path / "state.bin"
    events: list[str] = []
    sync = os.fsync

    def record(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append(f"{'folder' if is_folder else 'file'}, {'named' if path.exists() else 'not yet named'}")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_text(path, "text")
    assert events == ["file, not yet named", "folder, named"]

    path.unlink()
    events.clear()
    partial = tmp_path / f"other{PARTIAL_SUFFIX}"
    partial.write_bytes(b"content")
    replace_file(partial, path)
    assert events == ["file, not yet named", "folder, named"]
    assert not partial.exists()


def test_names_that_are_not_unicode_are_written_as_their_bytes(tmp_path: Path) -> None:
    write_text(tmp_path / "list.txt", os.fsdecode(b"caf\xe9.jpg\n"))
    assert (tmp_path / "list.txt").read_bytes() == b"caf\xe9.jpg\n"


def test_temporary_names_are_hidden_and_in_the_same_folder(tmp_path: Path) -> None:
    partial = partial_path(tmp_path / "last.pt")
    assert partial.parent == tmp_path
    assert partial.name.startswith(".last.pt.")
    assert partial.name.endswith(PARTIAL_SUFFIX)
