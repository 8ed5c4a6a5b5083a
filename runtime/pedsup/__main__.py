"""`python -m pedsup`: the same as `pedsup-run`."""

from pedsup.cli.main import main

if __name__ == "__main__":
    main()
