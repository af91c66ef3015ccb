"""Write src/torchsaliency/cli/catalogue.json: `uv run python scripts/catalogue.py`."""

from pathlib import Path

from torchsaliency.cli.catalogue import write_catalogue

FILE = Path(__file__).parents[1] / "src" / "torchsaliency" / "cli" / "catalogue.json"


if __name__ == "__main__":
    FILE.write_text(write_catalogue(), encoding="utf-8")
    print(FILE)
