"""A cohort of made-up heads, for trying things out."""
