"""How omote runs outside Kubernetes, and what it runs."""
