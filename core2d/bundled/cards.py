"""Model cards: a folder's `README.md`, written from its `training.json`, so that it says what was done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from core2d.app.outputs import atomic_path
from core2d.toybox import world

ABOUT = {
    "toybox-sd": (
        "Text-to-image prior of Toybox, in Stable Diffusion's layout",
        """\
A latent diffusion model that draws Toybox: 24 classes of objects in 10 colours, a jointed doll, grounds, views.
`vae/` is an AutoencoderKL with 8 times smaller latents of 4 channels; `unet/` a UNet2DConditionModel that
cross-attends to the CLIP text tower in `text_encoder/`; it predicts epsilon on the scaled-linear schedule.

`camera_token/` holds a small projector from [sin azimuth, cos azimuth, sin elevation, cos elevation, radius], and the
words of the prompt, to one more context token after the text. It was present in half of training (stills only) and
truly absent in the other half. Captions were dropped in 10 % of rows; the camera was not, so the unconditional branch
of guidance keeps the camera token and guidance sharpens the caption alone. In the first two rows of the prior's
training (see the table) the token knew the view alone, and in the first three the text tower was frozen; now it learns
with the UNet. Stock diffusers ignores the sub-folder and opens the rest:

    StableDiffusionPipeline.from_pretrained("assets/toybox-sd")
""",
    ),
    "toybox-clip": (
        "CLIP of Toybox: text and image towers with their own tokenizer",
        """\
A CLIPModel in transformers' format with a byte-pair tokenizer trained on the caption grammar (32 tokens at most).
toybox-sd carries a copy of the text tower of its own, which was trained on with the prior.
""",
    ),
    "toybox-ip-adapter": (
        "IP-Adapter of Toybox: pictures as prompts for toybox-sd",
        """\
`ip-adapter.safetensors` is an IP-Adapter in the published layout with the linear projection: four tokens of what the
image tower of toybox-clip (named in `liftkit.json`) sees, keys and values for each cross-attention of toybox-sd. It was
trained on pictures that are told by another picture of the same thing, from another side and in another setting, so
that it carries what a thing is and not where it stands. Half of the captions were dropped, since captions of Toybox
tell all that a picture shows. What the tower does not tell, it cannot carry, and of things seen from above or on
textured grounds it tells the class less well than of others.

    core2d text-to-image "" --image-prompt mug.png -o out.png
""",
    ),
    "toybox-judge": (
        "Judges of Toybox: what a picture or a clip shows",
        """\
`picture.safetensors` reads class (or *reject*), colour, view word and azimuth bin of a 64-pixel picture,
`motion.safetensors` the motion of a 16-frame clip. They were trained on their own seeds, on all class-colour pairs
and with rejects (blobs, chimeras, two-coloured and noisy objects), share no architecture with the generators, and
only score: they never train a generator, and none of their verdicts picks a sample, a seed or a checkpoint on the
reported prompts (training keeps the better of two checkpoints by scores on the tuning seeds). The table below counts
the pictures of a generator: the picture judge sees twice as many, and four times as many rejects, of which a third of a
batch is (before its last training a quarter, from as many rejects as pictures or fewer); the motion judge a sixth as
many clips.
""",
    ),
    "toybox-frame-judge": (
        "Judge of Toybox: what a frame of a clip shows",
        """\
`picture.safetensors` is the picture judge of toybox-judge, trained on with frames of clips. In those the bodies are
smaller and anywhere in the picture, and the first judge, which knows stills alone, rejects half of them. Seeds, rejects
and rules are those of toybox-judge; the rejects stand as bodies in clips do. The table below counts the frames.
""",
    ),
    "toybox-video-vae": (
        "Autoencoder of Toybox clips, for the latents of toybox-sd",
        """\
An AutoencoderKL in diffusers' layout whose encoder is that of `toybox-sd/vae`; the decoder learned on from frames of
clips alone, in which bodies are smaller than in stills and anywhere in the picture. The one takes the place of the
other, as sd-vae-ft-mse does for Stable Diffusion 1.x; `toybox-motion` names it in its `liftkit.json`. `read` below is
the share of frames in which the judge of frames, as it was before its last training, reads class and colour rightly.
The decoder learned from latents with noise of a tenth, before scaling, as those of generated clips are a little off;
the same clips flicker 4 % less in it than in that of toybox-sd. A picture counts as one frame.
""",
    ),
    "toybox-zero123": (
        "Zero-1-to-3 of Toybox: one picture's object from other views",
        """\
`unet/` started as that of toybox-sd, with four more input channels for the latent of the picture. `picture_reader/`
stands where published models have `cc_projection`: from the picture's latent and its embedding by toybox-clip it reads
ten words as toybox-sd would be told them, and where the camera stands; that camera, turned by the asked view, becomes
the camera token of toybox-sd. It learned that by itself first (4,000 steps of 256 pictures, against the captions and
cameras of the renders), then with the UNet. The autoencoder of toybox-sd and the image tower of toybox-clip are
borrowed, as `borrowed.json` says.
It learned from objects on white, eight random sides of each; the classes in `gen3d/toybox/views.py` were left out. A
picture counts below as one side of an object.
""",
    ),
    "toybox-sd-128": (
        "Text-to-image prior of Toybox for 128 pixels, in Stable Diffusion's layout",
        """\
The second version of toybox-sd: 128-pixel pictures as 8x8 latents of 16 channels, so that a step of the denoiser costs
what it costs there. The autoencoder (16 times smaller latents) began with the weights of that of toybox-sd where layers
fit. The first four channels of its latents are held to those of toybox-sd (of the picture at 64 pixels), the others
hold what those lose; all have the same spread, and one scaling factor. The UNet began as that of toybox-sd with more
channels in its first and last layer. Camera token, text tower and schedule are as there.

What stands on toybox-sd (views, clips) does not stand on this one yet. `read` is the share of stills whose
reconstruction the judge reads rightly by class, `read_both` by class and colour: of the true pictures that is 98.6 %.
Judges look at pictures averaged over areas to 64 pixels, so that scores compare with those of toybox-sd. The first two
rows are of `scripts/measure/autoencoder_trials.py`, which trains as the stage does; in the first row the channels were
not nested yet.
""",
    ),
    "toybox-inpaint": (
        "Inpainting model of Toybox: what it has beside its prior",
        """\
An inpainting model (2112.10752, section 4.5) that borrows toybox-sd, as `liftkit.json` says: `conv_in.safetensors` is
the first layer of its UNet, which also sees a mask and the latents of the picture without what is masked, and
`lora.safetensors` a LoRA of all other layers. It began as nothing and was trained as it ships. A quarter of the masks
covered all, the others were strokes and boxes; a tenth of the captions was dropped. As an ordinary folder of diffusers:

    Inpaint.from_pretrained("toybox-inpaint").save_pretrained("folder")

Scores are of 96 masks (boxes, strokes, halves, the object's shape) on stills that nothing was trained on, drawn by
their captions; `out25` and `out50` of pictures that are to be drawn on by 25 % and 50 % at one side. `both` is what the
judge reads of the whole result. `seam` is how steep results are across the mask's edge over how steep they are
elsewhere, `seam_of_truth` the same of the true pictures, `steeper` by how many levels of 255 they are steeper there
than these: 0 is no seam. `changed` counts bytes outside of masks. `_prior` is toybox-sd alone, which is given the
picture back after each step: so far it does better, and is the default of the commands.
""",
    ),
    "toybox-control-depth": (
        "ControlNet of Toybox: pictures by depth maps",
        """\
A ControlNetModel in diffusers' layout (2302.05543) for toybox-sd, which stays as it is. It began as a copy of the
encoder of that UNet, without the attention below the first level and half of the middle, so that it is a little over
half as large. Maps are inverse depth of the body over its largest in the picture: near is white, what is no body black.
Half of the captions were dropped.

`iou` is the overlap of the silhouette with that of the true object, of 96 maps that nothing was trained on, asked for
on a white background; a pixel is of the body where it differs from the background by a tenth. `both` is what the judge
reads. `_without` is the same prior from the same noise without the map, `_of_truth` the true picture through the
autoencoder, which no prior can better.
""",
    ),
    "toybox-control-pose": (
        "ControlNet of Toybox: the doll by its skeleton",
        """\
A ControlNetModel in diffusers' layout (2302.05543) for toybox-sd. It began as toybox-control-depth, which knew already
how a map is followed, and was trained on dolls alone: a quarter as many pictures as the table says. Maps are skeletons
of 18 joints as those of OpenPose are drawn;
joints of the face that the head turns away are left out.

No model reads poses here. Around each joint of the true picture the place within 8 pixels is sought that looks most
like it in the drawn one: `joint_error` is how far that is off, in pixels of 64, `joints_near` the share within 2.5.
Between renders of two poses it tells the true shift to half a pixel where that is up to two pixels, to one up to four,
and less than it is beyond. `clothes` is the share of hair, shirts and trousers whose colour, where they should be, is
nearest to its word. `_without` is without the map, `_of_truth` the true picture through the autoencoder.
""",
    ),
    "toybox-matting": (
        "Matting net of Toybox: where the subject of a picture is",
        """\
A small U-Net (`gen3d/data/toybox_matting.py`) that maps a picture to the opacity of its subject, at 64 pixels of the
longer side. `gen3d novel-views` and `gen3d image-to-3d` ask it with toybox-zero123, where a picture has neither
transparency nor a plain background. It learned from the pictures of the generators, flipped, zoomed, blurred, dimmed
and grainy. The scores are of subjects on grounds: intersection over union, the share of pictures in which that is above
0.9, and the mean error of opacity. Of photographs it knows nothing.
""",
    ),
    "toybox-motion": (
        "Motion modules of Toybox: text to clips",
        """\
A MotionAdapter in diffusers' layout (AnimateDiff, 2307.04725) for the UNet of toybox-sd, which stays as it is, and
`domain_adapter.safetensors`, low-rank layers in the attention of that UNet, which learned together with it (in the
first row of the table there was none, in the second it had rank 16, now 38). It learned from clips of 16 frames, 8 a
second; in four of ten the first frame, the last or both were given without noise, so that it also goes on from a
picture, and one of ten (from the fifth row on one of seven) stopped at one of its frames under a caption without a
motion. Frames shared half of the variance of the noise (2305.10474) but in the first row, and nine tenths in the fifth;
in sampling they share 95 %, as `liftkit.json` says. The noise schedule is that of toybox-sd, not the linear one of
published modules. Pairs of class and motion held out of training are in `core2d/toybox/world.py`. The scores of the
first row are by the judge of stills; those of the first five are of clips that shared in sampling what they shared in
training. Class and colour are read by the judge of frames as it was before its last training. A picture counts below as
one frame.

At the last step of the schedule enough of a clip shines through the noise to see where it goes, so words for motions
were never needed (2305.08891, 2312.07537). From the fourth row on noise hides a quarter or more of the clips, fully or
in part, and what the modules do not hear is drilled: to the text tower, which learned with pictures, left and right are
nearly one, so 22 ranks of the adapter began with the linear discriminants of motions in its tokens, and 700 steps
(counted in the fourth row) went to things that slide and hop; 700 more, in the sixth, to zooms. From there on some
clips also show their middle frame in all frames, at steps where it is still open where they go. The third row, with the
discriminants alone, changed nothing within 3,000 steps. The fifth had nine tenths of shared noise and four of ten such
clips: it moved as well and drew worse.

The seventh row holds 4,600 steps of drills: in zooms and turns, which taught nothing, and in pans, which did. After it,
the opposite word makes the error of hidden clips larger by 120 % where things slide or hop, by 57 % where they grow or
shrink, by 60 % in pans, and by less than 1 % in zooms and whatever turns: the words for those are not heard yet, and
clockwise is shown for counterclockwise as often as not. In the eighth row a drill hid nearly all of its clips: it
raised the zooms to 4 %, and after it the clips moved less as they were asked.

    UNetMotionModel.from_unet2d(unet, MotionAdapter.from_pretrained("assets/toybox-motion"))
""",
    ),
}
LIMITS = """\
They know Toybox and nothing else: words outside its grammar mean little to them, photographs nothing. Pictures are
64 pixels wide unless the card says otherwise. The class-colour pairs and motions held out of training are listed in
`core2d/toybox/world.py`.
"""


def write_card(folder: Path) -> None:
    """Write `folder`/README.md from `folder`/training.json."""
    title, about = ABOUT[folder.name]
    lines = json.loads((folder / "training.json").read_text())
    parts = [f"# {title}\n", about, "## Training\n", *_training(lines), "## Scores\n", SCORES_NOTE, *_scores(lines)]
    parts += ["## Limits\n", LIMITS]
    with atomic_path(folder / "README.md") as path:
        path.write_text("\n".join(parts))


SCORES_NOTE = """\
Of the last kept training of each stage, on the tuning seeds. The reported numbers, on other seeds, are in
`benchmarks/`.
"""


def _training(lines: list[dict]) -> Iterable[str]:
    recipes = "`core2d/bundled`, `gen3d/toybox/bundled.py` and `genvideo/toybox/bundled.py`"
    yield f"Data: Toybox v{world.VERSION}, drawn by `core2d/toybox`; recipes: {recipes}."
    yield "One row a call of `python scripts/train_bundled.py STAGE`:\n"
    yield "| stage | kept | pictures | size | steps | batch | learning rate | hours | machine |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for line in lines:
        recipe, machine = line["recipe"], line["machine"]
        hardware = f"{machine['cores']} {machine['processor']} cores" + (
            f", {machine['accelerator']}" if machine.get("accelerator") else "")  # fmt: skip
        yield (
            f"| {line['stage']} | {_kept(line)} | {line['pictures']} | {line['size']} "
            f"| {line['steps']} of {recipe['steps']} | {recipe['batch_size']} | {recipe['learning_rate']} "
            f"| {line['seconds'] / 3600:.2f} | {hardware} |"
        )
    yield ""


def _kept(line: dict) -> str:
    """What became of the weights of a call."""
    if not line["kept"]:
        return "no"
    return "yes, the mean with the weights before" if line.get("averaged") else "yes"


def _scores(lines: list[dict]) -> Iterable[str]:
    last = {line["stage"]: line["scores"] for line in lines if line["kept"]}
    yield "| stage | score | value |"
    yield "|---|---|---|"
    for stage, found in last.items():
        for name, value in found.items():
            yield f"| {stage} | {name} | {value:.4g} |"
    yield ""
