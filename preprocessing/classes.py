"""The classes of a label map. The only place in this package that lists them."""

CLASSES = {0: "background", 1: "pancreas", 2: "tumour"}  # value of a label voxel -> name
FOREGROUND = {value: name for value, name in CLASSES.items() if value > 0}
