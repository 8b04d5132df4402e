"""The ``omote`` command, one file a verb."""
