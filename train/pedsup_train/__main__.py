"""`python -m pedsup_train`, for `accelerate launch -m pedsup_train`."""

from pedsup_train.cli import main

if __name__ == "__main__":
    main()
