"""Claims, the rules that decide them, and their verdicts: rows of trainings in, verdicts out."""
