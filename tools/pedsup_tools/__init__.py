"""Tools of the project itself, not part of the wheel: audit, SBOM, distribution."""
