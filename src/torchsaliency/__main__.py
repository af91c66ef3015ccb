"""`python -m torchsaliency` is the command line."""

from torchsaliency.apps.cli import main

if __name__ == "__main__":
    main()
