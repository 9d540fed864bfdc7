"""Default values that several parts share."""

# Of the recall loss: the distance of the two points of its noise, in standard deviations of a query's scores.
NOISE = 0.1
