"""Real servers on this machine, for tests, laptops and demos; each is ended by whoever started it."""
