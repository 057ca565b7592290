"""Entry point of `python -m compressed_lm COMMAND`, the same as `compressed-lm COMMAND`."""

from compressed_lm.cli import program

if __name__ == "__main__":  # not in processes that a command spawns
    program()
