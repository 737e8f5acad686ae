"""The demo cohort: made-up heads for trying out the project."""
