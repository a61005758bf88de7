"""log.txt never ends the run that writes it."""

import logging
import os
from pathlib import Path

from vitaos.outputs.log_file import LogFile


def test_lines_are_appended_at_once(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("before\n")
    log = LogFile(tmp_path / "log.txt")
    print("now", file=log)
    assert (tmp_path / "log.txt").read_text() == "before\nnow\n"
    handler = logging.StreamHandler(log)
    handler.emit(logging.makeLogRecord({"msg": "a warning"}))
    log.close()
    log.close()
    assert (tmp_path / "log.txt").read_text() == "before\nnow\na warning\n"


def test_names_that_are_not_utf_8_are_written_with_their_bytes_named(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.txt")
    print(os.fsdecode(b"caf\xe9/1.jpg"), file=log)
    log.close()
    assert (tmp_path / "log.txt").read_text() == "caf\\udce9/1.jpg\n"


def test_a_full_disk_is_told_afterwards(tmp_path: Path) -> None:
    log = LogFile("/dev/full")
    print("one", file=log)
    print("two", file=log)
    assert log.lost_lines == 2
    room = os.open(tmp_path / "log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(room, log._descriptor)
    os.close(room)
    print("three", file=log)
    log.close()
    assert (tmp_path / "log.txt").read_text() == "(2 lines lost: the disk took none)\nthree\n"
