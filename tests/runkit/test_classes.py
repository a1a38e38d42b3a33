from runkit import classes


def test_every_class_but_the_background_is_in_the_foreground():
    assert classes.CLASSES[0] == "background"
    assert {0: "background", **classes.FOREGROUND} == classes.CLASSES
