"""Put the result of the last `make demo` into the README: its table, and its picture as docs/demo.jpg."""

import re
from pathlib import Path

from PIL import Image

from medseg.reports.summary import summarise

ROOT = Path(__file__).parents[1]
RUN = ROOT / "build" / "demo" / "run"
WIDTH = 1000


def main() -> None:
    """Update README.md and docs/demo.jpg."""
    text, scores = summarise(RUN)
    table = text.split("\n\n")[0]
    block = f"<!-- demo -->\n```\n{table}\n\nmean IoU {scores['mean_iou']:.3f}\n```\n<!-- /demo -->"
    readme = ROOT / "README.md"
    readme.write_text(re.sub(r"<!-- demo -->.*<!-- /demo -->", lambda _: block, readme.read_text(), flags=re.DOTALL))
    with Image.open(RUN / "test" / "overlays.png") as picture:
        height = round(picture.height * WIDTH / picture.width)
        picture.convert("RGB").resize((WIDTH, height)).save(ROOT / "docs" / "demo.jpg", quality=88)


main()
