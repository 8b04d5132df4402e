"""The gallery over HTTP: CompreFace's interface for the clients that there are, and one of our own for the rest."""
