"""Let `python -m resume_engine.cli` do what `resume-engine` does."""

from resume_engine.cli import main

main(prog_name="resume-engine")
