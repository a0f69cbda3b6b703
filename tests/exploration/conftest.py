import sys
from pathlib import Path

# Batches made by hand live beside the tests of the algorithms.
sys.path.insert(0, str(Path(__file__).parents[1] / "algorithms"))
