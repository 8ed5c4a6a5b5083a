"""`python -m pedsup_bench` is `pedsup-bench`."""

from pedsup_bench.cli import main

main()
