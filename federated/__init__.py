"""Named arrays and rounds: a weight exchange that knows neither a network nor a scan. Never imports TensorFlow."""
