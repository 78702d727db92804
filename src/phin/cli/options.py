"""Options that several commands have, each with its help."""

from typing import Annotated

import tyro

Flag = tyro.conf.FlagCreatePairsOff[bool]
ModelName = Annotated[
    str, tyro.conf.arg(help="A model that comes with phin, the folder of a run, or a .safetensors file.")
]
Solver = Annotated[
    str | None,
    tyro.conf.arg(
        help="Solver, with its arguments if need be: dpmpp_2m, ddim(eta=0.5), heun; "
        "a wrong name lists them all."
    ),
]
Guidance = Annotated[
    float | None,
    tyro.conf.arg(help="Guidance scale: 0 is unconditional, 1 plain conditional, above it sharpens."),
]
Levels = Annotated[
    str | None,
    tyro.conf.arg(help="Schedule that places the noise levels: cosine, karras, discrete(linear), ..."),
]
Threshold = Annotated[
    str | None,
    tyro.conf.arg(help="What keeps predictions in the range of the data: clip, dynamic or none."),
]
Classifier = Annotated[
    str | None,
    tyro.conf.arg(
        help="A classifier of noisy pictures that guides to the labels, too; with --guidance 0, alone."
    ),
]
ClassifierScale = Annotated[
    float | None,
    tyro.conf.arg(
        help="Scale of the classifier's guidance, 1 by default: 1 is Bayes' rule, above it sharpens."
    ),
]
Tolerance = Annotated[
    float | None,
    tyro.conf.arg(
        help="Tolerance of the ODE between pictures and latents; None takes the solver's own steps."
    ),
]
