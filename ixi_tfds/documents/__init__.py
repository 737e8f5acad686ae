"""JSON files that the project writes and reads: one frozen dataclass each, and one codec."""
