"""Shared by every command: flags, command lines, errors, storage and files."""
