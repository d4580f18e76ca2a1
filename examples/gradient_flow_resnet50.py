"""How the gradient flows through a ResNet-50 on two photographs, as it is and spoilt.

    python examples/gradient_flow_resnet50.py                  # 224 by 224 pixels; a minute or two to compile
    python examples/gradient_flow_resnet50.py --spoil stage_2  # its ReLUs are dead: the report finds where
    python examples/gradient_flow_resnet50.py --model resnet18 --size 64

The photographs are scikit-learn's: a temple in China and a flower. The report's large parts are printed, or with --all
every row, and it is drawn to out/gradient_flow_<model>.png: for each scope of the model the norm of the cotangent that
comes back through it, coloured by the verdict.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from train_digits import count

import functrace as ft
from functrace import nn, numpy as fnp, random

Array = Any
PyTree = Any

MODELS = {"resnet18": nn.resnet18, "resnet50": nn.resnet50}
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of ImageNet's pixels


def photographs(size: int) -> np.ndarray:
    """The two photographs and their mirror images: f32[4, size, size, 3], normalised as ImageNet's are."""
    try:
        from PIL import Image
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError(
            "scikit-learn, which brings the photographs, and pillow, which reads them, are needed: "
            f"pip install 'functrace[examples]' ({error})"
        ) from error
    made = []
    for photograph in load_sample_images().images:
        height, width = photograph.shape[:2]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = Image.fromarray(photograph[top : top + edge, left : left + edge])
        made.append(np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)) / 255)
    pixels = (np.stack(made) - MEAN) / DEVIATION
    return np.concatenate([pixels, pixels[:, :, ::-1]]).astype(np.float32)


def spoilt(params: PyTree, part: str) -> PyTree:
    """The parameters with biases of that part's batch norms so low that no ReLU after them lets anything through."""

    def changed(path: Any, leaf: Array) -> Array:
        names = [key.key for key in path]
        return leaf - 100 if part in names and names[-1] == "bias" else leaf

    return ft.tree.map_with_path(changed, params)


def main(arguments: Sequence[str] | None = None) -> ft.debug.GradientFlow:
    """Report on one step of training, print and draw."""
    parser = argparse.ArgumentParser(
        prog="gradient_flow_resnet50", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=sorted(MODELS), default="resnet50")
    add("--size", type=count, default=224, help="pixels of an edge; 224")
    add("--spoil", choices=["stem", *(f"stage_{i}" for i in range(4))], help="a part whose ReLUs are to be dead")
    add("--all", action="store_true", help="print every row")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure; out/")
    options = parser.parse_args(arguments)
    try:
        images = photographs(options.size)
    except ImportError as error:
        sys.exit(f"gradient_flow_resnet50: {error}")
    labels = np.array([0, 1, 0, 1], np.int32)
    model = MODELS[options.model]()
    params, state = ft.jit(model.init)(random.key(options.seed))
    if options.spoil:
        params = spoilt(params, options.spoil)

    def loss_of(params: PyTree, images: Array) -> Array:
        logits, _ = model.apply(params, state, images, training=True)
        return nn.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    flow = ft.debug.gradient_flow(loss_of)(params, fnp.asarray(images))
    tell(flow, options, sum(leaf.size for leaf in ft.tree.leaves(params)))
    options.out.mkdir(parents=True, exist_ok=True)
    figure = options.out / f"gradient_flow_{options.model}.png"
    try:
        flow.plot(figure)
        print(f"figure: {figure}")
    except ImportError as error:
        print(f"figure: not drawn: {error}")
    return flow


def tell(flow: ft.debug.GradientFlow, options: argparse.Namespace, size: int) -> None:
    """The report, or of a long one the scopes of the first level and that where trouble begins."""
    print(f"{options.model}, {size:,} parameters, on images of {options.size} by {options.size}")
    if options.all:
        print(flow)
        return
    print(f"{'scope':44}{'cotangent':>12}{'value':>12}{'zeros':>8}   verdict")
    for row in flow.rows:
        if row.kind == "scope" and (row.name.count("/") <= 1 or row.name == flow.begins):
            print(f"{row.name:44}{row.grad_norm:12.3e}{row.param_norm:12.3e}{row.zero_fraction:8.1%}   {row.verdict}")
    print(f"{flow.headline()}.")
    if flow.advice:
        print(flow.advice)


if __name__ == "__main__":
    main()
