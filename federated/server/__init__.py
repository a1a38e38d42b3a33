"""The server: coordinates the rounds, receives uploads, answers the sites and the operator."""
