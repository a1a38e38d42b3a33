# Before any benchmark imports TensorFlow, which reads the settings of this package only once.
import c2fnas  # noqa: F401
