"""Colours of charts: Okabe and Ito's, told apart by colour-blind readers. Whatever a colour says, another mark says too."""

BLUE, ORANGE = "#0072b2", "#d55e00"
RIGHT, WRONG, UNKNOWN = "#009E73", ORANGE, "#8A8A8A"
# On the page these two, and blue and orange, become those of the reader's theme. Not quite black, which SVG leaves unsaid.
INK, GRID = "#010101", "#e6e6e6"
