"""The server: it leads the rounds, receives uploads, answers sites and the operator."""
