"""`python -m nas`, which is also how `torchrun` starts it."""

from nas.cli import main

if __name__ == "__main__":
    main()
