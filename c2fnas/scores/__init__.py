"""Scores of masks against labels, the tumour score of a patient, and the gate fitted to it."""
