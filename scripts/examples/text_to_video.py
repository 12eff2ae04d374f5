"""A sentence becomes a clip, by the library: `python scripts/examples/text_to_video.py "a red mug" mug.mp4`.

The command `genvideo text-to-video` does the same and more: see its --help.
"""

import sys
from pathlib import Path

from core2d.app.program import main_guard
from core2d.media.pictures import image_grid, save_image, to_uint8
from core2d.media.videos import write_video
from genvideo.animatediff.pipeline import AnimateDiff


def main(prompt: str = "a red mug spinning clockwise", output: str = "mug.mp4") -> None:
    pipeline = AnimateDiff.from_pretrained("toybox-sd", "toybox-motion", device="auto")  # or published ones: SD 1.x
    clip = to_uint8(pipeline(prompt, num_frames=16, num_inference_steps=25, seed=0).frames[0])  # (16, 64, 64, 3)
    write_video(output, clip, fps=8, text={"prompt": prompt, "seed": 0})  # .mp4, .webm, .gif, .apng, or a folder
    save_image(Path(output).with_suffix(".strip.png"), image_grid(clip, columns=16))


if __name__ == "__main__":
    with main_guard():
        main(*sys.argv[1:])
