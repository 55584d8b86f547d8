"""Event files against TensorBoard's own bytes and the CRC of its standard."""

from __future__ import annotations

import math

from edgecc.training import events
from edgecc.training.log import EventLog

#: What RecordWriter and event_pb2 of tensorboard 2.21.0 write for the two events below.
TENSORBOARD = bytes.fromhex(
    "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c300000000000000095f5d05f09000000000000f8"
    "3f10ac022a220a100a09737465702f6c6f7373150000803e0a0e0a07737465702f6c72150000003fb165a1ad"
)


def test_the_crc_is_that_of_the_standard():
    assert events.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4
    assert events.crc32c(bytes(range(32))) == 0x46DD794E


def test_events_are_the_bytes_that_tensorboard_writes():
    both = events.version(1.5), events.scalars(1.5, 300, {"step/loss": 0.25, "step/lr": 0.5})
    assert b"".join(map(events.record, both)) == TENSORBOARD


def test_each_run_writes_a_file_of_its_own(tmp_path):
    for _ in range(2):
        log = EventLog(tmp_path / "log")
        log.add(1, {"loss": 0.5, "evaluation": None})
    files = sorted((tmp_path / "log").iterdir())
    assert [f.name for f in files] == ["events.out.tfevents.0000000001.edgecc", "events.out.tfevents.0000000002.edgecc"]
    assert b"loss" in files[0].read_bytes() and b"evaluation" not in files[0].read_bytes()


def test_no_folder_means_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    EventLog(None).add(1, {"loss": math.pi})
    assert not list(tmp_path.iterdir())
