"""Read data sets as annotation tools, converters and publishers write them, find their faults, and repair them."""
