"""The audit log: what is edited, taken out, moved or cut off is found and named; many may append at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from bot_world import ROOT
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bot import audit, chain
from bot.audit_log import AuditLog, export, exported
from bot.chain import EMPTY, Checkpoint, Problem, Record, seal, verify
from bot.store import Store
from treewright.cli import app

TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.lists(st.dictionaries(TEXT, JSON, max_size=3), min_size=3, max_size=12)


def chained(fields: list[dict[str, object]]) -> list[Record]:
    records: list[Record] = []
    here = EMPTY
    for row in fields:
        records.append(seal(here, "2026-01-01T00:00:00.000+00:00", "approval", row))
        here = Checkpoint(records[-1].seq, records[-1].digest)
    return records


def found(records: list[Record], against: Checkpoint | None = None) -> list[tuple[int, str]]:
    return [(one.seq, one.kind) for one in verify(records, against)[1]]


@given(FIELDS)
def test_an_untouched_log_is_sound_and_ends_at_its_checkpoint(fields: list[dict[str, object]]) -> None:
    records = chained(fields)
    end = Checkpoint(len(records), records[-1].digest)
    assert verify(records, end) == (end, [])


@given(FIELDS, st.data())
def test_an_edited_record_is_found_whether_or_not_it_was_sealed_again(
    fields: list[dict[str, object]], data: st.DataObject
) -> None:
    records = chained(fields)
    at = data.draw(st.integers(0, len(records) - 2))
    edited = replace(records[at], fields={**records[at].fields, "login": "somebody else"})
    assert found([*records[:at], edited, *records[at + 1 :]]) == [(at + 1, "edited")]
    again = seal(Checkpoint(at, edited.previous), edited.at, edited.what, edited.fields)
    assert found([*records[:at], again, *records[at + 1 :]]) == [(at + 1, "edited")]


@given(FIELDS, st.data())
def test_a_removed_record_is_found_and_named(fields: list[dict[str, object]], data: st.DataObject) -> None:
    records = chained(fields)
    at = data.draw(st.integers(0, len(records) - 2))
    assert found([*records[:at], *records[at + 1 :]]) == [(at + 1, "removed")]


@given(FIELDS, st.data())
def test_a_moved_record_is_found_and_named(fields: list[dict[str, object]], data: st.DataObject) -> None:
    records = chained(fields)
    at = data.draw(st.integers(0, len(records) - 2))
    to = data.draw(st.integers(at + 1, len(records) - 1))
    moved = [*records[:at], *records[at + 1 : to + 1], records[at], *records[to + 1 :]]
    assert (at + 1, "moved") in found(moved)
    assert all(kind == "moved" for _, kind in found(moved))


@given(FIELDS, st.data())
def test_a_cut_end_and_a_log_written_anew_are_found_by_a_checkpoint(
    fields: list[dict[str, object]], data: st.DataObject
) -> None:
    records = chained(fields)
    end = Checkpoint(len(records), records[-1].digest)
    keep = data.draw(st.integers(0, len(records) - 1))
    assert found(records[:keep]) == [], "the chain alone cannot show it"
    assert found(records[:keep], end) == [(len(records), "cut off")]
    anew = chained([{**row, "granted": True, "granted by": "me"} for row in fields])
    assert found(anew) == []
    assert found(anew, end) == [(len(records), "replaced")]


@given(st.lists(JSON, max_size=6))
def test_rows_of_any_shape_are_reported_and_never_break_the_walk(rows: list[object]) -> None:
    read = [chain.read(row, number) for number, row in enumerate(rows, 1)]
    assert all(isinstance(one, Problem) for one in read)
    assert len(verify(read)[1]) == len(rows)


@pytest.mark.parametrize("text", ["", "5", "x:sha256:" + "0" * 64, "1:sha256:ABC", "-1:sha256:" + "0" * 64])
def test_a_checkpoint_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no checkpoint"):
        Checkpoint.parse(text)


def opened(folder: Path) -> tuple[Store, AuditLog]:
    store = Store(f"sqlite:///{folder / 'bot.sqlite'}")
    return store, AuditLog(store.engine)


ODD = {"text": "é \u0000 \ud800 \u202e", "number": 10**30, "nested": {"a": [None, 1.5]}, "path": Path("x")}


def test_what_goes_in_comes_out_as_it_was_sealed(tmp_path: Path) -> None:
    store, log = opened(tmp_path)
    for _ in range(3):
        log.append("write", ODD)
    end, problems = verify(log.records())
    assert problems == []
    assert end == log.checkpoint()
    file = tmp_path / "audit.jsonl"
    file.write_text("".join(f"{line}\n" for line in export(log.records())), encoding="utf-8")
    assert verify(exported(file), end) == (end, [])
    store.close()


def test_many_threads_and_two_logs_append_one_chain(tmp_path: Path) -> None:
    store, log = opened(tmp_path)
    other_store, other = opened(tmp_path)  # as another process would

    def work(mine: AuditLog) -> None:
        for number in range(10):
            mine.append("write", {"number": number})

    threads = [threading.Thread(target=work, args=(one,)) for one in (log, other) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end, problems = verify(log.records())
    assert (end.count, problems) == (60, [])
    store.close()
    other_store.close()


def test_a_killed_process_leaves_a_sound_log_that_goes_on(tmp_path: Path) -> None:
    """Killed in the middle of appending, as often as it was asked to: what it said was kept, is."""
    program = (
        "import sys; from bot.store import Store; from bot.audit_log import AuditLog\n"
        "log = AuditLog(Store(sys.argv[1]).engine)\n"
        "while True: print(log.append('write', {}).seq, flush=True)"
    )
    url = f"sqlite:///{tmp_path / 'bot.sqlite'}"
    said = 0
    for wanted in (7, 20):
        process = subprocess.Popen(
            [sys.executable, "-c", program, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        while said < wanted:
            said = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        said = max([said, *(int(line) for line in process.stdout if line.strip().isdigit())])
        process.wait()
    store, log = opened(tmp_path)
    end, problems = verify(log.records())
    assert problems == []
    assert end.count >= said
    assert log.append("write", {}).seq == end.count + 1
    store.close()


def _edit(connection: sa.Connection) -> None:
    statement = sa.text("UPDATE audit_log SET fields = :fields WHERE seq = 2")
    connection.execute(statement, {"fields": '{"granted":true,"number":1}'})


def _remove(connection: sa.Connection) -> None:
    connection.execute(sa.text("DELETE FROM audit_log WHERE seq = 2"))


def _swap(connection: sa.Connection) -> None:
    for old, new in ((2, 99), (3, 2), (99, 3)):
        connection.execute(sa.text("UPDATE audit_log SET seq = :n WHERE seq = :o"), {"n": new, "o": old})


def _break(connection: sa.Connection) -> None:
    connection.execute(sa.text("UPDATE audit_log SET fields = '{' WHERE seq = 2"))


def _cut(connection: sa.Connection) -> None:
    connection.execute(sa.text("DELETE FROM audit_log WHERE seq > 3"))


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (_edit, "record 2: edited"),
        (_remove, "record 2: removed"),
        (_swap, "record 3: edited"),
        (_break, "record 2: unreadable"),
        (_cut, "record 5: cut off"),
    ],
)
def test_the_command_names_what_was_done_to_the_database(
    tmp_path: Path, tamper: Callable[[sa.Connection], None], said: str
) -> None:
    store, log = opened(tmp_path)
    for number in range(5):
        log.append("approval", {"number": number, "granted": False})
    end = str(log.checkpoint())
    runner = CliRunner()
    place = ["--database", f"sqlite:///{tmp_path / 'bot.sqlite'}", "--checkpoint", end]
    good = runner.invoke(app, ["audit", "verify", *place])
    assert good.exit_code == 0, good.output
    assert f"checkpoint {end}" in good.output
    with store.engine.begin() as connection:
        tamper(connection)
    bad = runner.invoke(app, ["audit", "verify", *place])
    assert bad.exit_code == 1
    assert said in bad.output
    store.close()


def test_an_export_is_verified_by_the_command_too(tmp_path: Path) -> None:
    store, log = opened(tmp_path)
    for number in range(4):
        log.append("approval", {"number": number})
    runner = CliRunner()
    file = tmp_path / "audit.jsonl"
    database = ["--database", f"sqlite:///{tmp_path / 'bot.sqlite'}"]
    assert runner.invoke(app, ["audit", "export", "--out", str(file), *database]).exit_code == 0
    assert [json.loads(line)["seq"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]
    assert runner.invoke(app, ["audit", "verify", "--from", str(file)]).exit_code == 0
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], lines[2], lines[1], lines[3]]))
    moved = runner.invoke(app, ["audit", "verify", "--from", str(file)])
    assert (moved.exit_code, "record 2: moved" in moved.output) == (1, True)
    store.close()


def test_no_log_is_an_error_and_no_empty_file_is_made(tmp_path: Path) -> None:
    place = tmp_path / "typo.sqlite"
    done = CliRunner().invoke(app, ["audit", "verify", "--database", f"sqlite:///{place}"])
    assert done.exit_code == 2
    assert "no such file" in done.output
    assert not place.exists()


@pytest.mark.parametrize("address", ["nonsense", "no+driver://host/name"])
def test_a_database_that_is_none_is_said_to_be_none(address: str) -> None:
    done = CliRunner().invoke(app, ["audit", "verify", "--database", address])
    assert (done.exit_code, "Name the database with --database" in done.output) == (2, True)


def test_secrets_do_not_enter_the_log_and_whose_wish_it_was_does(tmp_path: Path) -> None:
    store, log = opened(tmp_path)
    audit.keep_in(log)
    try:
        with audit.acting(actor="mara", actor_id=7, job="d-1"), audit.acting(step="merge"):
            audit.decided("approval", granted=True, note="ghs_0123456789abcdef")
        audit.decided("healed", number=3)
    finally:
        audit.keep_no_more(log)
    first, second = (record for record in log.records() if isinstance(record, Record))
    assert first.fields == {
        "actor": "mara",
        "actor_id": 7,
        "job": "d-1",
        "step": "merge",
        "granted": True,
        "note": "[redacted]",
    }
    assert second.fields == {"number": 3}
    store.close()
