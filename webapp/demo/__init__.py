"""The demo: a throw-away database with a week of runs, and a live runner beside the dashboard."""
