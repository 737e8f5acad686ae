"""What every command needs: flags and commands, errors, storage, files."""
