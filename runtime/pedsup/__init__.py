"""pedsup: run one verified GGUF of a pediatric research model offline, on a phone or a desktop."""

__version__ = "0.1.0"
