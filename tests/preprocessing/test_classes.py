from experiments import configuration
from preprocessing import classes


def test_the_classes_are_those_that_a_network_is_trained_on():
    assert classes.CLASSES == configuration.CLASSES
    assert classes.FOREGROUND == {1: "pancreas", 2: "tumour"}
