"""The export of a run, and the one file that verifies it: whatever is done to it is found."""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
import tokenize
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, update

from resume_engine import audit_verifier
from resume_engine.audit_verifier import Tampered, is_signed
from resume_engine.core.clock import utc_now
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.idempotency import hash_input
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import finished
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.compliance_export import compliance_export
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import decisions, runs
from resume_engine.storage.sealing import seal
from resume_engine.storage.signing import Ed25519Key, SecretKey, make_key
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.guards import unguarded
from tests.stores.changes import change, completed, event, new_run, summary

_PRIVATE = Ed25519PrivateKey.generate()
KEY = Ed25519Key(_PRIVATE.public_key(), _PRIVATE)
PUBLIC = bytes.fromhex(KEY.public_key() or "")
TORTURE = bool(os.environ.get("TORTURE"))


def exported(store: SqlCheckpointStore, run_id: str, *, reveal: bool = False) -> bytes:
    return "".join(compliance_export(store, run_id, signer=KEY, reveal=reveal)).encode()


class Export:
    """An export in a file that can be changed and verified again."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def verdict(self, content: bytes | None = None, key: bytes | None = PUBLIC) -> tuple[int, str]:
        """Return the exit code that the verifier would end with, and its words."""
        self.path.write_bytes(self.content if content is None else content)
        try:
            _, doubts = audit_verifier.verify(str(self.path), key, {})
        except Tampered as problem:
            return 1, str(problem)
        return (2, "; ".join(doubts)) if doubts else (0, "")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A sealed run with steps, a decision, events between them and a secret."""
    folder = tmp_path_factory.mktemp("export")
    with open_store(f"sqlite:///{folder / 'runs.db'}") as store:
        factory = RunFactory(store)
        factory.every_state()
        run_id = factory.cleared().run_id
        run = summary(store, run_id)
        told = event(run_id=run_id, payload={"password": "hunter2-hunter2", "n": 1})
        store.commit(RunChange(before=run, after=run, events=(told,)))
        store.append_event(event(run_id=run_id, note="refused"))
        assert seal(store, KEY) is not None
        return Export(folder / "export.json", exported(store, run_id))


def test_an_export_is_one_json_file_with_everything(export: Export) -> None:
    found = json.loads(export.content)
    assert list(found) == [
        "format", "exported_at", "run", "gates", "decisions", "steps", "audit_events", "control_events",
        "integrity", "content",
    ]  # fmt: skip
    assert [e["header"]["event_type"] for e in found["audit_events"]] == [
        "run.started",
        "gate.approved",
        "run.updated",
    ]
    assert [s["header"]["status"] for s in found["steps"]] == ["completed", "failed"]
    assert found["gates"]["human_approval"]["granted"] is True
    assert [e["body"]["note"] for e in found["control_events"]] == ["refused"]
    assert b"hunter2" not in export.content
    assert found["audit_events"][2]["masked"] == ["payload"]


def test_what_was_not_touched_is_intact(export: Export) -> None:
    assert export.verdict() == (0, "")
    assert export.verdict(key=None)[0] == 2
    assert export.verdict(key=bytes(32))[0] == 1


def test_every_flipped_byte_is_found(export: Export) -> None:
    """All of them with TORTURE; else every seventh."""
    missed = []
    for at in range(0, len(export.content), 1 if TORTURE else 7):
        flipped = bytearray(export.content)
        flipped[at] ^= 1 << (at % 8)
        if export.verdict(bytes(flipped))[0] != 1:
            missed.append(at)
    assert missed == []


def _lines(change: Callable[[list[bytes]], object]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        change(lines)
        return b"".join(lines)

    return changed


def _first(lines: list[bytes], section: bytes) -> int:
    return lines.index(b'"' + section + b'":[\n') + 1


def _swap_bodies(lines: list[bytes]) -> None:
    at = _first(lines, b"steps")
    lines[at], lines[at + 1] = lines[at + 1].rstrip(b"\n") + b",\n", lines[at].rstrip(b",\n") + b"\n"


def _double(lines: list[bytes]) -> None:
    at = _first(lines, b"audit_events")
    lines.insert(at, lines[at])


def _decision(name: str, value: object) -> Callable[[bytes], bytes]:
    def changed(lines: list[bytes]) -> None:
        at = _first(lines, b"decisions")
        lines[at] = json.dumps(json.loads(lines[at]) | {name: value}).encode() + b"\n"

    return _lines(changed)


def _run_says(name: str, value: object) -> Callable[[bytes], bytes]:
    def changed(lines: list[bytes]) -> None:
        at = next(n for n, line in enumerate(lines) if line.startswith(b'"run":'))
        run = json.loads(lines[at][len('"run":') : -2]) | {name: value}
        lines[at] = b'"run":' + json.dumps(run).encode() + b",\n"

    return _lines(changed)


FORGERIES = {
    "a deleted event": (_lines(lambda lines: lines.pop(_first(lines, b"audit_events") + 1)), "#4"),
    "a deleted step": (_lines(lambda lines: lines.pop(_first(lines, b"steps"))), "#2"),
    "two swapped steps": (_lines(_swap_bodies), "#2"),
    "an inserted event": (_lines(_double), "#2"),
    "another actor": (lambda content: content.replace(b'"actor": "olga', b'"actor": "bob'), "#4"),
    "another output": (lambda content: content.replace(b'{\\"out_0\\": 0}', b'{\\"out_0\\": 7}'), "#2"),
    "another masked value": (lambda content: content.replace(b"\\u2022", b"x", 1), "beside the entries"),
    "another state": (
        lambda content: content.replace(b'"status": "paused"', b'"status": "failed"'),
        "beside",
    ),
    "another note of a decision": (_decision("note", "did not look"), "no event tells"),
    "another role of a decision": (_decision("role", "admin"), "no event tells"),
    "another name of a decision": (_decision("display_name", "bob"), "no event tells"),
    "another kind of a decision": (_decision("kind", "reject"), "no event tells"),
    "another end of a decision": (_decision("expires_at", "2099-01-01T00:00:00+00:00"), "no event tells"),
    "a decision that opened nothing": (_decision("opened", False), "no event tells"),
    "another environment": (_run_says("environment", "staging"), "its entries tell that environment was dev"),
    "another start": (_run_says("created_at", "2026-01-01T00:00:00.000000+00:00"), "its entries tell"),
    "somebody else's run": (_run_says("started_by", "mallory"), "its entries tell that started_by was"),
    "another workflow": (_run_says("workflow_name", "other"), "its entries tell that workflow_name was"),
    "a removed decision": (_lines(lambda lines: lines.pop(_first(lines, b"decisions"))), "not among"),
    "cut off": (lambda content: content[: len(content) // 2], "last line"),
    "cut off at a line": (_lines(lambda lines: lines.pop()), "last line"),
    "continued": (lambda content: content + b" ", "last line"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_forgeries_are_found_and_the_first_bad_place_is_named(export: Export, what: str) -> None:
    forge, place = FORGERIES[what]
    forged = forge(export.content)
    assert forged != export.content
    code, words = export.verdict(forged)
    assert code == 1 and place in words, words


def test_a_forgery_whose_hashes_were_made_anew_breaks_the_signature(export: Export) -> None:
    """Somebody who computes every hash again has no key: the seal tells."""
    found = json.loads(export.content)
    lines = export.content.splitlines(keepends=True)[:-1]
    body = b"".join(lines).replace(b'"status": "paused"', b'"status": "failed"')
    content = {"hash": audit_verifier.sha(body), "signature": found["content"]["signature"]}
    forged = body + b'"content":' + audit_verifier.canonical(content) + b"}\n"
    assert export.verdict(forged) == (1, "the export does not carry the signature of the key")


def test_what_is_not_signed_as_a_whole_is_not_proven(export: Export) -> None:
    """Somebody who takes the signature off gains nothing: only the entries are sealed then."""
    lines = export.content.splitlines(keepends=True)[:-1]
    body = b"".join(lines).replace(b'"status": "paused"', b'"status": "completed"')
    content = {"hash": audit_verifier.sha(body), "signature": ""}
    forged = body + b'"content":' + audit_verifier.canonical(content) + b"}\n"
    code, words = export.verdict(forged)
    assert code == 2 and "the export is not signed" in words


def test_a_checkpoint_without_a_signature_seals_nothing(export: Export) -> None:
    """Somebody who writes everything anew, hashes and checkpoint, has no signature to put there."""
    found = json.loads(export.content)
    signature = found["integrity"]["checkpoint"]["signature"].encode()
    lines = export.content.replace(signature, b"").splitlines(keepends=True)[:-1]
    content = {"hash": audit_verifier.sha(b"".join(lines)), "signature": ""}
    forged = b"".join(lines) + b'"content":' + audit_verifier.canonical(content) + b"}\n"
    assert export.verdict(forged) == (1, "the checkpoint does not carry the signature of the key")


def test_an_export_of_changed_decisions_tells(tmp_path: Path) -> None:
    """Decisions that were changed in the database do not become true by being exported."""
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        run_id = RunFactory(store).cleared().run_id
        assert seal(store, KEY) is not None
        made = Export(tmp_path / "export.json", exported(store, run_id))
        assert made.verdict() == (0, "")
        with unguarded(store) as conn:
            conn.execute(update(decisions).values(note="did not look"))
        made.content = exported(store, run_id)
        assert made.verdict()[0] == 1
        with unguarded(store) as conn:
            conn.execute(delete(decisions))
        made.content = exported(store, run_id)
        assert made.verdict()[0] == 1


@pytest.mark.parametrize("make", [RunFactory.cancelled, RunFactory.completed])
def test_an_export_of_a_run_that_was_woken_tells(tmp_path: Path, make: Callable[[RunFactory], Run]) -> None:
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        run_id = make(RunFactory(store)).run_id
        assert seal(store, KEY) is not None
        made = Export(tmp_path / "export.json", exported(store, run_id))
        assert made.verdict() == (0, "")
        with store.writing() as conn:
            woken = {"status": "paused", "finished_at": None, "version": runs.c.version + 1}
            conn.execute(update(runs).values(woken))
        made.content = exported(store, run_id)
        code, words = made.verdict()
        assert code == 1 and "its entries tell that status was" in words


@pytest.mark.parametrize("make", [RunFactory.cancelled, RunFactory.completed])
def test_metadata_of_a_finished_run_may_change(tmp_path: Path, make: Callable[[RunFactory], Run]) -> None:
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        run = make(RunFactory(store))
        run.metadata = {"ticket": 7}
        store.update_run(run)
        seal(store, KEY)
        assert Export(tmp_path / "export.json", exported(store, run.run_id)).verdict() == (0, "")


LIKE_ENVELOPES = {
    "an envelope": {"$codec": 1, "value": {"x": 1}},
    "an empty envelope": {"$codec": 1, "value": {}},
    "an envelope of another release": {"$codec": 5, "value": 3},
    "a value of JSON that looks like another": {"$type": "datetime", "value": "x"},
    "both": {"$codec": 1, "value": {"$type": "dict"}},
}


@pytest.mark.parametrize("what", LIKE_ENVELOPES)
def test_an_input_that_looks_like_an_envelope_is_what_was_recorded(tmp_path: Path, what: str) -> None:
    given = LIKE_ENVELOPES[what]
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        run = RunFactory(store).completed(initial_input=given)
        RunFactory(store).engine.start_run("by_hand", run_id="by-hand")
        RunFactory(store).engine.execute_step("by-hand", "step", 0, given, lambda _, __: {})
        seal(store, KEY)
        for run_id in (run.run_id, "by-hand"):
            made = Export(tmp_path / "export.json", exported(store, run_id))
            assert made.verdict() == (0, "")
        assert ChainVerifier(store, key=KEY).verify_all().findings == []
        code, words = made.verdict(made.content.replace(b'"input": "{', b'"input": "{\\"more\\": 1, '))
        assert code == 1 and ("its input" in words or "cannot be read" in words)


def test_the_verifier_reads_an_export_that_holds_the_envelope_of_an_input(export: Export) -> None:
    """Exports of older servers hold inputs as they are stored."""
    given = {"$codec": 1, "value": {"$codec": 1, "value": {}}}
    header = {"input": None, "input_hash": hash_input(given["value"])}
    made = audit_verifier.sha(audit_verifier.ENTRY + audit_verifier.canonical(header))
    entry = {"header": header, "hash": made, "masked": [], "body": {"input": json.dumps(given)}}
    audit_verifier.check_entry(entry, "here")
    with pytest.raises(Tampered):
        audit_verifier.check_entry(entry | {"body": {"input": json.dumps(given | {"more": 1})}}, "here")


@pytest.mark.parametrize("value", [datetime(2026, 5, 4, tzinfo=UTC), Decimal("1.10"), b"bytes"])
def test_results_of_compensations_that_json_lacks_are_shown_once(tmp_path: Path, value: object) -> None:
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        factory = RunFactory(store)
        run_id = factory.blocked("partial").run_id
        factory.engine.execute_compensation(run_id, lambda _, __: {"undone": value})
        seal(store, KEY)
        for reveal in (False, True):
            made = Export(tmp_path / "export.json", exported(store, run_id, reveal=reveal))
            assert made.verdict() == (0, "")


@pytest.mark.parametrize("status", ["completed", "cancelled"])
def test_an_export_of_a_run_that_was_ended_by_hand_tells(tmp_path: Path, status: str) -> None:
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        run_id = RunFactory(store).blocked().run_id
        seal(store, KEY)
        ended = {"status": status, "finished_at": utc_now(), "blocked_by": None}
        with store.writing() as conn:
            conn.execute(update(runs).values({**ended, "version": runs.c.version + 1}))
        code, words = Export(tmp_path / "export.json", exported(store, run_id)).verdict()
        assert code == 1 and f"it is {status}, and no entry tells that it ended" in words


def test_an_export_of_a_run_whose_end_is_masked_is_no_forgery(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        run_id = RunFactory(store).pending().run_id
        before = summary(store, run_id)
        told = event(run_id=run_id, payload={"password": "hunter2-hunter2", "status": "completed"})
        after = finished(before, RunStatus.COMPLETED, told.created_at)
        store.commit(RunChange(before=before, after=after, events=(told,)))
        seal(store, KEY)
        for reveal in (False, True):
            made = Export(tmp_path / "export.json", exported(store, run_id, reveal=reveal))
            assert made.verdict() == (0, "")


def test_runs_that_were_ended_when_they_were_written_down_are_no_forgeries(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        run_id = RunFactory(store).pending(status=RunStatus.COMPLETED).run_id
        seal(store, KEY)
        assert Export(tmp_path / "export.json", exported(store, run_id)).verdict() == (0, "")


def test_without_comparing_hashes_the_place_of_a_forgery_is_missed(
    export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protection taken out: only the hash of the whole file is left."""
    forge, _ = FORGERIES["another output"]
    monkeypatch.setattr(audit_verifier, "check_entry", lambda *_: None)
    code, words = export.verdict(forge(export.content))
    assert code == 1 and words.startswith("beside the entries")


@pytest.mark.parametrize("kind", ["sqlite_file", "postgres"])
def test_a_long_run_of_500_entries_is_verified_line_by_line(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store: SqlCheckpointStore = request.getfixturevalue(f"{kind}_store")
    run_id = f"long-{kind}"
    new_run(store, run_id)
    for sequence in range(170):
        run = store.commit(change(summary(store, run_id), completed(sequence, run_id=run_id)))
        events = tuple(event(run_id=run_id, note=f"{sequence}/{n}") for n in range(2))
        store.commit(RunChange(before=run, after=run, events=events))
    seal(store, KEY)
    made = Export(tmp_path / "export.json", exported(store, run_id, reveal=True))
    assert json.loads(made.content)["integrity"]["seq"] == 511
    assert made.verdict() == (0, "")
    chosen = random.Random(7)
    for at in (chosen.randrange(len(made.content)) for _ in range(2_000 if TORTURE else 60)):
        flipped = bytearray(made.content)
        flipped[at] ^= 1 << chosen.randrange(8)
        assert made.verdict(bytes(flipped))[0] == 1, at


def test_entries_after_the_seal_cannot_be_told(export: Export, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        run = new_run(store)
        unsealed = Export(tmp_path / "export.json", exported(store, "run-1"))
        assert unsealed.verdict() == (2, "no checkpoint seals this run")
        seal(store, KEY)
        store.commit(change(run, completed(0)))
        tail = Export(tmp_path / "export.json", exported(store, "run-1"))
        assert tail.verdict() == (2, "1 entries were written after checkpoint 1")
        other = SecretKey("a secret of the tests, long enough")
        seal(store, other)
        secret = Export(tmp_path / "export.json", exported(store, "run-1"))
        assert secret.verdict()[0] == 2
        with pytest.raises(RunNotFoundError):
            compliance_export(store, "nobody")


def _lines_of_code(source: str) -> set[int]:
    """Return the lines that hold code: neither blank nor comment nor docstring."""
    no_code = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    tokens = [t for t in tokenize.generate_tokens(StringIO(source).readline) if t.type not in no_code]
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node)
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    return {line for t in tokens if t.string for line in range(t.start[0], t.end[0] + 1)} - docstrings


def test_the_verifier_is_one_small_file_of_the_standard_library(export: Export, tmp_path: Path) -> None:
    source = Path(audit_verifier.__file__).read_text(encoding="utf-8")
    assert len(_lines_of_code(source)) < 235
    alone = tmp_path / "verify.py"
    alone.write_text(source, encoding="utf-8")
    export.path.write_bytes(export.content)

    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-I", "-S", str(alone), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout

    assert run(str(export.path), "--key", PUBLIC.hex()) == (0, "INTACT: 5 entries fit together\n")
    assert run(str(export.path))[0] == 2
    anchor = tmp_path / "anchor.jsonl"
    checkpoint = json.loads(export.content)["integrity"]["checkpoint"]
    anchor.write_text(json.dumps(checkpoint | {"hash": "0" * 64}))
    code_found, words = run(str(export.path), "--key", PUBLIC.hex(), "--against", str(anchor))
    assert code_found == 1 and "not the one kept outside" in words
    anchor.write_text(json.dumps(checkpoint | {"number": 77}))
    code_found, words = run(str(export.path), "--key", PUBLIC.hex(), "--against", str(anchor))
    assert code_found == 2 and "checkpoint 1 is not among those kept outside" in words
    for words_of_the_call in (["--key", "nonsense"], ["--against", "nowhere"], ["--unknown"], []):
        assert run(*[str(export.path)] * bool(words_of_the_call), *words_of_the_call)[0] == 3


NO_EXPORT = {
    "nothing": b"",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(2_000),
    "text": b"nonsense",
    "other JSON": b'{"format": "something else"}',
    "a line that looks like one of ours": b'"run":nothing,\n',
}


def _ended(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["verify.py", *words])
        return audit_verifier.main(), capsys.readouterr().out


@pytest.mark.parametrize("what", NO_EXPORT)
def test_a_file_that_is_no_export_is_not_called_tampered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    path = tmp_path / "export.json"
    path.write_bytes(NO_EXPORT[what])
    assert _ended([str(path)], capsys) == (3, f"UNREADABLE: {path}: it is no compliance export\n")
    assert _ended([str(tmp_path)], capsys)[0] == 3


def test_what_is_no_key_and_no_checkpoint_is_said(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = tmp_path / "audit.pem"
    make_key(private)
    export.path.write_bytes(export.content)
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("[]")
    for wrong in (str(private), str(nonsense), "abcd", str(tmp_path), ""):
        code, words = _ended([str(export.path), "--key", wrong], capsys)
        assert code == 3 and wrong in words
    for no_checkpoints in ("[]", "", "\n \n", "[" * 100_000):
        nonsense.write_text(no_checkpoints)
        code, words = _ended([str(export.path), "--against", str(nonsense)], capsys)
        assert code == 3 and "holds no checkpoints" in words
    assert _ended([str(export.path), "--key", f"{private}.pub"], capsys)[0] == 1  # another key


def test_signatures_are_checked_as_the_library_checks_them() -> None:
    for number in range(8):
        private = Ed25519PrivateKey.generate()
        public, message = private.public_key().public_bytes_raw(), os.urandom(number * 9)
        signature = private.sign(message).hex()
        assert is_signed(public, message, signature)
        assert not is_signed(public, message + b"x", signature)
        assert not is_signed(bytes(32), message, signature)
        broken = bytearray(bytes.fromhex(signature))
        broken[number * 8] ^= 1
        assert not is_signed(public, message, bytes(broken).hex())
    assert not is_signed(PUBLIC, b"", "") and not is_signed(PUBLIC, b"", "zz")
