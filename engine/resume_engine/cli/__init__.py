"""The command line: one file per group of commands, each a thin wrapper of library calls."""

from __future__ import annotations

import click

from resume_engine import __version__
from resume_engine.cli.audit import audit
from resume_engine.cli.audit_chain import keygen, seal, verifier, verify
from resume_engine.cli.command_group import CommandLine
from resume_engine.cli.db import db
from resume_engine.cli.gates import gates
from resume_engine.cli.gc import gc
from resume_engine.cli.policy import policy
from resume_engine.cli.replay import replay
from resume_engine.cli.runs import runs
from resume_engine.cli.smoke_test import smoke_test


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="resume-engine")
def main() -> None:
    """Durable workflows: look at runs, decide gates, read the audit trail.

    Commands that read a database take --database, or DATABASE_URL from the environment.
    """


for _command in (audit, db, gates, gc, policy, replay, runs, smoke_test):
    main.add_command(_command)
for _command in (keygen, seal, verifier, verify):
    audit.add_command(_command)
