"""`python -m torchsaliency` is the command line."""

from torchsaliency.cli.main import main

if __name__ == "__main__":
    main()
