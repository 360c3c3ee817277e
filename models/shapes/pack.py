"""Packs a trained pipeline folder as the snapshot that ships with Quickthaw.

The weights are stored in single precision: half the size would cost sixty times the time on CPUs
without half-precision arithmetic, and the model is there to run anywhere.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.pack import pack

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path, help="the folder that train.py wrote")
    parser.add_argument("--output", type=Path, default=HERE / "snapshot", help="a new folder")
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"{options.output} is there already; remove it first")
    trained = json.loads((HERE / "defaults.json").read_text())
    digest = pack(
        options.pipeline,
        SnapshotStore(options.output),
        family="sd",
        title="Coloured shapes from captions: a small model that runs on any machine",
        licence="Apache-2.0",
        dtype="float32",
        defaults={
            "num_inference_steps": trained["steps"],
            "guidance_scale": trained["guidance_scale"],
            "image_size": {"width": trained["width"], "height": trained["height"]},
        },
    )
    print(digest)


if __name__ == "__main__":
    main()
