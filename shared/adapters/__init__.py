"""One package per backend; each implements the ports of `shared.ports`."""
