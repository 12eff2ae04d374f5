"""Train the bundled models: all stages in order, or those that are named.

    python scripts/train_bundled.py --list
    python scripts/train_bundled.py vae clip judge prior motion-judge vae-128 prior-128
    python scripts/train_bundled.py zero123 matting frame-judge video-vae motion
    python scripts/train_bundled.py prior --minutes 60 --resume
    accelerate launch scripts/train_bundled.py prior

A stage starts from the weights in assets/ and writes them back if they got better. It runs on whatever device there is.
"""

import argparse
import json
from pathlib import Path

from core2d.app.devices import pick_device
from core2d.app.program import main_guard
from core2d.app.registry import assets_folder
from core2d.bundled import nested, stages
from core2d.bundled.control import CONTROL_DEPTH, CONTROL_POSE
from core2d.bundled.inpaint import INPAINT
from core2d.bundled.ip_adapter import IP_ADAPTER
from core2d.bundled.training import TrainingSetup, state_of
from gen3d.toybox.bundled import MATTING, ZERO123
from genvideo.toybox.bundled import FRAME_JUDGE, MOTION
from genvideo.toybox.video_vae import VIDEO_VAE

LATER = (
    nested.VAE, nested.PRIOR, ZERO123, MATTING, FRAME_JUDGE, VIDEO_VAE, MOTION, CONTROL_DEPTH, CONTROL_POSE, INPAINT,
    IP_ADAPTER,
)  # fmt: skip
STAGES = {**stages.STAGES, **{stage.name: stage for stage in LATER}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", choices=[[], *STAGES], default=[], metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--list", action="store_true", help="show each stage's state and scores, and stop")
    parser.add_argument("--assets", type=Path, default=assets_folder(), help="folder of the models")
    parser.add_argument("--runs", type=Path, default=Path("runs/bundled"), help="folder of data, checkpoints and logs")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--pictures", type=int, default=48_000, help="pictures that the generators learn from")
    parser.add_argument("--minutes", type=float, default=90, help="longest that a stage trains in this call")
    parser.add_argument("--steps", type=int, help="steps of the stage's schedule, instead of the recipe's")
    parser.add_argument("--batch-size", type=int, help="rows of a step, instead of the recipe's")
    parser.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    parser.add_argument("--fresh", action="store_true", help="start from new weights, not from those in assets")
    parser.add_argument("--resume", action="store_true", help="go on from the run folder's newest checkpoint")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    given = parser.parse_args()
    changes = {name: getattr(given, name) for name in ("minutes", "steps", "batch_size", "learning_rate")}
    setup = TrainingSetup(
        given.assets, given.runs, given.size, given.pictures, given.fresh, given.resume,
        tuple((name, value) for name, value in changes.items() if value is not None),
        None if given.device == "auto" else pick_device(given.device),
    )  # fmt: skip
    if given.list:
        for stage in STAGES.values():
            print(json.dumps(state_of(setup, stage)))
        return
    for name in given.stages or STAGES:
        print(json.dumps({"stage": name, **STAGES[name].run(setup)}), flush=True)


if __name__ == "__main__":
    with main_guard():
        main()
