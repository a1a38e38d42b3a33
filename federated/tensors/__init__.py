"""Named arrays: the form of a model, its files on disk, and the encodings of its bytes."""
