"""Scores of masks against labels: Dice, surfaces, components; the score of a patient and the gate
that is fitted to it.
"""
