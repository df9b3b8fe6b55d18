"""`resume-engine audit keygen|seal|verify`: the chain of the audit and its seals."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from resume_engine import audit_verifier
from resume_engine.cli.database import database_option, opened, refuse_missing_file
from resume_engine.cli.printing import moment, next_step, one_line
from resume_engine.cli.question import Question
from resume_engine.core.chain_report import ChainReport, Verdict
from resume_engine.core.checkpoint import Checkpoint
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema_version import found_schema, raise_unless_head
from resume_engine.storage.sealing import latest
from resume_engine.storage.sealing import seal as seal_now
from resume_engine.storage.signing import (
    ED25519,
    KEY_FILE_VARIABLE,
    UNSIGNED,
    Signer,
    make_key,
    read_key,
    signer_from_environment,
)
from resume_engine.storage.sql_store import SqlCheckpointStore

_ENTRIES_PER_LINE = 50_000
_STRENGTH = {
    ED25519: "signed with the Ed25519 key",
    UNSIGNED: f"NOT signed: set {KEY_FILE_VARIABLE}, or keep the checkpoints elsewhere with --out. Key",
}


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def keygen(path: Path) -> None:
    """Make a key pair that signs checkpoints: PATH for the server alone, PATH.pub for auditors."""
    key = make_key(path)
    click.echo(
        f"Wrote the private key to {one_line(str(path))} and the public one to {one_line(str(path))}.pub."
    )
    click.echo(f"Its id is {key.key_id}.")
    next_step(f"set {KEY_FILE_VARIABLE} to the private key, and give the public one to whoever verifies.")


@click.command()
@database_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append the checkpoint to this file too: keep it where the database cannot be changed from.",
)
def seal(database: str, out: Path | None) -> None:
    """Write a signed checkpoint of everything that was recorded since the one before."""
    signer = signer_from_environment()
    with opened(database) as store:
        made = seal_now(store, signer)
    if made is None:
        click.echo("Nothing was recorded since the last checkpoint.")
        return
    if out is not None:
        _append(out, made)
    strength = _STRENGTH.get(
        made.algorithm,
        "signed with a secret of the server: it detects accidents and "
        "attackers who have the database alone. Key",
    )
    click.echo(
        f"Checkpoint {made.number} of {moment(made.created_at)} seals {made.streams} streams; "
        f"{strength} {made.key_id or '-'}."
    )


def _append(out: Path, made: Checkpoint) -> None:
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(made.to_dict()) + "\n")
        file.flush()
        os.fsync(file.fileno())


@click.command()
def verifier() -> None:
    """Print a Python file that verifies a compliance export without anything of this package.

    For example: resume-engine audit verifier > verify.py; python verify.py run.json --key audit.pem.pub
    """
    click.echo(Path(audit_verifier.__file__).read_text(encoding="utf-8"), nl=False)


@click.command(cls=Question, unanswered=int(Verdict.UNREADABLE))
@database_option
@click.option("--run", "run_id", metavar="RUN_ID", help="Only this run.")
@click.option("--all", "everything", is_flag=True, help="Every run and the control stream [default].")
@click.option("--since", type=click.IntRange(1), metavar="CHECKPOINT", help="Only what moved since then.")
@click.option(
    "--key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"The public key, in PEM [default: {KEY_FILE_VARIABLE} or SECRET_KEY].",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Checkpoints that were kept outside, as `audit seal --out` writes them.",
)
@click.pass_context
def verify(
    ctx: click.Context,
    database: str,
    run_id: str | None,
    everything: bool,
    since: int | None,
    key: Path | None,
    against: Path | None,
) -> None:
    """Prove that nobody rewrote the audit, without changing anything.

    Exit code 0: intact. 1: tampered with; the first bad place of each stream is named. 2: it cannot be told,
    for want of a key or because the newest entries are not sealed yet. 3: it cannot be read (no such
    database, run, key or option), which says nothing about it.
    """
    if run_id is not None and (everything or since is not None):
        raise click.UsageError("--run verifies one run; leave out --all and --since.")
    signer: Signer = read_key(key, "--key") if key is not None else signer_from_environment()
    anchors = _anchors(against) if against is not None else []
    with _looked_into(database) as store:
        verifier = ChainVerifier(store, key=signer, anchors=anchors, since=since or 0, progress=_progress())
        report = verifier.verify_run(run_id) if run_id is not None else verifier.verify_all()
        if since is not None and report.checkpoint is None and report.verdict is not Verdict.TAMPERED:
            raise _not_sealed_yet(store, since)
    _print(report)
    ctx.exit(int(report.verdict))


def _not_sealed_yet(store: SqlCheckpointStore, since: int) -> click.ClickException:
    with store.asking() as conn:
        newest = latest(conn)
    if newest is None:
        return click.ClickException("There is no checkpoint yet: run `resume-engine audit seal`.")
    return click.ClickException(
        f"There is no checkpoint {since}: the newest is {newest.number} of {moment(newest.created_at)}."
    )


@contextmanager
def _looked_into(database: str) -> Iterator[SqlCheckpointStore]:
    """Open a database that holds an audit; nothing is created, not even in an empty one."""
    refuse_missing_file(database)
    with open_store(database, check_schema=False) as store:
        with store.reading() as conn:
            raise_unless_head(found_schema(conn))
        yield store


def _anchors(path: Path) -> list[Checkpoint]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [Checkpoint.from_dict(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as problem:
        raise _no_checkpoints(path, problem) from problem
    if not found:
        raise _no_checkpoints(path, "it is empty")
    return found


def _no_checkpoints(path: Path, reason: object) -> click.ClickException:
    return click.ClickException(
        f"--against: {one_line(str(path))} holds no checkpoints as `audit seal --out` writes them "
        f"({one_line(str(reason), 100)})."
    )


def _progress() -> Callable[[int], None]:
    reported = 0

    def report(entries: int) -> None:
        nonlocal reported
        if entries - reported >= _ENTRIES_PER_LINE:
            reported = entries
            click.echo(f"... {entries:,} entries", err=True)

    return report


def _print(report: ChainReport) -> None:
    looked_at = f"{report.entries:,} entries in {report.streams:,} streams"
    if report.verdict is Verdict.TAMPERED:
        click.echo(f"TAMPERED WITH: {looked_at} were looked at.")
        for finding in report.findings:
            click.echo(f"- {one_line(str(finding), 400)}")
        if report.more_findings:
            click.echo(f"- and {report.more_findings} more")
        return
    if report.verdict is Verdict.CANNOT_TELL:
        click.echo(f"CANNOT TELL: {looked_at} fit together, but:")
        for sentence in report.sentences():
            click.echo(f"- {one_line(sentence, 400)}.")
        return
    click.echo(f"INTACT: {looked_at}, sealed up to checkpoint {report.checkpoint}.")
