"""`python -m compressed_lm VERB` is `compressed-lm VERB`."""

from compressed_lm.cli import program

if __name__ == "__main__":  # not in the processes that a command starts
    program()
