"""What is written to files as JSON and read again: a frozen dataclass each, with one codec."""
