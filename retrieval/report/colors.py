"""Colours of charts: Okabe and Ito's, told apart by colour-blind readers. Whatever a colour says, another mark says too."""

BLUE, ORANGE = "#0072B2", "#D55E00"
RIGHT, WRONG, UNKNOWN = "#009E73", ORANGE, "#8A8A8A"
# On the page these two become those of the reader's theme. Not quite black, which SVG leaves unsaid.
INK, GRID = "#010101", "#e6e6e6"
