"""Trains the nets that omote ships: one module per trained thing, each a command."""
