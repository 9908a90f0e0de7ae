"""`python -m peftbench`."""

from peftbench.cli import main

if __name__ == "__main__":
    main()
