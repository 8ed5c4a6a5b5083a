"""The settings of `pedsup-run`: defaults, then a TOML file, then the command line."""
