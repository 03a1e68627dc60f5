"""`python -m cellinfer`: the command line, where the `cellinfer` script is not on the path."""

from cellinfer.cli import main

if __name__ == "__main__":
    main()
