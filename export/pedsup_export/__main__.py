"""`python -m pedsup_export`."""

from pedsup_export.cli import main

if __name__ == "__main__":
    main()
