"""A drawing put into its picture without a seam, and without a pixel outside of the mask that is not the picture's.

At the mask's edge the picture and the drawing differ a little, since an autoencoder gives back no picture exactly. That
difference is spread into the mask as a membrane spans it (Perez et al. 2003, Poisson Image Editing, equation 4), here
one that a spring at each pixel pulls to zero, so that far inside the drawing's own colours stay:

    laplacian(c) = c / feather^2 in the mask,    c = picture - drawing beside it

It falls with exp(-distance / feather). Where picture and drawing show different things it blurs one into the other over
a few pixels; not to fit large differences left seams twice as steep (`core2d.bundled.inpaint_scores.seam`).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

REACH = 6.0  # feathers from the edge, beyond which the membrane, below 0.3 % there, is zero
EXACT = 1e-5  # of the right side: where the solver stops
NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def joined(pixels: np.ndarray, drawn: np.ndarray, mask: np.ndarray, feather: float) -> np.ndarray:
    """The picture with the drawing where the mask is, fitted to what is beside it.

    Args:
        pixels: uint8 (h, w, 3 or 4), the picture; outside of the mask it stays as it is. What is drawn is opaque.
        drawn: uint8 (h, w, 3).
        mask: (h, w) bool.
        feather: pixels over which the fit fades by e; 0 fits nothing.
    """
    correction = 0.0
    if feather > 0:
        difference = pixels[..., :3].astype(np.float64) - drawn  # (h, w, 3)
        if pixels.shape[2] == 4:
            difference[pixels[..., 3] < 255] = 0  # nobody sees the colour that the drawing would be fitted to
        correction = membrane(difference, mask, feather)[mask]
    result = pixels.copy()
    result[mask, :3] = np.clip(np.rint(drawn[mask] + correction), 0, 255)
    result[mask, 3:] = 255
    return result


def membrane(difference: np.ndarray, mask: np.ndarray, feather: float) -> np.ndarray:
    """(h, w, c) what spans the mask from the differences beside it; zero outside of the mask.

    The picture's own frame holds nothing: a membrane ends flat there.

    Args:
        difference: (h, w, c), read outside of the mask alone.
        mask: (h, w) bool.
        feather: pixels.
    """
    near = np.zeros_like(mask)
    if not mask.all():
        near = mask & (np.asarray(ndimage.distance_transform_edt(mask)) <= REACH * feather)
    count = np.count_nonzero(near)
    spanned = np.zeros(difference.shape)
    if not count:
        return spanned
    number = np.full(mask.shape, -1)
    number[near] = np.arange(count)
    number, outside = np.pad(number, 1, constant_values=-1), np.pad(~mask, 1)  # beyond the frame there is no pixel
    inside = np.pad(np.ones(mask.shape, bool), 1)
    told = np.pad(difference, ((1, 1), (1, 1), (0, 0)))
    here = np.nonzero(np.pad(near, 1))
    diagonal, right = np.full(count, feather**-2), np.zeros((count, difference.shape[2]))
    rows, columns = [], []
    for down, along in NEIGHBOURS:
        there = here[0] + down, here[1] + along
        diagonal += inside[there]
        right += np.where(outside[there][:, None], told[there], 0.0)
        coupled = np.flatnonzero(number[there] >= 0)
        rows.append(coupled)
        columns.append(number[there][coupled])
    row, column = np.concatenate(rows), np.concatenate(columns)
    coupling = sparse.csr_matrix((np.full(len(row), -1.0), (row, column)), (count, count))
    system = (sparse.diags(diagonal) + coupling).tocsr()
    spanned[near] = np.stack([cg(system, side, rtol=EXACT)[0] for side in right.T], axis=1)
    return spanned
