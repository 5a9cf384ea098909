"""Registers the environments; one of the two places that know the sibling packages."""


def register_environments() -> None:
    """Registers every environment with Gymnasium."""
