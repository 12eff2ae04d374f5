"""Toybox: a small procedural world that models are trained, run and judged on, with no download.

    from core2d.toybox.sample import clip, sample
    picture = sample(seed=0, index=7)      # RGBA, mask, depth, normal, camera, joints, mesh, caption
    film = clip(seed=0, index=7)           # 16 of them

Every sample is a pure function of (version, seed, index); `world` holds the words, the palette and what is held out.
"""
