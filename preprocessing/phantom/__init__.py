"""Synthetic hospitals: their patients' anatomy and tumours, their scanners, and their cohorts."""
