"""What is compared with what, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.rewriting.variants import STRIDES, Family


@dataclass(frozen=True)
class Rewrite:
    """One row of the report.

    Attributes:
        title, where: for people.
        after, before: names of variants.
        families, strides: what it is tried on.
        same_function: outputs must be equal to rounding; else another network is computed.
        kept, why: whether the product has it.
    """

    title: str
    where: str
    after: str
    kept: str
    why: str
    before: str = "as lowered"
    families: tuple[Family, ...] = ("sampled",)
    strides: tuple[int, ...] = STRIDES
    same_function: bool = True


BOTH: tuple[Family, ...] = ("sampled", "unet")
REWRITES: tuple[Rewrite, ...] = (
    Rewrite(
        "Entropy by log and sigmoid, not Softplus",
        "uncertainty",
        "as lowered",
        "yes",
        "onnxruntime's Softplus is scalar, 9 ns a pixel; the logarithm takes a fifth of that",
        before="softplus",
        families=BOTH,
    ),
    Rewrite(
        "Finest level packed 2 x 2 into channels",
        "4 channels, full size",
        "packed",
        "candidate",
        "4 of 16 channels in a block are real, packed all of them; the transposed convolutions become plain ones and "
        "stay in the blocked layout. Half of that with blocks of 8; and the file's weights would not be the graph's",
    ),
    Rewrite(
        "Bilinear resize as two matrix products",
        "head",
        "matrix products",
        "no",
        "Resize is scalar, 1.1 ns a pixel; but with AVX2 the products take longer, and at stride 2 they are 2.4 times "
        "the work",
        families=BOTH,
        strides=(4,),
    ),
    Rewrite(
        "Pooled image as one convolution",
        "input",
        "image by convolution",
        "no",
        "hardly more than nothing",
        families=BOTH,
        strides=(4,),
    ),
    Rewrite("The three above together", "all", "together", "candidate", "they add up"),
    Rewrite(
        "Reshape behind one-channel convolutions",
        "head",
        "as lowered",
        "yes",
        "without it a channel keeps its 15 padded ones through Resize and Sigmoid",
        before="layout not ended",
        families=BOTH,
    ),
    Rewrite(
        "ReLU after each node's sum",
        "cells",
        "ReLU after sums",
        "option",
        "sum and ReLU fuse into the convolution before; another space is searched (`activation_place`)",
        same_function=False,
    ),
    Rewrite(
        "Two-channel softmax for sigmoid",
        "head",
        "softmax",
        "no",
        "a softmax over channels walks across memory, scalar",
        families=BOTH,
    ),
    Rewrite(
        "Transposed conv: conv, then depth to space",
        "Up cells",
        "subpixel",
        "no",
        "DepthToSpace moves single pixels, 1 ns each: more than the plain convolution saves",
        families=BOTH,
    ),
    Rewrite(
        "Transposed conv: repeat, mask, conv",
        "Up cells",
        "stuffed, resize",
        "no",
        "three quarters of the convolution's work are with zeros",
        families=BOTH,
    ),
    Rewrite(
        "Transposed conv: pad zeros, conv",
        "Up cells",
        "stuffed, pad",
        "no",
        "the same, and Pad moves single pixels",
        families=BOTH,
    ),
    Rewrite(
        "Head: depth to space",
        "head",
        "depth_to_space head",
        "option",
        "the entropy is computed at the image's size, 16 times the pixels",
        strides=(4,),
        same_function=False,
    ),
    Rewrite(
        "Head: transposed conv",
        "head",
        "transposed_conv head",
        "option",
        "the same",
        strides=(4,),
        same_function=False,
    ),
    Rewrite(
        "Parallel 1x1s as one and a split",
        "preprocessing, cells",
        "parallel 1x1",
        "no",
        "Split ends the blocked layout",
    ),
    Rewrite(
        "Parallel convs under 16 channels as one",
        "cells",
        "parallel, narrow",
        "no",
        "fuller blocks, but two reorders and the Split",
    ),
    Rewrite(
        "Depthwise and 1x1 as one conv, under 16 channels",
        "cells",
        "folded, narrow",
        "no",
        "in a block of 16 the depthwise kernel is as fast",
    ),
    Rewrite(
        "Depthwise and 1x1 as one conv, everywhere", "cells", "folded, all", "no", "nine times the work of the 1x1"
    ),
    Rewrite(
        "Summed 1x1s as one of a concatenation",
        "cells",
        "summed 1x1",
        "no",
        "there are such sums only with the ReLU after them",
        before="ReLU after sums",
    ),
    Rewrite(
        "Maps padded to 8 channels",
        "4 channels",
        "at least 8",
        "no",
        "the runtime pads blocks itself, but not what it reads unblocked: so much do 8 channels for 4 cost",
    ),
    Rewrite("Maps padded to 16 channels", "4 and 8 channels", "at least 16", "no", "the same with 16 for 4 and 8"),
    Rewrite(
        "Convs of a concatenation as a sum",
        "skips, quality stem",
        "no concatenation",
        "no",
        "another pass over the output costs what the copy did",
        families=BOTH,
    ),
    Rewrite("Sums of three or four by one Sum", "cells", "one sum", "no", "the runtime adds in pairs all the same"),
    Rewrite(
        "Average pooling counts the padding",
        "cells",
        "padding counted",
        "no",
        "dividing by the window's true size costs nothing",
        same_function=False,
    ),
)
